// CUDA's own conversions and arithmetic of narrow formats, as its headers do them on the host.
//
// Reads records of three 32-bit words (a, b, c) from standard input, and writes for each, as 32-bit words, what `RESULTS` lists in
// numbers.rs, in its order.
#include <cstdint>
#include <cstdio>
#include <cstring>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp4.h>
#include <cuda_fp6.h>
#include <cuda_fp8.h>

static float single(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

static uint32_t bits(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    return word;
}

static __half half_of(uint32_t word) {
    __half_raw raw;
    raw.x = static_cast<unsigned short>(word);
    return raw;
}

static __nv_bfloat16 brain_of(uint32_t word) {
    __nv_bfloat16_raw raw;
    raw.x = static_cast<unsigned short>(word);
    return raw;
}

static uint32_t bits(__half value) { return static_cast<__half_raw>(value).x; }
static uint32_t bits(__nv_bfloat16 value) { return static_cast<__nv_bfloat16_raw>(value).x; }

static void put(uint32_t word) { std::fwrite(&word, 4, 1, stdout); }

int main() {
    uint32_t record[3];
    while (std::fread(record, 4, 3, stdin) == 3) {
        float x = single(record[0]);
        put(__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3));
        put(__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E5M2));
        put(__nv_cvt_float_to_fp6(x, __NV_E2M3, cudaRoundNearest));
        put(__nv_cvt_float_to_fp6(x, __NV_E3M2, cudaRoundNearest));
        put(__nv_cvt_float_to_fp4(x, __NV_E2M1, cudaRoundNearest));
        put(__nv_cvt_float_to_e8m0(x, __NV_SATFINITE, cudaRoundZero));
        put(__nv_cvt_float_to_e8m0(x, __NV_SATFINITE, cudaRoundPosInf));
        put(bits(__float2half_rn(x)));
        put(bits(__float2half_rz(x)));
        put(bits(__float2bfloat16_rn(x)));
        put(bits(__float2bfloat16_rz(x)));
        // The low bits of the first word as each of the narrow formats.
        uint32_t code = record[0] & 0xff;
        put(bits(__half2float(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3))));
        put(bits(__half2float(__nv_cvt_fp8_to_halfraw(code, __NV_E5M2))));
        put(bits(__half2float(__nv_cvt_fp6_to_halfraw(code & 0x3f, __NV_E2M3))));
        put(bits(__half2float(__nv_cvt_fp6_to_halfraw(code & 0x3f, __NV_E3M2))));
        put(bits(__half2float(__nv_cvt_fp4_to_halfraw(code & 0xf, __NV_E2M1))));
        put(bits(__bfloat162float(__nv_cvt_e8m0_to_bf16raw(code))));
        put(bits(__half2float(half_of(record[0]))));
        put(bits(__bfloat162float(brain_of(record[0]))));
        __half_raw h = half_of(record[0]);
        put(__nv_cvt_halfraw_to_fp8(h, __NV_SATFINITE, __NV_E4M3));
        put(__nv_cvt_halfraw_to_fp8(h, __NV_SATFINITE, __NV_E5M2));
        __half a = half_of(record[0]), b = half_of(record[1]), c = half_of(record[2]);
        put(bits(__hadd(a, b)));
        put(bits(__hsub(a, b)));
        put(bits(__hmul(a, b)));
        put(bits(__hmin(a, b)));
        put(bits(__hmax(a, b)));
        __nv_bfloat16 p = brain_of(record[0]), q = brain_of(record[1]), r = brain_of(record[2]);
        put(bits(__hadd(p, q)));
        put(bits(__hsub(p, q)));
        put(bits(__hmul(p, q)));
        put(bits(__hmin(p, q)));
        put(bits(__hmax(p, q)));
    }
    return 0;
}
