/*
 * A ternary layer from C: quantise weights, multiply on threads of our own, and
 * compare with plain loops.
 *
 *     cargo build --release -p tritgemm-capi
 *     cc engines/c/examples/ternary.c -Iengines/c/include target/release/libtritgemm_capi.a \
 *         -lpthread -ldl -lm -o ternary && ./ternary
 */
#define _POSIX_C_SOURCE 200809L

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tritgemm.h"

enum { M = 384, K = 1000, TOKENS = 40, THREADS = 4 };

/* Ends the program where something fails: an engine would clean up. */
static void check(tritgemm_status status, const char *what) {
    if (status != TRITGEMM_OK) {
        fprintf(stderr, "%s: %s: %s\n", what, tritgemm_status_name((int32_t)status),
                tritgemm_last_error());
        exit(EXIT_FAILURE);
    }
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (memory == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(EXIT_FAILURE);
    }
    return memory;
}

/* A small thread pool that lives as long as the program: what an engine has. */
struct pool {
    pthread_t threads[THREADS - 1];
    pthread_mutex_t mutex;
    pthread_cond_t start, done;
    unsigned long loop;    /* counts the loops */
    size_t items, next;    /* of this loop: how many, and the next to take */
    size_t busy;           /* threads that are still in it */
    int stop;
    unsigned long ran;     /* items, over all loops */
    tritgemm_work work;
    void *work_ctx;
};

/* Takes items until there are none; the mutex is held before and after. */
static void take_items(struct pool *pool) {
    while (pool->next < pool->items) {
        size_t item = pool->next++;
        tritgemm_work work = pool->work;
        void *work_ctx = pool->work_ctx;
        pool->ran++;
        pthread_mutex_unlock(&pool->mutex);
        work(work_ctx, item);
        pthread_mutex_lock(&pool->mutex);
    }
}

static void *worker(void *argument) {
    struct pool *pool = argument;
    unsigned long seen = 0;
    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        while (pool->loop == seen && !pool->stop) {
            pthread_cond_wait(&pool->start, &pool->mutex);
        }
        if (pool->stop) {
            break;
        }
        seen = pool->loop;
        take_items(pool);
        if (--pool->busy == 0) {
            pthread_cond_signal(&pool->done);
        }
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

/* The tritgemm_parallel_for of the pool. The caller works as well. */
static void parallel_for(void *ctx, size_t items, tritgemm_work work, void *work_ctx) {
    struct pool *pool = ctx;
    pthread_mutex_lock(&pool->mutex);
    pool->work = work;
    pool->work_ctx = work_ctx;
    pool->items = items;
    pool->next = 0;
    pool->busy = THREADS - 1;
    pool->loop++;
    pthread_cond_broadcast(&pool->start);
    take_items(pool);
    while (pool->busy > 0) {
        pthread_cond_wait(&pool->done, &pool->mutex);
    }
    pthread_mutex_unlock(&pool->mutex);
}

static void pool_start(struct pool *pool) {
    memset(pool, 0, sizeof *pool);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->start, NULL);
    pthread_cond_init(&pool->done, NULL);
    for (int i = 0; i < THREADS - 1; i++) {
        if (pthread_create(&pool->threads[i], NULL, worker, pool) != 0) {
            fprintf(stderr, "cannot start a thread\n");
            exit(EXIT_FAILURE);
        }
    }
}

static void pool_stop(struct pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    pool->stop = 1;
    pthread_cond_broadcast(&pool->start);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 0; i < THREADS - 1; i++) {
        pthread_join(pool->threads[i], NULL);
    }
    pthread_cond_destroy(&pool->start);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->mutex);
}

/* Uniform in -1..1. */
static float uniform(unsigned *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / 8388608.0f - 1.0f;
}

/* The largest difference from the layer's definition, relative to its size. */
static double worst_error(const int8_t *trits, const float *scales, const float *bias,
                          const float *x, const float *y) {
    double worst = 0.0;
    for (size_t n = 0; n < TOKENS; n++) {
        for (size_t m = 0; m < M; m++) {
            double sum = 0.0, magnitude = 0.0;
            for (size_t k = 0; k < K; k++) {
                double term = (double)trits[m * K + k] * x[n * K + k];
                sum += term;
                magnitude += fabs(term);
            }
            double expected = sum * scales[m] + bias[m];
            double size = magnitude * scales[m] + fabs((double)bias[m]);
            double error = fabs(y[n * M + m] - expected) / (size + 1e-30);
            if (error > worst || isnan(error)) {
                worst = error;
            }
        }
    }
    return worst;
}

