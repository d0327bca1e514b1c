// A program against cuda.h as others write them: devices, a module, launches, streams, events, captured and explicit graphs, copies
// of every kind, and the errors that a driver has to give. Prints what differs, and ends with 1 then.
#include "expect.h"

enum { COUNT = 1000 };

static const char *PTX =
    ".version 8.0\n"
    ".target sm_80\n"
    ".address_size 64\n"
    ".visible .global .align 4 .f32 factor = 0f40000000;\n"
    // y[i] = a * x[i] + y[i]
    ".visible .entry axpy(.param .f32 a, .param .u64 x, .param .u64 y, .param .u32 n)\n"
    "{\n"
    "  .reg .pred %p; .reg .b32 %r<6>; .reg .f32 %f<4>; .reg .b64 %d<4>;\n"
    "  mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x;\n"
    "  mad.lo.s32 %r4, %r1, %r2, %r3;\n"
    "  ld.param.u32 %r5, [n];\n"
    "  setp.ge.u32 %p, %r4, %r5;\n"
    "  @%p ret;\n"
    "  ld.param.u64 %d1, [x]; ld.param.u64 %d2, [y];\n"
    "  mul.wide.u32 %d3, %r4, 4;\n"
    "  add.u64 %d1, %d1, %d3; add.u64 %d2, %d2, %d3;\n"
    "  ld.param.f32 %f1, [a]; ld.global.f32 %f2, [%d1]; ld.global.f32 %f3, [%d2];\n"
    "  fma.rn.f32 %f3, %f1, %f2, %f3;\n"
    "  st.global.f32 [%d2], %f3;\n"
    "  ret;\n"
    "}\n"
    // y[i] *= factor
    ".visible .entry scale(.param .u64 y)\n"
    "{\n"
    "  .reg .b32 %r<3>; .reg .f32 %f<3>; .reg .b64 %d<3>;\n"
    "  mov.u32 %r1, %tid.x; ld.param.u64 %d1, [y]; mul.wide.u32 %d2, %r1, 4; add.u64 %d1, %d1, %d2;\n"
    "  ld.global.f32 %f1, [factor]; ld.global.f32 %f2, [%d1]; mul.f32 %f2, %f1, %f2; st.global.f32 [%d1], %f2;\n"
    "  ret;\n"
    "}\n"
    // y[rank of the CTA in its cluster] += 1
    ".visible .entry ranks(.param .u64 y)\n"
    "{\n"
    "  .reg .b32 %r<3>; .reg .b64 %d<3>;\n"
    "  mov.u32 %r1, %cluster_ctarank; ld.param.u64 %d1, [y]; mul.wide.u32 %d2, %r1, 4; add.u64 %d1, %d1, %d2;\n"
    "  red.global.add.u32 [%d1], 1;\n"
    "  ret;\n"
    "}\n"
    ".visible .entry bad(.param .u64 y)\n"
    "{\n"
    "  .reg .b32 %r<2>; .reg .b64 %d<2>;\n"
    "  mov.b32 %r1, 0; ld.param.u64 %d1, [y]; st.global.b32 [%d1], %r1;\n"
    "  ret;\n"
    "}\n";

static float x[COUNT], y[COUNT];
static CUdeviceptr dx, dy;
static CUfunction axpy, scale, ranks;

static void reset(void) {
    for (int i = 0; i < COUNT; i++) {
        x[i] = (float)i;
        y[i] = 1;
    }
    OK(cuMemcpyHtoD(dx, x, sizeof x));
    OK(cuMemcpyHtoD(dy, y, sizeof y));
}

// Whether every y is a * x + b.
static int is(float a, float b) {
    OK(cuMemcpyDtoH(y, dy, sizeof y));
    for (int i = 0; i < COUNT; i++)
        if (y[i] != a * x[i] + b) {
            printf("y[%d] is %g, not %g\n", i, y[i], a * x[i] + b);
            return 0;
        }
    return 1;
}

