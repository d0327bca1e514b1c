// Streams whose kernels wait for each other, what the legacy stream waits for, and launches that ask for too much. Prints what differs,
// and ends with 1 then. With an argument it ends with a kernel that nothing lets go on.
#include "expect.h"

static const char *PTX =
    ".version 8.0\n"
    ".target sm_90a\n"
    ".address_size 64\n"
    // Waits until *flag is `awaited`, then sets it to `next`; `times` times, two more each time.
    ".visible .entry turns(.param .u64 flag, .param .u32 awaited, .param .u32 next, .param .u32 times)\n"
    "{\n"
    "  .reg .pred %p<2>; .reg .b32 %r<5>; .reg .b64 %d1;\n"
    "  ld.param.u64 %d1, [flag]; ld.param.u32 %r1, [awaited]; ld.param.u32 %r2, [next]; ld.param.u32 %r3, [times];\n"
    "AGAIN:\n"
    "  ld.acquire.sys.global.u32 %r4, [%d1]; setp.ne.u32 %p0, %r4, %r1;\n"
    "  @%p0 nanosleep.u32 100;\n"
    "  @%p0 bra AGAIN;\n"
    "  st.release.sys.global.u32 [%d1], %r2;\n"
    "  add.u32 %r1, %r1, 2; add.u32 %r2, %r2, 2; sub.u32 %r3, %r3, 1; setp.ne.u32 %p1, %r3, 0;\n"
    "  @%p1 bra AGAIN;\n"
    "  ret;\n"
    "}\n"
    // The same once, and without a rest.
    ".visible .entry spin(.param .u64 flag, .param .u32 awaited, .param .u32 next)\n"
    "{\n"
    "  .reg .pred %p<2>; .reg .b32 %r<5>; .reg .b64 %d1;\n"
    "  ld.param.u64 %d1, [flag]; ld.param.u32 %r1, [awaited]; ld.param.u32 %r2, [next];\n"
    "AGAIN:\n"
    "  ld.volatile.global.u32 %r4, [%d1]; setp.ne.u32 %p0, %r4, %r1;\n"
    "  @%p0 bra AGAIN;\n"
    "  st.volatile.global.u32 [%d1], %r2;\n"
    "  ret;\n"
    "}\n"
    ".visible .entry many_registers() .maxnreg 128 { ret; }\n"
    ".visible .entry few_threads() .maxntid 128 { ret; }\n"
    ".visible .entry these_threads() .reqntid 64 { ret; }\n"
    ".visible .entry this_cluster() .reqntid 64 .reqnctapercluster 2 { ret; }\n";

static CUmodule module;
static CUdeviceptr flag;

static CUfunction function(const char *name) {
    CUfunction found;
    OK(cuModuleGetFunction(&found, module, name));
    return found;
}

static CUresult turns(CUstream stream, unsigned awaited, unsigned next, unsigned times) {
    void *arguments[] = {&flag, &awaited, &next, &times};
    return cuLaunchKernel(function("turns"), 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL);
}

static CUresult spin(CUstream stream, unsigned awaited, unsigned next) {
    void *arguments[] = {&flag, &awaited, &next};
    return cuLaunchKernel(function("spin"), 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL);
}

static unsigned now(CUstream stream) {
    static unsigned *value;
    if (!value) OK(cuMemAllocHost((void **)&value, sizeof *value));
    OK(cuMemcpyDtoHAsync(value, flag, sizeof *value, stream));
    OK(cuStreamSynchronize(stream));
    return *value;
}

static void set(CUstream stream, unsigned value) {
    OK(cuMemsetD32Async(flag, value, 1, stream));
}

static unsigned called = 0;

static void host(void *data) {
    called = called * 10 + *(unsigned *)data;
}

static void callback(CUstream stream, CUresult status, void *data) {
    EXPECT(status == CUDA_SUCCESS);
    host(data);
}

