/* What the C API promises, looked at from C. Arguments: a model y[T, 10] = f(x[T, 24]), its weights, a file that is no artifact, and a
 * model with a key-value cache. Prints y for x = 0, 1, 2, … with T = 2. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tessera.h"

#define REQUIRE(condition)                                                                                  \
    do {                                                                                                    \
        if (!(condition)) {                                                                                 \
            fprintf(stderr, "line %d: " #condition " does not hold; %s\n", __LINE__, tessera_error());     \
            exit(1);                                                                                        \
        }                                                                                                   \
    } while (0)

/* A call fails with a status, and its message has a part. */
#define REFUSED(call, expected, part)                \
    do {                                             \
        REQUIRE((call) == (expected));               \
        REQUIRE(strstr(tessera_error(), part));      \
    } while (0)

static void models(const char *path, const char *weights, const char *other) {
    tessera_model *model = NULL;
    REFUSED(tessera_model_open(NULL, NULL, weights, "host", &model), TESSERA_ERROR_ARGUMENT, "artifact is NULL");
    REFUSED(tessera_model_open(path, NULL, weights, "host", NULL), TESSERA_ERROR_ARGUMENT, "model is NULL");
    REFUSED(tessera_model_open("\xff", NULL, weights, "host", &model), TESSERA_ERROR_ARGUMENT, "not UTF-8");
    REFUSED(tessera_model_open("absent.tsr", NULL, weights, "host", &model), TESSERA_ERROR_ARTIFACT, "absent.tsr: No such file");
    REFUSED(tessera_model_open(other, NULL, weights, "host", &model), TESSERA_ERROR_ARTIFACT, "not a Tessera artifact");
    REFUSED(tessera_model_open(path, NULL, "absent", "host", &model), TESSERA_ERROR_WEIGHTS, "absent: No such file");
    REFUSED(tessera_model_open(path, "absent", weights, "host", &model), TESSERA_ERROR_ARTIFACT, "no function `absent`; it has main");
    REFUSED(tessera_model_open(path, NULL, NULL, "host", &model), TESSERA_ERROR_WEIGHTS, "no tensor `bias`");
    REFUSED(tessera_model_open(path, NULL, weights, "gpu", &model), TESSERA_ERROR_DEVICE, "`gpu` is not a device");
    REQUIRE(model == NULL);
    tessera_model_close(NULL);
    REQUIRE(tessera_model_inputs(NULL) == 0 && tessera_model_input_name(NULL, 0) == NULL);
}

static tessera_tensor input(const float *x, uint64_t rows, uint64_t columns) {
    return (tessera_tensor){.name = "x", .data = x, .element = TESSERA_F32, .rank = 2, .shape = {rows, columns}};
}

static void runs(const char *path, const char *weights) {
    tessera_model *model;
    tessera_session *session;
    REQUIRE(tessera_model_open(path, "main", weights, "host", &model) == TESSERA_OK);
    REQUIRE(tessera_model_inputs(model) == 1 && !strcmp(tessera_model_input_name(model, 0), "x"));
    REQUIRE(tessera_model_outputs(model) == 1 && !strcmp(tessera_model_output_name(model, 0), "y"));
    REQUIRE(tessera_model_caches(model) == 0 && tessera_model_cache_name(model, 0) == NULL);
    REQUIRE(tessera_session_open(model, &session) == TESSERA_OK);
    tessera_model_close(model);

    float x[48];
    for (int i = 0; i < 48; i++) x[i] = (float)i;
    tessera_tensor good = input(x, 2, 24), bad, y;
    REFUSED(tessera_session_output(session, 0, &y), TESSERA_ERROR_ARGUMENT, "has not run");
    REQUIRE(tessera_session_run(session, &good, 1, NULL, 0) == TESSERA_OK);
    REQUIRE(tessera_session_output(session, 0, &y) == TESSERA_OK);
    REQUIRE(!strcmp(y.name, "y") && y.element == TESSERA_F32 && y.rank == 2 && y.shape[0] == 2 && y.shape[1] == 10);
    for (int i = 0; i < 20; i++) printf("%g\n", ((const float *)y.data)[i]);
    REFUSED(tessera_session_output(session, 1, &y), TESSERA_ERROR_INPUT, "no output `1`; it takes y");

    REFUSED(tessera_session_run(session, NULL, 1, NULL, 0), TESSERA_ERROR_ARGUMENT, "inputs is NULL");
    REFUSED(tessera_session_run(session, NULL, 0, NULL, 0), TESSERA_ERROR_INPUT, "input `x` is missing");
    bad = input(x, 4, 12);
    REFUSED(tessera_session_run(session, &bad, 1, NULL, 0), TESSERA_ERROR_INPUT, "f32[T, 24]");
    bad = input(NULL, 2, 24);
    REFUSED(tessera_session_run(session, &bad, 1, NULL, 0), TESSERA_ERROR_ARGUMENT, "data of an input is NULL");
    bad = input(x, UINT64_MAX, 24);
    REFUSED(tessera_session_run(session, &bad, 1, NULL, 0), TESSERA_ERROR_ARGUMENT, "too large");
    bad = good, bad.rank = 9;
    REFUSED(tessera_session_run(session, &bad, 1, NULL, 0), TESSERA_ERROR_ARGUMENT, "9 dimensions");
    bad = good, bad.element = (tessera_element)99;
    REFUSED(tessera_session_run(session, &bad, 1, NULL, 0), TESSERA_ERROR_ARGUMENT, "99 is no element type");
    bad = good, bad.element = TESSERA_I32;
    REFUSED(tessera_session_run(session, &bad, 1, NULL, 0), TESSERA_ERROR_INPUT, "input `x` is i32[2, 24]");
    REFUSED(tessera_session_output(session, 0, &y), TESSERA_ERROR_ARGUMENT, "its last run failed");
    tessera_session_close(session);
    tessera_session_close(NULL);
}

