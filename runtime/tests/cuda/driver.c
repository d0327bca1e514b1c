// A CUDA driver with no GPU behind it, for testing what the runtime asks of a driver.
//
// Device memory is host memory. The text of a module is not PTX: a kernel is the C function of its name below, which runs at
// once. While a stream is captured, launches are recorded instead, with their parameters, and run when the graph is launched. What
// a real driver would refuse, or the runtime must not do, is refused here too.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int status;
enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_FOUND = 500, INVALID_PTX = 218, NO_CONTEXT = 201, ILLEGAL_STATE = 401, NOT_SUPPORTED = 801 };

typedef void (*kernel)(const uint32_t *grid, void **parameters);

// y[t, :] = scale * x[t, :] + w
static void scale_add(const uint32_t *grid, void **p) {
    const float *x = *(float **)p[0], *w = *(float **)p[1];
    float *y = *(float **)p[2], scale = *(float *)p[4];
    int32_t width = *(int32_t *)p[3];
    for (uint32_t row = 0; row < grid[0]; row++)
        for (int32_t i = 0; i < width; i++) y[row * width + i] = scale * x[row * width + i] + w[i];
}

// y[T, N] = x[T, K] * w[N, K]^T
static void matmul(const uint32_t *grid, void **p) {
    const float *x = *(float **)p[0], *w = *(float **)p[1];
    float *y = *(float **)p[2];
    int32_t depth = *(int32_t *)p[3];
    for (uint32_t t = 0; t < grid[1]; t++)
        for (uint32_t n = 0; n < grid[0]; n++) {
            float sum = 0;
            for (int32_t k = 0; k < depth; k++) sum += x[t * depth + k] * w[n * depth + k];
            y[t * grid[0] + n] = sum;
        }
}

struct function {
    const char *name;
    kernel run;
    int parameters;
    uint32_t shared_allowed;
};

static struct function functions[] = {{"scale_add", scale_add, 5, 49152}, {"matmul", matmul, 4, 49152}};

struct launch {
    struct function *function;
    uint32_t grid[3];
    uint64_t parameters[8];
};

struct graph {
    int count;
    struct launch launches[64];
};

// What has happened, for the test to look at: allocations alive, kernels launched singly, graphs launched, modules loaded.
int64_t driver_counts[4];

static __thread void *current;
static struct graph *capturing;
static const char *chip = "sm_80";
static int started;

int ptx_emulator_select_chip(const char *name) {
    if (strcmp(name, "sm_80") && strcmp(name, "sm_90a")) return 1;
    if (started && strcmp(name, chip)) return 2;
    chip = strdup(name);
    return 0;
}

status cuInit(unsigned flags) { return started = 1, SUCCESS; }
status cuGetErrorName(status s, const char **name) {
    return *name = s == INVALID_PTX ? "CUDA_ERROR_INVALID_PTX" : "CUDA_ERROR_OTHER", SUCCESS;
}
status cuGetErrorString(status s, const char **text) { return *text = "as the test's driver says", SUCCESS; }
status cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
status cuDeviceGet(int *device, int ordinal) { return *device = ordinal, SUCCESS; }
status cuDeviceGetName(char *name, int size, int device) { return snprintf(name, size, "Test GPU"), SUCCESS; }
status cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 75: *value = strcmp(chip, "sm_80") ? 9 : 8; break;  // compute capability, major
    case 76: *value = 0; break;                              // minor
    case 97: *value = 166912; break;                         // shared memory of a block, on request
    case 115: *value = 1; break;                             // memory pools
    default: *value = 0;
    }
    return SUCCESS;
}
status cuDevicePrimaryCtxRetain(void **context, int device) { return *context = &started, SUCCESS; }
status cuDevicePrimaryCtxRelease_v2(int device) { return SUCCESS; }
status cuCtxSetCurrent(void *context) { return current = context, SUCCESS; }
status cuCtxGetCurrent(void **context) { return *context = current, SUCCESS; }
status cuDeviceGetDefaultMemPool(void **pool, int device) { return *pool = &started, SUCCESS; }
status cuMemPoolSetAttribute(void *pool, int attribute, void *value) { return SUCCESS; }