static CUresult add(float a, CUstream stream) {
    unsigned n = COUNT;
    void *arguments[] = {&a, &dx, &dy, &n};
    return cuLaunchKernel(axpy, (COUNT + 127) / 128, 1, 1, 128, 1, 1, 0, stream, arguments, NULL);
}

static void devices(void) {
    int count = 0, value = 0, version = 0;
    char name[64];
    size_t bytes = 0;
    CUdevice device;
    OK(cuDriverGetVersion(&version));
    EXPECT(version >= 12000);
    OK(cuDeviceGetCount(&count));
    EXPECT(count == 2);
    RESULT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&device, 2));
    OK(cuDeviceGet(&device, 1));
    OK(cuDeviceGetName(name, sizeof name, device));
    EXPECT(strstr(name, "sm_90a"));
    OK(cuDeviceTotalMem(&bytes, device));
    EXPECT(bytes == (size_t)2 << 30);
    OK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device));
    EXPECT(value == 9);
    OK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, device));
    EXPECT(value == 0);
    RESULT(CUDA_ERROR_INVALID_VALUE, cuDeviceGetAttribute(&value, 100000, device));
    OK(cuDeviceCanAccessPeer(&value, 0, 1));
    EXPECT(value == 1);
    char bus[32];
    OK(cuDeviceGetPCIBusId(bus, sizeof bus, 1));
    OK(cuDeviceGetByPCIBusId(&device, bus));
    EXPECT(device == 1);
}

static void contexts(CUcontext first) {
    CUcontext second, found;
    CUdevice device;
    OK(cuCtxCreate(&second, NULL, 0, 1));
    OK(cuCtxGetDevice(&device));
    EXPECT(device == 1);
    OK(cuCtxEnablePeerAccess(first, 0));
    RESULT(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, cuCtxEnablePeerAccess(first, 0));
    CUdeviceptr there;
    OK(cuMemAlloc(&there, sizeof y));
    int ordinal = -1;
    OK(cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, there));
    EXPECT(ordinal == 1);
    OK(cuMemcpyPeer(there, second, dx, first, sizeof x));
    OK(cuMemcpyDtoH(y, there, sizeof y));
    EXPECT(y[7] == 7);
    OK(cuMemFree(there));
    RESULT(CUDA_ERROR_INVALID_VALUE, cuMemFree(there));
    OK(cuCtxPopCurrent(&found));
    EXPECT(found == second);
    OK(cuCtxGetCurrent(&found));
    EXPECT(found == first);
    OK(cuCtxDestroy(second));
    RESULT(CUDA_ERROR_INVALID_CONTEXT, cuCtxSetCurrent(second));
}