static void caches(const char *path) {
    tessera_model *model;
    tessera_session *session;
    tessera_cache *cache = NULL;
    tessera_pages *pages;
    uint32_t first, second, shared;
    int32_t position, entries[8];
    uint64_t columns;
    REQUIRE(tessera_model_open(path, NULL, NULL, "host", &model) == TESSERA_OK);
    REQUIRE(tessera_session_open(model, &session) == TESSERA_OK);
    REFUSED(tessera_cache_open(model, "kv", 4, &cache), TESSERA_ERROR_INPUT, "no cache `kv`; it takes cache");
    REFUSED(tessera_cache_open(model, "cache", UINT64_MAX, &cache), TESSERA_ERROR_INPUT, "does not fit 64 bits");
    REQUIRE(cache == NULL && tessera_cache_open(model, "cache", 4, &cache) == TESSERA_OK);
    REQUIRE(tessera_cache_pages(cache) == 4 && tessera_cache_page_size(cache) == 4 && tessera_cache_window(cache) == 0);
    REQUIRE(!strcmp(tessera_model_page_table_name(model, 0), "page_table") && !tessera_model_page_table_name(model, 1));

    tessera_cache_argument twice[] = {{"cache", cache}, {"cache", cache}};
    REFUSED(tessera_session_run(session, NULL, 0, twice, 2), TESSERA_ERROR_ARGUMENT, "a cache is passed twice");

    REQUIRE(tessera_pages_open(&cache, 1, &pages) == TESSERA_OK && tessera_pages_free(pages, 0) == 4);
    REQUIRE(tessera_sequence_open(pages, &first) == TESSERA_OK);
    REQUIRE(tessera_sequence_append(pages, first, 9, &position) == TESSERA_OK && position == 0);
    REQUIRE(tessera_sequence_append(pages, first, 1, &position) == TESSERA_OK && position == 9);
    REFUSED(tessera_sequence_append(pages, first, 8, &position), TESSERA_ERROR_FULL, "KV cache 0 is full: 2 pages are needed and 1");
    REQUIRE(tessera_sequence_share(pages, first, 7, &second, &shared) == TESSERA_OK && shared == 4);
    uint32_t both[] = {second, first};
    REFUSED(tessera_pages_table(pages, 0, both, 2, NULL, 0, &columns), TESSERA_ERROR_ARGUMENT, "6 entries, there is room for 0");
    REQUIRE(columns == 3 && tessera_pages_table(pages, 0, both, 2, entries, 8, &columns) == TESSERA_OK);
    REQUIRE(!memcmp(entries, (int32_t[]){0, -1, -1, 0, 1, 2}, 6 * sizeof *entries));
    REFUSED(tessera_pages_table(pages, 1, both, 2, entries, 8, &columns), TESSERA_ERROR_ARGUMENT, "no KV cache 1; there are 1");
    REQUIRE(tessera_sequence_rewind(pages, first, 9, &shared) == TESSERA_OK && shared == 9);
    REFUSED(tessera_sequence_rewind(pages, first, 10, &shared), TESSERA_ERROR_ARGUMENT, "a sequence of 9 tokens has no first 10");
    REQUIRE(tessera_sequence_close(pages, first) == TESSERA_OK && tessera_pages_free(pages, 0) == 3);
    REFUSED(tessera_sequence_close(pages, first), TESSERA_ERROR_ARGUMENT, "no open sequence 0");
    tessera_pages_close(pages);
    tessera_cache_close(cache);
    tessera_session_close(session);
    tessera_model_close(model);
}

int main(int argc, char **argv) {
    REQUIRE(argc == 5 && !strcmp(tessera_error(), "") && strlen(tessera_version()) > 0);
    models(argv[1], argv[2], argv[3]);
    runs(argv[1], argv[2]);
    caches(argv[4]);
    return 0;
}
