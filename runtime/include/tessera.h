/*
 * Tessera: run compiled models from C.
 *
 * A model is an artifact (model.tsr, made by `tesserac compile`) with its weights on a device. A session runs it on named arrays.
 * Models that generate text take key-value caches besides, one for each kind of attention among their layers, and for each a page table
 * that says which of its pages belong to which sequence.
 *
 *     tessera_model *model;
 *     tessera_session *session;
 *     if (tessera_model_open("model.tsr", NULL, "model.safetensors", "host", &model) != TESSERA_OK ||
 *         tessera_session_open(model, &session) != TESSERA_OK) {
 *         fprintf(stderr, "%s\n", tessera_error());
 *         return 1;
 *     }
 *
 * Every function that can fail returns a tessera_status, and leaves what it was to give untouched when it fails; tessera_error() then says
 * what was wrong. No function is called with a null pointer unless its comment allows it: that is TESSERA_ERROR_ARGUMENT.
 *
 * Threads: a model may be used by many threads at once. A session, a cache and a page allocator are used by one thread at a
 * time. Whatever was made from a model stays valid when the model is closed.
 *
 * `cargo build --release -p tessera-capi` makes target/release/libtessera.so and libtessera.a; link with -ltessera. See runtime/examples/generate.c for a whole program.
 */
#ifndef TESSERA_H
#define TESSERA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What became of a call. */
typedef enum tessera_status {
    TESSERA_OK = 0,
    /* A null pointer, text that is not UTF-8, an unknown name, an array that is too small. */
    TESSERA_ERROR_ARGUMENT = 1,
    /* The artifact cannot be read, is damaged, is of another version, or is for another machine. */
    TESSERA_ERROR_ARTIFACT = 2,
    /* The weights cannot be read or do not fit the model. */
    TESSERA_ERROR_WEIGHTS = 3,
    /* There is no such device, or it failed. */
    TESSERA_ERROR_DEVICE = 4,
    /* The inputs or caches do not fit the function. */
    TESSERA_ERROR_INPUT = 5,
    /* The key-value cache is full. */
    TESSERA_ERROR_FULL = 6,
    /* A mistake of Tessera's own. */
    TESSERA_ERROR_INTERNAL = 7
} tessera_status;

/* Types of elements. */
typedef enum tessera_element {
    TESSERA_F64 = 0,
    TESSERA_F32 = 1,
    TESSERA_F16 = 2,
    TESSERA_BF16 = 3,
    TESSERA_FP8_E4M3 = 4,
    TESSERA_FP8_E5M2 = 5,
    TESSERA_FP6_E2M3 = 6,
    TESSERA_FP6_E3M2 = 7,
    TESSERA_FP4_E2M1 = 8,
    TESSERA_MXFP4 = 9,
    TESSERA_NVFP4 = 10,
    TESSERA_I8 = 11,
    TESSERA_I16 = 12,
    TESSERA_I32 = 13,
    TESSERA_I64 = 14,
    TESSERA_U8 = 15,
    TESSERA_U32 = 16,
    TESSERA_BOOL = 17
} tessera_element;

/* More dimensions than this no tensor has here. */
#define TESSERA_MAXIMUM_RANK 8

/* A dense row-major array under a name. Its memory belongs to whoever made it. */
typedef struct tessera_tensor {
    const char *name;
    const void *data;
    tessera_element element;
    uint32_t rank;
    uint64_t shape[TESSERA_MAXIMUM_RANK]; /* outermost first; the first `rank` count */
} tessera_tensor;

typedef struct tessera_model tessera_model;
typedef struct tessera_session tessera_session;
typedef struct tessera_cache tessera_cache;
typedef struct tessera_pages tessera_pages;

/* A cache under the name of the function's argument that takes it. */
typedef struct tessera_cache_argument {
    const char *name;
    tessera_cache *cache;
} tessera_cache_argument;

/* What went wrong in the last call of this thread that failed. The text lasts until the thread's next call into Tessera. Empty where
 * nothing has. */
const char *tessera_error(void);

/* The version of this library, for example "0.1.0". */
const char *tessera_version(void);

/* ---- Models -------------------------------------------------------------------------------------------------------------- */

/* Loads a function of an artifact and binds its weights on a device. `function` is its name; NULL means the first. `weights` is a safetensors file, an index of several, or a folder with
 * model.safetensors or model.safetensors.index.json; NULL where the model has no weights. `device` is "host", "cuda:0", … */
tessera_status tessera_model_open(const char *artifact, const char *function, const char *weights, const char *device,
                                  tessera_model **model);

/* Releases a model; NULL is allowed. */
void tessera_model_close(tessera_model *model);