static void modules(void) {
    CUmodule module, other;
    char log[256] = "";
    CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {log, (void *)sizeof log};
    RESULT(CUDA_ERROR_INVALID_PTX, cuModuleLoadDataEx(&module, ".version 8.0\n.target sm_80\nmistake;\n", 2, options, values));
    EXPECT(strstr(log, "module:3"));
    RESULT(CUDA_ERROR_INVALID_IMAGE, cuModuleLoadData(&module, "\177ELF\2\1\1"));
    RESULT(CUDA_ERROR_NO_BINARY_FOR_GPU, cuModuleLoadData(&module, ".version 8.6\n.target sm_100a\n.address_size 64\n"));
    OK(cuModuleLoadData(&module, PTX));
    RESULT(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&axpy, module, "nothing"));
    OK(cuModuleGetFunction(&axpy, module, "axpy"));
    OK(cuModuleGetFunction(&scale, module, "scale"));
    OK(cuModuleGetFunction(&ranks, module, "ranks"));
    const char *name;
    OK(cuFuncGetName(&name, axpy));
    EXPECT(!strcmp(name, "axpy"));
    size_t offset, size;
    OK(cuFuncGetParamInfo(axpy, 3, &offset, &size));
    EXPECT(offset == 24 && size == 4);
    RESULT(CUDA_ERROR_INVALID_VALUE, cuFuncGetParamInfo(axpy, 4, &offset, &size));
    int blocks = 0, threads = 0;
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, axpy, 1024, 0));
    EXPECT(blocks == 2);
    OK(cuOccupancyMaxPotentialBlockSize(&blocks, &threads, axpy, NULL, 0, 0));
    EXPECT(threads == 1024 && blocks == 2 * 132);

    CUlinkState linker;
    void *image;
    OK(cuLinkCreate(0, NULL, NULL, &linker));
    OK(cuLinkAddData(linker, CU_JIT_INPUT_PTX, (void *)PTX, strlen(PTX) + 1, "axpy", 0, NULL, NULL));
    OK(cuLinkComplete(linker, &image, &size));
    OK(cuModuleLoadData(&other, image));
    OK(cuLinkDestroy(linker));
    CUdeviceptr factor;
    float value = 0;
    OK(cuModuleGetGlobal(&factor, &size, other, "factor"));
    EXPECT(size == 4);
    OK(cuMemcpyDtoH(&value, factor, 4));
    EXPECT(value == 2);
    OK(cuModuleUnload(other));
    RESULT(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(&value, factor, 4));

    CUlibrary library;
    CUkernel kernel;
    CUfunction function;
    OK(cuLibraryLoadData(&library, PTX, NULL, NULL, 0, NULL, NULL, 0));
    OK(cuLibraryGetKernel(&kernel, library, "scale"));
    OK(cuKernelGetFunction(&function, kernel));
    reset();
    void *arguments[] = {&dy};
    OK(cuLaunchKernel(function, 1, 1, 1, COUNT, 1, 1, 0, NULL, arguments, NULL));
    EXPECT(is(0, 2));
    OK(cuLibraryUnload(library));
}

static void launches(void) {
    reset();
    OK(add(3, NULL));
    EXPECT(is(3, 1));
    // The parameters in one buffer, as others pass them.
    struct {
        float a;
        CUdeviceptr x, y;
        unsigned n;
    } packed = {1, dx, dy, COUNT};
    size_t size = sizeof packed;
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &size, CU_LAUNCH_PARAM_END};
    OK(cuLaunchKernel(axpy, 8, 1, 1, 128, 1, 1, 0, NULL, NULL, extra));
    EXPECT(is(4, 1));

    void *arguments[] = {&dy};
    RESULT(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(scale, 1, 1, 1, 2048, 1, 1, 0, NULL, arguments, NULL));
    RESULT(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(scale, 0, 1, 1, 32, 1, 1, 0, NULL, arguments, NULL));
    RESULT(CUDA_ERROR_INVALID_HANDLE, cuLaunchKernel((CUfunction)12345, 1, 1, 1, 32, 1, 1, 0, NULL, arguments, NULL));
    // More shared memory than a block has without asking.
    RESULT(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(scale, 1, 1, 1, 32, 1, 1, 100 << 10, NULL, arguments, NULL));
    RESULT(CUDA_ERROR_INVALID_VALUE, cuFuncSetAttribute(scale, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 300 << 10));
    OK(cuFuncSetAttribute(scale, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 100 << 10));
    OK(cuLaunchKernel(scale, 1, 1, 1, COUNT, 1, 1, 100 << 10, NULL, arguments, NULL));
    EXPECT(is(8, 2));

    // Clusters, by an attribute of the launch.
    unsigned counts[4];
    OK(cuMemsetD32(dy, 0, 4));
    CUlaunchAttribute attribute = {.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, .value.clusterDim = {4, 1, 1}};
    CUlaunchConfig config = {12, 1, 1, 1, 1, 1, 0, NULL, &attribute, 1};
    OK(cuLaunchKernelEx(&config, ranks, arguments, NULL));
    OK(cuMemcpyDtoH(counts, dy, sizeof counts));
    EXPECT(counts[0] == 3 && counts[1] == 3 && counts[2] == 3 && counts[3] == 3);
    int clusters = 0;
    OK(cuOccupancyMaxActiveClusters(&clusters, ranks, &config));
    EXPECT(clusters > 0);
    attribute.value.clusterDim.x = 16;
    config.gridDimX = 16;
    RESULT(CUDA_ERROR_INVALID_CLUSTER_SIZE, cuLaunchKernelEx(&config, ranks, arguments, NULL));
    OK(cuFuncSetAttribute(ranks, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1));
    OK(cuLaunchKernelEx(&config, ranks, arguments, NULL));
    OK(cuLaunchCooperativeKernel(ranks, 132, 1, 1, 1024, 1, 1, 0, NULL, arguments));
    RESULT(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, cuLaunchCooperativeKernel(ranks, 265, 1, 1, 1024, 1, 1, 0, NULL, arguments));
}