static void kernels_that_wait_for_each_other(void) {
    CUstream first, second;
    OK(cuStreamCreate(&first, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&second, CU_STREAM_NON_BLOCKING));
    set(second, 0);

    // Back and forth, ten times.
    OK(turns(first, 1, 2, 10));
    RESULT(CUDA_ERROR_NOT_READY, cuStreamQuery(first));
    OK(cuStreamQuery(second));
    OK(turns(second, 0, 1, 10));
    OK(cuStreamSynchronize(second));
    OK(cuStreamSynchronize(first));
    EXPECT(now(second) == 20);

    // By a write of the program in another stream.
    set(second, 0);
    OK(spin(first, 7, 8));
    RESULT(CUDA_ERROR_NOT_READY, cuStreamQuery(first));
    unsigned seven = 7;
    OK(cuMemcpyHtoDAsync(flag, &seven, sizeof seven, second));
    OK(cuStreamSynchronize(first));
    EXPECT(now(second) == 8);
    OK(turns(first, 9, 10, 1));
    OK(cuStreamWriteValue32(second, flag, 9, 0));
    OK(cuStreamSynchronize(first));
    EXPECT(now(first) == 10);

    // A stream that waits for a word.
    OK(cuStreamWaitValue32(first, flag, 20, CU_STREAM_WAIT_VALUE_EQ));
    OK(turns(first, 20, 21, 1));
    RESULT(CUDA_ERROR_NOT_READY, cuStreamQuery(first));
    set(second, 20);
    OK(cuCtxSynchronize());
    EXPECT(now(first) == 21);

    // Calls of the program come in the order of the stream.
    static unsigned one = 1, two = 2, three = 3;
    set(second, 0);
    OK(cuLaunchHostFunc(first, host, &one));
    OK(turns(first, 1, 2, 1));
    OK(cuLaunchHostFunc(first, host, &two));
    OK(cuStreamAddCallback(first, callback, &three, 0));
    EXPECT(called == 1);
    set(second, 1);
    OK(cuStreamSynchronize(first));
    EXPECT(called == 123);
    OK(cuStreamDestroy(first));
    OK(cuStreamDestroy(second));
}

static void events(void) {
    CUstream first, second, third;
    OK(cuStreamCreate(&first, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&second, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&third, CU_STREAM_NON_BLOCKING));
    CUevent before, after;
    OK(cuEventCreate(&before, CU_EVENT_DEFAULT));
    OK(cuEventCreate(&after, CU_EVENT_DEFAULT));
    set(first, 0);
    OK(cuEventRecord(before, first));
    OK(turns(first, 1, 2, 1));
    OK(cuEventRecord(after, first));
    OK(cuEventQuery(before));
    RESULT(CUDA_ERROR_NOT_READY, cuEventQuery(after));
    float milliseconds;
    RESULT(CUDA_ERROR_NOT_READY, cuEventElapsedTime(&milliseconds, before, after));
    // What comes after the event waits for it, though its own stream has nothing else to do.
    OK(cuStreamWaitEvent(second, after, 0));
    set(second, 5);
    RESULT(CUDA_ERROR_NOT_READY, cuStreamQuery(second));
    EXPECT(now(third) == 0);
    set(third, 1);
    OK(cuEventSynchronize(after));
    OK(cuStreamSynchronize(second));
    EXPECT(now(third) == 5);
    OK(cuEventElapsedTime(&milliseconds, before, after));
    EXPECT(milliseconds >= 0);
    // An event that was not recorded does not hold anybody.
    CUevent never;
    OK(cuEventCreate(&never, CU_EVENT_DEFAULT));
    OK(cuStreamWaitEvent(second, never, 0));
    OK(cuStreamQuery(second));
    OK(cuStreamDestroy(first));
    OK(cuStreamDestroy(second));
    OK(cuStreamDestroy(third));
}