/* How many inputs, outputs and caches the model's function has. */
size_t tessera_model_inputs(const tessera_model *model);
size_t tessera_model_outputs(const tessera_model *model);
size_t tessera_model_caches(const tessera_model *model);

/* The name of an input, output or cache, counted from 0; NULL beyond the last. It lasts as long as the model. */
const char *tessera_model_input_name(const tessera_model *model, size_t index);
const char *tessera_model_output_name(const tessera_model *model, size_t index);
const char *tessera_model_cache_name(const tessera_model *model, size_t index);

/* The name of the input that is the page table of a cache, counted from 0; NULL where no input is. It lasts as long as the model. */
const char *tessera_model_page_table_name(const tessera_model *model, size_t cache);

/* ---- Sessions ------------------------------------------------------------------------------------------------------------ */

/* Makes a session, which runs the model and keeps temporary memory from one run to the next. */
tessera_status tessera_session_open(const tessera_model *model, tessera_session **session);

/* Releases a session and its outputs; NULL is allowed. */
void tessera_session_close(tessera_session *session);

/* Runs the function on its inputs and caches, in any order, and waits for it. The data of the inputs is used in place. `caches` may be
 * NULL where `cache_count` is 0, and `inputs` likewise. */
tessera_status tessera_session_run(tessera_session *session, const tessera_tensor *inputs, size_t input_count,
                                   const tessera_cache_argument *caches, size_t cache_count);

/* Describes an output of the last run, counted from 0. Its name lasts as long as the session, its data until the session runs again. */
tessera_status tessera_session_output(const tessera_session *session, size_t index, tessera_tensor *output);

/* ---- Key-value caches ---------------------------------------------------------------------------------------------------- */

/* Makes a cache of `pages` pages for the model's cache argument of that name. */
tessera_status tessera_cache_open(const tessera_model *model, const char *name, uint64_t pages, tessera_cache **cache);

/* Releases a cache; NULL is allowed. */
void tessera_cache_close(tessera_cache *cache);

/* How many pages a cache has, and how many tokens fit a page. */
uint64_t tessera_cache_pages(const tessera_cache *cache);
uint64_t tessera_cache_page_size(const tessera_cache *cache);

/* How many keys a token sees in a cache that keeps a window only, its own the last; 0 for one that keeps everything. */
uint64_t tessera_cache_window(const tessera_cache *cache);

/* ---- Pages: which page belongs to which sequence ------------------------------------------------------------------------- */

/* Makes an allocator of the pages of a model's caches, all free. A sequence has pages in each of them; in a cache that keeps a window only, it
 * gives them up as it grows. */
tessera_status tessera_pages_open(tessera_cache *const *caches, size_t cache_count, tessera_pages **pages);

/* Releases an allocator; NULL is allowed. The cache is not touched. */
void tessera_pages_close(tessera_pages *pages);

/* How many pages of a cache, counted from 0, are free. */
uint32_t tessera_pages_free(const tessera_pages *pages, size_t cache);

/* Starts an empty sequence. */
tessera_status tessera_sequence_open(tessera_pages *pages, uint32_t *sequence);

/* Ends a sequence and frees its pages. */
tessera_status tessera_sequence_close(tessera_pages *pages, uint32_t sequence);

/* Makes room for `tokens` more tokens, which one step feeds; their positions are *first, *first + 1, … TESSERA_ERROR_FULL where there are not enough pages. */
tessera_status tessera_sequence_append(tessera_pages *pages, uint32_t sequence, size_t tokens, int32_t *first);

/* Starts a sequence that shares the whole pages among the first `tokens` tokens of another. *shared says how many tokens that is: none
 * where the window before them has been given up. */
tessera_status tessera_sequence_share(tessera_pages *pages, uint32_t sequence, uint32_t tokens, uint32_t *shared_sequence,
                                      uint32_t *shared);

/* Takes a sequence back to its first `tokens` tokens, to go on differently from there. *kept says how many of them stay: none where the
 * window before them has been given up. */
tessera_status tessera_sequence_rewind(tessera_pages *pages, uint32_t sequence, uint32_t tokens, uint32_t *kept);

/* Writes the page table of some sequences in a cache, a row of *columns pages for each, -1 where there is none, into `entries`, which has room for `capacity` numbers. Where
 * that is too few (or `entries` is NULL and `capacity` 0, to ask) it fails with TESSERA_ERROR_ARGUMENT, but sets *columns. */
tessera_status tessera_pages_table(const tessera_pages *pages, size_t cache, const uint32_t *sequences, size_t sequence_count,
                                   int32_t *entries, size_t capacity, uint64_t *columns);

#ifdef __cplusplus
}
#endif

#endif