static void copies(void) {
    // Rows of a pitched allocation, there and back.
    CUdeviceptr rows;
    size_t pitch;
    OK(cuMemAllocPitch(&rows, &pitch, 40, 25, 4));
    EXPECT(pitch % 256 == 0);
    reset();
    CUDA_MEMCPY2D copy = {.srcMemoryType = CU_MEMORYTYPE_HOST, .srcHost = x, .srcPitch = 40, .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                          .dstDevice = rows, .dstPitch = pitch, .WidthInBytes = 40, .Height = 25};
    OK(cuMemcpy2D(&copy));
    float part[5][4];
    CUDA_MEMCPY2D back = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = rows, .srcPitch = pitch, .srcXInBytes = 8, .srcY = 3,
                          .dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = part, .dstPitch = 16, .WidthInBytes = 16, .Height = 5};
    OK(cuMemcpy2DAsync(&back, NULL));
    EXPECT(part[0][0] == 32 && part[4][3] == 75);
    back.Height = 30;
    RESULT(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D(&back));
    CUDA_MEMCPY3D box = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = dx, .srcPitch = 40, .srcHeight = 5, .srcZ = 1, .srcY = 1,
                         .dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = part, .dstPitch = 8, .dstHeight = 2, .WidthInBytes = 8,
                         .Height = 2, .Depth = 3};
    OK(cuMemcpy3D(&box));
    EXPECT(((float *)part)[0] == 60 && ((float *)part)[2] == 70 && ((float *)part)[11] == 171);
    OK(cuMemsetD2D32(rows, pitch, 0x3f800000, 3, 25));
    float ones[4];
    OK(cuMemcpyDtoH(ones, rows + 24 * pitch, sizeof ones));
    EXPECT(ones[0] == 1 && ones[2] == 1 && ones[3] == 243);
    RESULT(CUDA_ERROR_INVALID_VALUE, cuMemsetD8(rows, 0, 26 * pitch));
    OK(cuMemFree(rows));

    // Memory of the host that kernels reach.
    float *pinned, *managed;
    CUdeviceptr address;
    OK(cuMemHostAlloc((void **)&pinned, sizeof x, CU_MEMHOSTALLOC_DEVICEMAP));
    OK(cuMemHostGetDevicePointer(&address, pinned, 0));
    for (int i = 0; i < COUNT; i++) pinned[i] = 5;
    void *arguments[] = {&address};
    OK(cuLaunchKernel(scale, 1, 1, 1, COUNT, 1, 1, 0, NULL, arguments, NULL));
    EXPECT(pinned[999] == 10);
    OK(cuMemFreeHost(pinned));
    OK(cuMemAllocManaged(&address, sizeof x, CU_MEM_ATTACH_GLOBAL));
    managed = (float *)address;
    for (int i = 0; i < COUNT; i++) managed[i] = 7;
    OK(cuLaunchKernel(scale, 1, 1, 1, COUNT, 1, 1, 0, NULL, arguments, NULL));
    EXPECT(managed[0] == 14);
    OK(cuMemFree(address));
    static float own[COUNT];
    OK(cuMemHostRegister(own, sizeof own, 0));
    RESULT(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, cuMemHostRegister(own + 10, 16, 0));
    OK(cuMemcpy((CUdeviceptr)own, dx, sizeof own));
    EXPECT(own[500] == 500);
    OK(cuMemHostUnregister(own));
    RESULT(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, cuMemHostUnregister(own));

    size_t free_before, free_after, total;
    OK(cuMemGetInfo(&free_before, &total));
    CUdeviceptr large;
    OK(cuMemAlloc(&large, 1 << 30));
    OK(cuMemGetInfo(&free_after, &total));
    EXPECT(free_before - free_after == 1 << 30);
    CUdeviceptr larger;
    RESULT(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&larger, (size_t)3 << 30));
    OK(cuMemFree(large));
}