status cuStreamCreate(void **stream, unsigned flags) { return *stream = &current, SUCCESS; }
status cuStreamSynchronize(void *stream) { return capturing ? ILLEGAL_STATE : SUCCESS; }
status cuStreamDestroy_v2(void *stream) { return SUCCESS; }

status cuMemAllocAsync(uint64_t *address, size_t bytes, void *stream) {
    if (!current || capturing) return current ? ILLEGAL_STATE : NO_CONTEXT;
    void *memory = malloc(bytes);
    memset(memory, 0xcd, bytes);
    driver_counts[0]++;
    return *address = (uint64_t)memory, SUCCESS;
}
status cuMemFreeAsync(uint64_t address, void *stream) { return free((void *)address), driver_counts[0]--, SUCCESS; }
status cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, void *stream) {
    return memset((void *)address, value, bytes), SUCCESS;
}
status cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    return memcpy((void *)to, from, bytes), SUCCESS;
}
status cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    return memcpy(to, (void *)from, bytes), SUCCESS;
}

status cuModuleLoadDataEx(void **module, const char *image, unsigned count, const int *options, void **values) {
    if (strstr(image, "mistake")) {
        for (unsigned i = 0; i < count; i++)
            if (options[i] == 5) strcpy(values[i], "line 1: unknown instruction `mistake`\n");
        return INVALID_PTX;
    }
    driver_counts[3]++;
    return *module = strdup(image), SUCCESS;
}
status cuModuleUnload(void *module) { return free(module), driver_counts[3]--, SUCCESS; }
status cuModuleGetFunction(void **function, void *module, const char *name) {
    for (int i = 0; i < 2; i++)
        if (!strcmp(functions[i].name, name)) return *function = &functions[i], SUCCESS;
    return NOT_FOUND;
}
status cuFuncSetAttribute(struct function *function, int attribute, int value) {
    if (attribute == 8) function->shared_allowed = value;
    return SUCCESS;
}

static void run(const struct launch *launch) {
    void *parameters[8];
    for (int i = 0; i < 8; i++) parameters[i] = (void *)&launch->parameters[i];
    launch->function->run(launch->grid, parameters);
}

status cuLaunchKernel(struct function *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned one, unsigned also_one,
                      unsigned shared, void *stream, void **parameters, void **extra) {
    if (!current) return NO_CONTEXT;
    if (!x || !y || !z || threads != 128 || one != 1 || also_one != 1 || shared > function->shared_allowed) return INVALID_VALUE;
    struct launch launch = {function, {x, y, z}, {0}};
    for (int i = 0; i < function->parameters; i++) launch.parameters[i] = *(uint64_t *)parameters[i];
    if (capturing)
        capturing->launches[capturing->count++] = launch;
    else
        run(&launch), driver_counts[1]++;
    return SUCCESS;
}

status cuStreamBeginCapture_v2(void *stream, int mode) {
    if (getenv("TEST_DRIVER_WITHOUT_GRAPHS")) return NOT_SUPPORTED;
    return capturing ? ILLEGAL_STATE : (capturing = calloc(1, sizeof(struct graph)), SUCCESS);
}
status cuStreamEndCapture(void *stream, void **graph) { return *graph = capturing, capturing = NULL, SUCCESS; }
status cuGraphInstantiateWithFlags(void **executable, struct graph *graph, unsigned long long flags) {
    *executable = malloc(sizeof *graph);
    return memcpy(*executable, graph, sizeof *graph), SUCCESS;
}
status cuGraphLaunch(struct graph *graph, void *stream) {
    for (int i = 0; i < graph->count; i++) run(&graph->launches[i]);
    return driver_counts[2]++, SUCCESS;
}
status cuGraphExecDestroy(void *executable) { return free(executable), SUCCESS; }
status cuGraphDestroy(void *graph) { return free(graph), SUCCESS; }

status cuEventCreate(void **event, unsigned flags) { return *event = &current, SUCCESS; }
status cuEventRecord(void *event, void *stream) { return SUCCESS; }
status cuEventSynchronize(void *event) { return SUCCESS; }
status cuEventElapsedTime(float *milliseconds, void *start, void *end) { return *milliseconds = 0.25f, SUCCESS; }
status cuEventElapsedTime_v2(float *milliseconds, void *start, void *end) { return *milliseconds = 0.25f, SUCCESS; }
status cuEventDestroy_v2(void *event) { return SUCCESS; }