static void the_legacy_stream(void) {
    CUstream blocking, other, aside;
    OK(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    OK(cuStreamCreate(&other, CU_STREAM_DEFAULT));
    OK(cuStreamCreate(&aside, CU_STREAM_NON_BLOCKING));
    set(aside, 0);
    OK(turns(blocking, 1, 2, 1));
    // It waits for the stream before, and another stream waits for it.
    set(NULL, 6);
    OK(turns(other, 6, 7, 1));
    RESULT(CUDA_ERROR_NOT_READY, cuStreamQuery(NULL));
    RESULT(CUDA_ERROR_NOT_READY, cuStreamQuery(other));
    EXPECT(now(aside) == 0);
    set(aside, 1);
    OK(cuStreamSynchronize(other));
    EXPECT(now(aside) == 7);

    // Blocking streams do not wait for each other, and one that does not block waits for nothing.
    OK(turns(NULL, 8, 9, 1));
    set(aside, 8);
    OK(cuStreamSynchronize(NULL));
    OK(turns(blocking, 20, 21, 1));
    set(other, 20);
    OK(cuCtxSynchronize());
    unsigned value;
    OK(cuMemcpyDtoH(&value, flag, sizeof value));
    EXPECT(value == 21);
    OK(cuStreamDestroy(blocking));
    OK(cuStreamDestroy(other));
    OK(cuStreamDestroy(aside));
}

static CUresult launch(const char *name, unsigned blocks, unsigned threads, unsigned shared) {
    return cuLaunchKernel(function(name), blocks, 1, 1, threads, 1, 1, shared, NULL, NULL, NULL);
}

static CUresult launch_with(const char *name, unsigned blocks, CUlaunchAttribute attribute) {
    CUlaunchConfig config = {blocks, 1, 1, 64, 1, 1, 0, NULL, &attribute, 1};
    return cuLaunchKernelEx(&config, function(name), NULL, NULL);
}

static void limits(void) {
    OK(launch("many_registers", 1, 512, 0));
    RESULT(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, launch("many_registers", 1, 1024, 0));
    OK(launch("few_threads", 1, 128, 0));
    RESULT(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, launch("few_threads", 1, 129, 0));
    RESULT(CUDA_ERROR_INVALID_VALUE, launch("few_threads", 1, 1025, 0));
    OK(launch("these_threads", 1, 64, 0));
    RESULT(CUDA_ERROR_INVALID_VALUE, launch("these_threads", 1, 32, 0));
    RESULT(CUDA_ERROR_INVALID_VALUE, launch("these_threads", 0, 64, 0));

    // Dynamic shared memory beyond 48 KB has to be asked for, and is up to what the chip has.
    OK(launch("these_threads", 1, 64, 48 << 10));
    RESULT(CUDA_ERROR_INVALID_VALUE, launch("these_threads", 1, 64, (48 << 10) + 1));
    OK(cuFuncSetAttribute(function("these_threads"), CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 64 << 10));
    OK(launch("these_threads", 1, 64, 64 << 10));
    RESULT(CUDA_ERROR_INVALID_VALUE, launch("these_threads", 1, 64, (64 << 10) + 1));
    RESULT(CUDA_ERROR_INVALID_VALUE,
           cuFuncSetAttribute(function("these_threads"), CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 228 << 10));

    CUlaunchAttribute cluster = {.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, .value.clusterDim = {8, 1, 1}};
    OK(launch_with("these_threads", 8, cluster));
    RESULT(CUDA_ERROR_INVALID_VALUE, launch_with("these_threads", 12, cluster));
    cluster.value.clusterDim.x = 9;
    RESULT(CUDA_ERROR_INVALID_CLUSTER_SIZE, launch_with("these_threads", 9, cluster));
    cluster.value.clusterDim.x = 4;
    RESULT(CUDA_ERROR_INVALID_VALUE, launch_with("this_cluster", 4, cluster));
    OK(launch("this_cluster", 4, 64, 0));

    // All CTAs of a cooperative launch are there at once: 132 multiprocessors of 2048 threads and 32 CTAs.
    CUlaunchAttribute cooperative = {.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE, .value.cooperative = 1};
    OK(launch_with("these_threads", 132 * 32, cooperative));
    RESULT(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, launch_with("these_threads", 132 * 32 + 1, cooperative));
}

int main(int count, char **arguments) {
    CUdevice device;
    CUcontext context;
    OK(cuInit(0));
    OK(cuDeviceGet(&device, 0));
    OK(cuDevicePrimaryCtxRetain(&context, device));
    OK(cuCtxSetCurrent(context));
    OK(cuModuleLoadData(&module, PTX));
    OK(cuMemAlloc(&flag, sizeof(unsigned)));
    OK(cuMemsetD32(flag, 0, 1));
    limits();
    kernels_that_wait_for_each_other();
    events();
    the_legacy_stream();
    if (count > 1) {
        // A launch does not say so: another stream could still come.
        CUstream stream;
        OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
        OK(turns(stream, 77, 78, 1));
        RESULT(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
        RESULT(CUDA_ERROR_LAUNCH_TIMEOUT, cuStreamSynchronize(stream));
        RESULT(CUDA_ERROR_LAUNCH_TIMEOUT, cuCtxSynchronize());
        // A reset clears the error, and forgets what waits; a loop without a rest is a deadlock too.
        OK(cuDevicePrimaryCtxReset(device));
        OK(turns(stream, 77, 78, 1));
        RESULT(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
        OK(cuDevicePrimaryCtxReset(device));
        OK(cuStreamQuery(stream));
        OK(cuCtxSynchronize());
        OK(spin(stream, 77, 78));
        RESULT(CUDA_ERROR_LAUNCH_TIMEOUT, cuStreamSynchronize(stream));
    }
    return failures != 0;
}
