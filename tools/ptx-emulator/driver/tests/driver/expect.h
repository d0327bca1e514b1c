// What the C programs expect of the driver: what differs is printed, and counted.
#pragma once
#include <cuda.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

#define EXPECT(condition) \
    do { \
        if (!(condition)) { \
            printf("line %d: %s\n", __LINE__, #condition); \
            failures++; \
        } \
    } while (0)

#define RESULT(wanted, call) \
    do { \
        CUresult result = (call); \
        if (result != (wanted)) { \
            const char *name = "?"; \
            cuGetErrorName(result, &name); \
            printf("line %d: %s is %d (%s), not %s\n", __LINE__, #call, result, name, #wanted); \
            failures++; \
        } \
    } while (0)

#define OK(call) RESULT(CUDA_SUCCESS, call)