static void count_call(void *data) { ++*(int *)data; }

static void streams_and_events(void) {
    CUstream first, second;
    CUevent start, middle, end;
    int calls = 0;
    OK(cuStreamCreate(&first, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreateWithPriority(&second, CU_STREAM_NON_BLOCKING, -1));
    OK(cuEventCreate(&start, CU_EVENT_DEFAULT));
    OK(cuEventCreate(&middle, CU_EVENT_DISABLE_TIMING));
    OK(cuEventCreate(&end, CU_EVENT_DEFAULT));
    reset();
    OK(cuEventRecord(start, first));
    OK(add(1, first));
    OK(cuEventRecord(middle, first));
    OK(cuStreamWaitEvent(second, middle, 0));
    OK(add(2, second));
    OK(cuLaunchHostFunc(second, count_call, &calls));
    OK(cuEventRecord(end, second));
    OK(cuEventSynchronize(end));
    OK(cuStreamSynchronize(second));
    OK(cuStreamQuery(first));
    EXPECT(calls == 1);
    EXPECT(is(3, 1));
    float milliseconds = -1;
    OK(cuEventElapsedTime(&milliseconds, start, end));
    EXPECT(milliseconds >= 0);
    RESULT(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&milliseconds, start, middle));
    OK(cuStreamWriteValue32(first, dy, 17, 0));
    OK(cuStreamWaitValue32(second, dy, 17, CU_STREAM_WAIT_VALUE_EQ));
    OK(cuEventDestroy(middle));
    RESULT(CUDA_ERROR_INVALID_HANDLE, cuEventRecord(middle, first));
    OK(cuStreamDestroy(second));
    RESULT(CUDA_ERROR_INVALID_HANDLE, add(1, second));

    // A capture that forks to another stream and joins it again.
    OK(cuStreamCreate(&second, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&middle, CU_EVENT_DISABLE_TIMING));
    CUgraph graph;
    CUgraphExec executable;
    CUstreamCaptureStatus status;
    size_t nodes = 0;
    reset();
    OK(cuStreamBeginCapture(first, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(add(1, first));
    OK(cuEventRecord(middle, first));
    OK(cuStreamWaitEvent(second, middle, 0));
    OK(cuStreamIsCapturing(second, &status));
    EXPECT(status == CU_STREAM_CAPTURE_STATUS_ACTIVE);
    OK(cuLaunchHostFunc(second, count_call, &calls));
    OK(cuEventRecord(middle, second));
    OK(cuMemsetD8Async(dx, 0, 4, first));
    OK(cuStreamWaitEvent(first, middle, 0));
    OK(cuLaunchHostFunc(first, count_call, &calls));
    OK(cuStreamEndCapture(first, &graph));
    OK(cuStreamIsCapturing(second, &status));
    EXPECT(status == CU_STREAM_CAPTURE_STATUS_NONE);
    EXPECT(calls == 1);
    EXPECT(is(0, 1));
    OK(cuGraphGetNodes(graph, NULL, &nodes));
    EXPECT(nodes == 4);
    OK(cuGraphGetEdges(graph, NULL, NULL, NULL, &nodes));
    EXPECT(nodes == 4);
    OK(cuGraphInstantiate(&executable, graph, 0));
    OK(cuGraphLaunch(executable, first));
    OK(cuGraphLaunch(executable, first));
    EXPECT(calls == 5);
    EXPECT(is(2, 1));
    OK(cuGraphExecDestroy(executable));
    OK(cuGraphDestroy(graph));
    RESULT(CUDA_ERROR_INVALID_HANDLE, cuGraphLaunch(executable, first));

    // Captures that may not be.
    OK(cuStreamBeginCapture(first, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(add(1, first));
    RESULT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamSynchronize(first));
    RESULT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(first, &graph));
    OK(cuStreamBeginCapture(first, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuEventRecord(middle, first));
    OK(cuStreamWaitEvent(second, middle, 0));
    OK(add(1, second));
    RESULT(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, cuStreamEndCapture(second, &graph));
    RESULT(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, cuStreamEndCapture(first, &graph));
    EXPECT(graph == NULL);
    RESULT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamBeginCapture(NULL, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuStreamDestroy(first));
    OK(cuStreamDestroy(second));
}

static void graphs(void) {
    CUgraph graph, clone, child;
    CUgraphNode launch, copy, set, host, nested, found;
    CUgraphExec executable;
    CUcontext context;
    CUgraphNodeType type;
    float a = 2;
    unsigned n = COUNT;
    int calls = 0;
    void *arguments[] = {&a, &dx, &dy, &n};
    OK(cuCtxGetCurrent(&context));
    reset();
    OK(cuGraphCreate(&graph, 0));
    CUDA_MEMSET_NODE_PARAMS zero = {.dst = dy, .value = 0, .elementSize = 4, .width = COUNT, .height = 1};
    OK(cuGraphAddMemsetNode(&set, graph, NULL, 0, &zero, context));
    CUDA_KERNEL_NODE_PARAMS kernel = {.func = axpy, .gridDimX = 8, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 128, .blockDimY = 1,
                                      .blockDimZ = 1, .kernelParams = arguments};
    OK(cuGraphAddKernelNode(&launch, graph, &set, 1, &kernel));
    CUDA_MEMCPY3D back = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = dy, .dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = y,
                          .WidthInBytes = sizeof y, .Height = 1, .Depth = 1};
    OK(cuGraphAddMemcpyNode(&copy, graph, &launch, 1, &back, context));
    CUDA_HOST_NODE_PARAMS call = {.fn = count_call, .userData = &calls};
    OK(cuGraphAddHostNode(&host, graph, NULL, 0, &call));
    OK(cuGraphAddDependencies(graph, &copy, &host, NULL, 1));
    RESULT(CUDA_ERROR_INVALID_VALUE, cuGraphAddDependencies(graph, &copy, &host, NULL, 1));
    OK(cuGraphNodeGetType(copy, &type));
    EXPECT(type == CU_GRAPH_NODE_TYPE_MEMCPY);
    // The parameters were taken when the node was added.
    a = 100;
    OK(cuGraphInstantiate(&executable, graph, 0));
    OK(cuGraphLaunch(executable, NULL));
    EXPECT(calls == 1 && y[10] == 20);

    CUDA_KERNEL_NODE_PARAMS asked;
    OK(cuGraphKernelNodeGetParams(launch, &asked));
    EXPECT(asked.func == axpy && asked.gridDimX == 8 && *(float *)asked.kernelParams[0] == 2);
    a = 3;
    OK(cuGraphExecKernelNodeSetParams(executable, launch, &kernel));
    OK(cuGraphLaunch(executable, NULL));
    EXPECT(y[10] == 30);
    OK(cuGraphNodeSetEnabled(executable, set, 0));
    OK(cuGraphLaunch(executable, NULL));
    EXPECT(y[10] == 60);

    // A clone with another launch, taken over.
    OK(cuGraphClone(&clone, graph));
    OK(cuGraphNodeFindInClone(&found, launch, clone));
    a = 4;
    OK(cuGraphKernelNodeSetParams(found, &kernel));
    CUgraphExecUpdateResultInfo info;
    OK(cuGraphExecUpdate(executable, clone, &info));
    OK(cuGraphNodeSetEnabled(executable, set, 1));
    OK(cuGraphLaunch(executable, NULL));
    EXPECT(y[10] == 40);
    OK(cuGraphDestroyNode(found));
    RESULT(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, cuGraphExecUpdate(executable, clone, &info));
    EXPECT(info.result == CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
    OK(cuGraphExecDestroy(executable));

    // A graph in a graph, and a cycle.
    OK(cuGraphCreate(&child, 0));
    OK(cuGraphAddChildGraphNode(&nested, child, NULL, 0, graph));
    OK(cuGraphInstantiate(&executable, child, 0));
    calls = 0;
    OK(cuGraphLaunch(executable, NULL));
    EXPECT(calls == 1 && y[10] == 20);
    OK(cuGraphAddDependencies(graph, &copy, &set, NULL, 1));
    CUgraphExec cyclic;
    RESULT(CUDA_ERROR_INVALID_VALUE, cuGraphInstantiate(&cyclic, graph, 0));
    OK(cuGraphExecDestroy(executable));
    OK(cuGraphDestroy(child));
    OK(cuGraphDestroy(clone));
    OK(cuGraphDestroy(graph));
}

static void entry_points(void) {
    CUresult (*elapsed)(float *, CUevent, CUevent);
    void *early, *late;
    CUdriverProcAddressQueryResult status;
    OK(cuGetProcAddress("cuCtxCreate", &early, 11000, CU_GET_PROC_ADDRESS_DEFAULT, NULL));
    OK(cuGetProcAddress("cuCtxCreate", &late, 13000, CU_GET_PROC_ADDRESS_DEFAULT, &status));
    EXPECT(early != late && status == CU_GET_PROC_ADDRESS_SUCCESS);
    OK(cuGetProcAddress("cuEventElapsedTime", (void **)&elapsed, 12000, CU_GET_PROC_ADDRESS_DEFAULT, NULL));
    RESULT(CUDA_ERROR_NOT_FOUND, cuGetProcAddress("cuNothing", &late, 13000, CU_GET_PROC_ADDRESS_DEFAULT, &status));
    EXPECT(status == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    RESULT(CUDA_ERROR_NOT_FOUND, cuGetProcAddress("cuGraphAddNode", &late, 11000, CU_GET_PROC_ADDRESS_DEFAULT, &status));
    EXPECT(status == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    // What is not there says so.
    CUarray array;
    CUDA_ARRAY_DESCRIPTOR description = {4, 4, CU_AD_FORMAT_FLOAT, 1};
    RESULT(CUDA_ERROR_NOT_SUPPORTED, cuArrayCreate(&array, &description));
    RESULT(CUDA_ERROR_NOT_SUPPORTED, cuArrayCreate(&array, &description));
}

// Last, because a kernel that fails leaves nothing usable.
static void faults(CUmodule module) {
    CUfunction bad;
    OK(cuModuleGetFunction(&bad, module, "bad"));
    CUdeviceptr nowhere = dy + sizeof y + 4;
    void *arguments[] = {&nowhere};
    CUresult launched = cuLaunchKernel(bad, 1, 1, 1, 1, 1, 1, 0, NULL, arguments, NULL);
    EXPECT(launched == CUDA_SUCCESS || launched == CUDA_ERROR_ILLEGAL_ADDRESS);
    RESULT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
    RESULT(CUDA_ERROR_ILLEGAL_ADDRESS, add(1, NULL));
    OK(cuDevicePrimaryCtxReset(0));
    OK(cuCtxSynchronize());
}

int main(void) {
    CUcontext context;
    CUmodule module;
    int count;
    RESULT(CUDA_ERROR_NOT_INITIALIZED, cuDeviceGetCount(&count));
    OK(cuInit(0));
    RESULT(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc(&dx, sizeof x));
    devices();
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    OK(cuMemAlloc(&dx, sizeof x));
    OK(cuMemAlloc(&dy, sizeof y));
    reset();
    contexts(context);
    modules();
    launches();
    copies();
    streams_and_events();
    graphs();
    entry_points();
    OK(cuModuleLoadData(&module, PTX));
    faults(module);
    if (failures == 0) printf("all is as it should be\n");
    return failures != 0;
}
