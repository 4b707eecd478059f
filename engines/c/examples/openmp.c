/*
 * Products inside of OpenMP's parallel regions: the threads of the region share each
 * product, as a team. A region for each product, then one region for many of them.
 *
 *     cargo build --release -p tritgemm-capi
 *     cc -fopenmp engines/c/examples/openmp.c -Iengines/c/include \
 *         target/release/libtritgemm_capi.a -lpthread -ldl -lm -o openmp && ./openmp
 */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tritgemm.h"

enum { M = 1024, K = 1024, TOKENS = 24, THREADS = 4, LAYERS = 3, ROUNDS = 20 };

/* Ends the program where something fails. Inside of a region the others wait for the leader,
 * so an engine would end the region first. */
static void check(tritgemm_status status, const char *what) {
    if (status != TRITGEMM_OK) {
        fprintf(stderr, "%s: %s: %s\n", what, tritgemm_status_name((int32_t)status),
                tritgemm_last_error());
        exit(EXIT_FAILURE);
    }
}

static float *floats(size_t count, unsigned state) {
    float *values = malloc(count * sizeof *values);
    if (values == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(EXIT_FAILURE);
    }
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = (float)(state >> 8) / 8388608.0f - 1.0f;
    }
    return values;
}

static tritgemm_linear *random_layer(unsigned seed) {
    float *weights = floats((size_t)M * K, seed);
    tritgemm_matrix *matrix = NULL;
    tritgemm_linear *layer = NULL;
    check(tritgemm_matrix_quantize(weights, (size_t)M * K, M, K, TRITGEMM_PER_TENSOR, &matrix),
          "quantize");
    check(tritgemm_linear_create(matrix, NULL, 0, &layer), "layer");
    tritgemm_matrix_destroy(matrix);
    free(weights);
    return layer;
}

static tritgemm_status forward(const tritgemm_linear *layer, const float *x, float *y,
                               tritgemm_workspace *workspace) {
    return tritgemm_linear_forward_int8(layer, TOKENS, TRITGEMM_F32, x, (size_t)TOKENS * K, K, y,
                                        (size_t)TOKENS * M, M, workspace);
}

int main(void) {
    const size_t size = (size_t)TOKENS * M * sizeof(float);
    tritgemm_linear *layers[LAYERS];
    float *wanted[LAYERS], *x = floats((size_t)TOKENS * K, 1), *y = floats((size_t)TOKENS * M, 2);
    tritgemm_workspace *workspace = NULL;
    tritgemm_team *team = NULL;
    check(tritgemm_workspace_create(&workspace), "workspace");
    check(tritgemm_team_create(THREADS, &team), "team");

    /* What one thread gives. */
    for (unsigned i = 0; i < LAYERS; i++) {
        layers[i] = random_layer(i + 3);
        wanted[i] = floats((size_t)TOKENS * M, 2);
        check(forward(layers[i], x, wanted[i], workspace), "on one thread");
    }
    check(tritgemm_workspace_set_team(workspace, team), "set_team");

    /* A region for each product, as an engine's node is. */
    int failed = 0;
    for (int round = 0; round < ROUNDS; round++) {
        const uint64_t region = tritgemm_team_last_region(team) + 1;
        const int i = round % LAYERS;
        tritgemm_status status = TRITGEMM_OK;
#pragma omp parallel num_threads(THREADS)
        if (omp_get_thread_num() == 0) {
            status = forward(layers[i], x, y, workspace);
            tritgemm_team_end(team, region);
        } else {
            tritgemm_team_help(team, region);
        }
        check(status, "in a region");
        failed |= memcmp(y, wanted[i], size) != 0;
    }
    printf("%d regions of %d threads: %s\n", ROUNDS, THREADS, failed ? "DIFFERENT" : "the same bits");

    /* One region for all of them: the threads stay, and each counts the products. Nothing but
     * the leader is waited for in between. */
    const uint64_t first = tritgemm_team_last_region(team) + 1;
    int failures = 0;
#pragma omp parallel num_threads(THREADS)
    for (int round = 0; round < ROUNDS; round++) {
        const uint64_t region = first + (uint64_t)round;
        if (omp_get_thread_num() == 0) {
            const int i = round % LAYERS;
            const int worked = forward(layers[i], x, y, workspace) == TRITGEMM_OK;
            failures += !worked || memcmp(y, wanted[i], size) != 0;
            tritgemm_team_end(team, region);
        } else {
            tritgemm_team_help(team, region);
        }
    }
    printf("%d products in one region: %s\n", ROUNDS, failures ? "DIFFERENT" : "the same bits");
    failed |= failures != 0;

    tritgemm_team_destroy(team);
    tritgemm_workspace_destroy(workspace);
    for (int i = 0; i < LAYERS; i++) {
        tritgemm_linear_destroy(layers[i]);
        free(wanted[i]);
    }
    free(x);
    free(y);
    printf(failed ? "FAILED\n" : "ok\n");
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
