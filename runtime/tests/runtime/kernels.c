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

// A serving step of a model that is easy to follow: the likeliest next token is the sum of the sequence's tokens so far, modulo the
// vocabulary. The sums are taken from the cache, where the keys of layer 0 hold the tokens. One program.
// Arguments: tokens, positions, sequences, page_table, rows, cache, logits, T, P, R, V, page size.
void step(slots a, uint64_t begin, uint64_t end, uint8_t *scratch) {
    const int32_t *tokens = (const int32_t *)a[0], *positions = (const int32_t *)a[1], *sequences = (const int32_t *)a[2];
    const int32_t *table = (const int32_t *)a[3], *rows = (const int32_t *)a[4];
    float *keys = (float *)a[5], *logits = (float *)a[6];
    uint64_t T = a[7], P = a[8], R = a[9], V = a[10], page_size = a[11];
    for (uint64_t t = 0; t < T; t++) {
        int32_t page = table[sequences[t] * P + positions[t] / page_size];
        keys[page * page_size + positions[t] % page_size] = tokens[t];
    }
    for (uint64_t r = 0; r < R; r++) {
        uint64_t sum = 0, t = rows[r];
        for (int32_t position = 0; position <= positions[t]; position++) {
            int32_t page = table[sequences[t] * P + position / page_size];
            sum += keys[page * page_size + position % page_size];
        }
        for (uint64_t v = 0; v < V; v++) logits[r * V + v] = v == sum % V ? 1 : 0;
    }
}
