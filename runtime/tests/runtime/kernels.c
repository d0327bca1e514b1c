// Kernels by hand, in the host calling convention: arguments and the grid in 8-byte slots, a range of programs, scratch memory.
#include <stdint.h>
#include <string.h>

typedef const uint64_t *slots;

static float float_argument(uint64_t slot) {
    float value;
    memcpy(&value, &slot, sizeof value);
    return value;
}

// y[t, :] = scale * x[t, :] + w, one program a row. Arguments: x, w, y, width, scale.
void scale_add(slots a, uint64_t begin, uint64_t end, uint8_t *scratch) {
    const float *x = (const float *)a[0], *w = (const float *)a[1];
    float *y = (float *)a[2];
    int64_t width = (int64_t)a[3];
    float scale = float_argument(a[4]);
    for (uint64_t row = begin; row < end; row++)
        for (int64_t i = 0; i < width; i++) y[row * width + i] = scale * x[row * width + i] + w[i];
}

// y[T, N] = x[T, K] * w[N, K]^T; program (n, t) computes one element. Arguments: x, w, y, K. The grid's x is N.
// Each element is accumulated in scratch memory, to show that every thread has its own.
void matmul(slots a, uint64_t begin, uint64_t end, uint8_t *scratch) {
    const float *x = (const float *)a[0], *w = (const float *)a[1];
    float *y = (float *)a[2];
    uint64_t depth = a[3], columns = a[4];
    volatile float *sum = (volatile float *)(scratch + 4096);
    for (uint64_t program = begin; program < end; program++) {
        uint64_t n = program % columns, t = program / columns;
        *sum = 0;
        for (uint64_t k = 0; k < depth; k++) *sum += x[t * depth + k] * w[n * depth + k];
        y[t * columns + n] = *sum;
    }
}

// cache[pages[t], 0] += x[t], and y[t] = its new value; one program. Arguments: cache, pages, x, y, T.
void accumulate(slots a, uint64_t begin, uint64_t end, uint8_t *scratch) {
    float *cache = (float *)a[0];
    const int32_t *pages = (const int32_t *)a[1];
    const float *x = (const float *)a[2];
    float *y = (float *)a[3];
    for (uint64_t t = 0; t < a[4]; t++) y[t] = cache[pages[t]] += x[t];
}

// y[grid position] += 1: counts how often each program runs. Argument: y.
void count(slots a, uint64_t begin, uint64_t end, uint8_t *scratch) {
    for (uint64_t program = begin; program < end; program++) ((int32_t *)a[0])[program] += 1;
}

// Does nothing. Argument: any buffer.
void nothing(slots a, uint64_t begin, uint64_t end, uint8_t *scratch) {}