int main(void) {
    if (tritgemm_abi_version() != 1) {
        fprintf(stderr, "the library and the header do not fit\n");
        return EXIT_FAILURE;
    }
    printf("tritgemm %s, backend: %s; this CPU can run:", tritgemm_version(),
           tritgemm_active_backend());
    for (size_t i = 0; i < tritgemm_backend_count(); i++) {
        printf(" %s", tritgemm_backend_name(i));
    }
    printf("\n");

    /* Latent weights, a bias and activations. */
    float *weights = allocate(M * K, sizeof *weights);
    float *bias = allocate(M, sizeof *bias);
    float *x = allocate(TOKENS * K, sizeof *x);
    float *y = allocate(TOKENS * M, sizeof *y);
    float *z = allocate(TOKENS * M, sizeof *z);
    int8_t *trits = allocate(M * K, sizeof *trits);
    unsigned state = 1;
    for (size_t i = 0; i < M * K; i++) {
        weights[i] = 0.1f * uniform(&state);
    }
    for (size_t i = 0; i < M; i++) {
        bias[i] = uniform(&state);
    }
    for (size_t i = 0; i < TOKENS * K; i++) {
        x[i] = uniform(&state);
    }

    /* Quantise to trits with one scale a row, and make a layer of them. */
    tritgemm_matrix *matrix = NULL;
    tritgemm_linear *layer = NULL;
    check(tritgemm_matrix_quantize(weights, M * K, M, K, TRITGEMM_PER_ROW, &matrix), "quantize");
    check(tritgemm_linear_create(matrix, bias, M, &layer), "layer");

    /* What the plain loops need. */
    const uint8_t *packed = NULL;
    const float *scales = NULL;
    size_t packed_len = 0, scales_len = 0;
    int32_t granularity = 0;
    check(tritgemm_matrix_packed(matrix, &packed, &packed_len), "packed bytes");
    check(tritgemm_matrix_scales(matrix, &granularity, &scales, &scales_len), "scales");
    check(tritgemm_unpack(packed, packed_len, M, K, trits, M * K, TRITGEMM_STRICT), "unpack");
    printf("%d x %d weights: %zu bytes packed, %zu scales\n", M, K, packed_len, scales_len);

    /* A workspace whose products run on our threads. */
    struct pool pool;
    tritgemm_workspace *workspace = NULL;
    pool_start(&pool);
    check(tritgemm_workspace_create(&workspace), "workspace");
    check(tritgemm_workspace_set_parallel_for(workspace, THREADS, parallel_for, &pool), "threads");

    int failed = 0;

    /* f32 throughout: rounding is all that may differ. */
    check(tritgemm_linear_forward_f32(layer, TOKENS, x, TOKENS * K, K, y, TOKENS * M, M,
                                      workspace), "forward_f32");
    double error = worst_error(trits, scales, bias, x, y);
    printf("f32:  largest relative difference from plain loops %.1e\n", error);
    failed |= !(error < 1e-6);

    /* W1.58A8: activations rounded to int8, so a part in 254 of the largest. */
    check(tritgemm_linear_forward_int8(layer, TOKENS, TRITGEMM_F32, x, TOKENS * K, K, y,
                                       TOKENS * M, M, workspace), "forward_int8");
    error = worst_error(trits, scales, bias, x, y);
    printf("int8: largest relative difference from plain loops %.1e\n", error);
    failed |= !(error < 1.0 / 127.0);

    /* The same bits on one thread, on the scalar kernels, and from activations that were
     * prepared. */
    unsigned long ran = pool.ran;
    check(tritgemm_workspace_set_parallel_for(workspace, 1, NULL, NULL), "no threads");
    tritgemm_prepared *prepared = NULL;
    check(tritgemm_workspace_pin(workspace, "scalar"), "pin");
    check(tritgemm_linear_prepare_int8(layer, TOKENS, TRITGEMM_F32, x, TOKENS * K, K, 0, workspace,
                                       &prepared), "prepare_int8");
    check(tritgemm_linear_forward_prepared(layer, prepared, z, TOKENS * M, M, workspace),
          "forward_prepared");
    int same = memcmp(y, z, TOKENS * M * sizeof *y) == 0;
    printf("%lu work items on %d threads, and one thread with scalar kernels: %s\n", ran, THREADS,
           same ? "the same bits" : "DIFFERENT");
    failed |= !same || ran == 0;

    /* Errors say what was wrong. */
    if (tritgemm_linear_forward_int8(layer, TOKENS, TRITGEMM_F32, x, TOKENS * K, K - 1, y,
                                     TOKENS * M, M, workspace) == TRITGEMM_OK) {
        failed = 1;
    }
    printf("as it should be, an error: %s\n", tritgemm_last_error());

    tritgemm_prepared_destroy(prepared);
    tritgemm_workspace_destroy(workspace);
    tritgemm_linear_destroy(layer);
    tritgemm_matrix_destroy(matrix);
    pool_stop(&pool);
    free(weights);
    free(bias);
    free(x);
    free(y);
    free(z);
    free(trits);
    printf(failed ? "FAILED\n" : "ok\n");
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
