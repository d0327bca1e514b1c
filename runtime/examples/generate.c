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
    tessera_cache *cache;
    tessera_pages *pages;
    uint32_t sequence;
    check(tessera_model_open(argv[1], NULL, argv[2], argv[3], &model));
    check(tessera_session_open(model, &session));
    check(tessera_cache_open(model, "cache", 256, &cache));
    check(tessera_pages_open(cache, &pages));
    check(tessera_sequence_open(pages, &sequence));

    /* The first step takes the whole prompt, each later one the token that the step before has chosen. */
    size_t count = argc - 5;
    int32_t *tokens = malloc(count * sizeof *tokens), *positions = malloc(count * sizeof *positions);
    int32_t *sequences = calloc(count, sizeof *sequences), table[256];
    for (size_t i = 0; i < count; i++) tokens[i] = atoi(argv[5 + i]);

    for (int remaining = atoi(argv[4]); remaining > 0; remaining--) {
        int32_t first, row = (int32_t)count - 1;
        uint64_t columns;
        check(tessera_sequence_append(pages, sequence, count, &first));
        check(tessera_pages_table(pages, &sequence, 1, table, 256, &columns));
        for (size_t i = 0; i < count; i++) positions[i] = first + (int32_t)i;

        tessera_tensor page_table = {.name = "page_table", .data = table, .element = TESSERA_I32, .rank = 2, .shape = {1, columns}};
        tessera_tensor inputs[] = {
            vector("tokens", tokens, count),       vector("positions", positions, count), vector("sequences", sequences, count),
            vector("rows", &row, 1), page_table,
        };
        tessera_cache_argument caches[] = {{"cache", cache}};
        tessera_tensor logits;
        check(tessera_session_run(session, inputs, 5, caches, 1));
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
    tessera_pages_close(pages);
    tessera_cache_close(cache);
    tessera_session_close(session);
    tessera_model_close(model);
    return 0;
}
