/*
 * Greedy generation with a compiled serving step, token ids in and out:
 *
 *     cc generate.c -ltessera -o generate
 *     ./generate model.tsr model.safetensors host 16 15 302 7
 *
 * prints the 16 token ids that follow 15 302 7.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tessera.h"

/* Ends the program where a call has failed. */
static void check(tessera_status status) {
    if (status != TESSERA_OK) {
        fprintf(stderr, "generate: %s\n", tessera_error());
        exit(1);
    }
}

static tessera_tensor vector(const char *name, const int32_t *values, size_t count) {
    return (tessera_tensor){.name = name, .data = values, .element = TESSERA_I32, .rank = 1, .shape = {count}};
}

int main(int argc, char **argv) {
    if (argc < 6) {
        fprintf(stderr, "usage: generate MODEL.tsr WEIGHTS DEVICE COUNT PROMPT_ID...\n");
        return 2;
    }
    tessera_model *model;
    tessera_session *session;
    tessera_pages *pages;
    uint32_t sequence;
    check(tessera_model_open(argv[1], NULL, argv[2], argv[3], &model));
    check(tessera_session_open(model, &session));
    /* A model has a cache, with a page table, for each kind of attention among its layers. */
    size_t cache_count = tessera_model_caches(model);
    tessera_cache **memory = calloc(cache_count, sizeof *memory);
    tessera_cache_argument *caches = calloc(cache_count, sizeof *caches);
    for (size_t i = 0; i < cache_count; i++) {
        caches[i].name = tessera_model_cache_name(model, i);
        check(tessera_cache_open(model, caches[i].name, 256, &memory[i]));
        caches[i].cache = memory[i];
    }
    check(tessera_pages_open(memory, cache_count, &pages));
    check(tessera_sequence_open(pages, &sequence));

    /* The first step takes the whole prompt, each later one the token that the step before has chosen. */
    size_t count = argc - 5;
    int32_t *tokens = malloc(count * sizeof *tokens), *positions = malloc(count * sizeof *positions);
    int32_t *sequences = calloc(count, sizeof *sequences), *tables = malloc(cache_count * 256 * sizeof *tables);
    tessera_tensor *inputs = calloc(4 + cache_count, sizeof *inputs);
    for (size_t i = 0; i < count; i++) tokens[i] = atoi(argv[5 + i]);

    for (int remaining = atoi(argv[4]); remaining > 0; remaining--) {
        int32_t first, row = (int32_t)count - 1;
        check(tessera_sequence_append(pages, sequence, count, &first));
        for (size_t i = 0; i < count; i++) positions[i] = first + (int32_t)i;

        inputs[0] = vector("tokens", tokens, count);
        inputs[1] = vector("positions", positions, count);
        inputs[2] = vector("sequences", sequences, count);
        inputs[3] = vector("rows", &row, 1);
        for (size_t i = 0; i < cache_count; i++) {
            int32_t *table = tables + 256 * i;
            uint64_t columns;
            check(tessera_pages_table(pages, i, &sequence, 1, table, 256, &columns));
            inputs[4 + i] = (tessera_tensor){
                .name = tessera_model_page_table_name(model, i), .data = table, .element = TESSERA_I32, .rank = 2, .shape = {1, columns},
            };
        }
        tessera_tensor logits;
        check(tessera_session_run(session, inputs, 4 + cache_count, caches, cache_count));
        check(tessera_session_output(session, 0, &logits));

        const float *values = logits.data;
        int32_t best = 0;
        for (uint64_t v = 1; v < logits.shape[1]; v++)
            if (values[v] > values[best]) best = (int32_t)v;
        printf("%d\n", best);
        tokens[0] = best;
        count = 1;
    }

    free(tokens);
    free(positions);
    free(sequences);
    free(tables);
    free(inputs);
    tessera_pages_close(pages);
    for (size_t i = 0; i < cache_count; i++) tessera_cache_close(memory[i]);
    free(memory);
    free(caches);
    tessera_session_close(session);
    tessera_model_close(model);
    return 0;
}
