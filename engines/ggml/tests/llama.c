/* Runs models in llama.cpp, by its C interface alone, and compares or writes their logits.
 *
 *   llama logits MODEL OUT THREADS          logits of a prompt and of tokens after it, as f32
 *   llama reload TIMES A B                  two models in turns, mapped and not: the same bits,
 *                                           though one is where the other was
 *   llama contexts MODEL                    two contexts, one after the other and on two threads
 *   llama abort MODEL                       computing again after a graph was aborted
 *   llama peak MODEL MAPPED THREADS         the same tokens, and the most memory that they took
 *
 * The tokens are fixed, so that every model of one vocabulary gets the same. A difference ends
 * it with status 1. The headers are those of the llama.cpp that is tested.
 */
#include "ggml-backend.h"
#include "llama.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT = 32, AFTER = 8, ROWS = PROMPT + AFTER };

static void fail(const char *what) {
    fprintf(stderr, "llama: %s\n", what);
    exit(1);
}

static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

static struct llama_model *load(const char *path, bool mapped) {
    struct llama_model_params params = llama_model_default_params();
    params.load_mode = mapped ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;
    struct llama_model *model = llama_model_load_from_file(path, params);
    if (!model) {
        fail(path);
    }
    return model;
}

static struct llama_context *context(struct llama_model *model, int threads) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = 256;
    params.n_threads = params.n_threads_batch = threads;
    struct llama_context *made = llama_init_from_model(model, params);
    if (!made) {
        fail("no context");
    }
    return made;
}

static int vocabulary(const struct llama_model *model) {
    return llama_vocab_n_tokens(llama_model_get_vocab(model));
}

/* Computes `count` tokens from `first` on. Gives llama_decode's status. */
static int decode(struct llama_context *ctx, int first, int count, int vocab, float *logits) {
    struct llama_batch batch = llama_batch_init(count, 0, 1);
    batch.n_tokens = count;
    for (int i = 0; i < count; i++) {
        batch.token[i] = ((first + i) * 37 + 11) % (vocab - 300) + 290;
        batch.pos[i] = first + i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
    }
    int status = llama_decode(ctx, batch);
    for (int i = 0; status == 0 && i < count; i++) {
        memcpy(logits + (size_t)i * vocab, llama_get_logits_ith(ctx, i), sizeof(float) * vocab);
    }
    llama_batch_free(batch);
    return status;
}

/* Logits of all tokens, ROWS times the vocabulary, to be freed. */
static float *run(struct llama_context *ctx, int vocab) {
    float *logits = malloc(sizeof(float) * ROWS * vocab);
    if (!logits) {
        fail("no memory");
    }
    llama_memory_clear(llama_get_memory(ctx), true);
    if (decode(ctx, 0, PROMPT, vocab, logits) != 0) {
        fail("the prompt failed");
    }
    for (int i = PROMPT; i < ROWS; i++) {
        if (decode(ctx, i, 1, vocab, logits + (size_t)i * vocab) != 0) {
            fail("a token failed");
        }
    }
    return logits;
}

/* Where the file that was mapped last is. */
static unsigned long mapped_at;

static unsigned long address_of(const char *path) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4096];
    unsigned long address = 0;
    while (maps && !address && fgets(line, sizeof line, maps)) {
        if (strstr(line, path)) {
            address = strtoul(line, NULL, 16);
        }
    }
    if (!maps || fclose(maps) != 0 || !address) {
        fail("the file is not mapped");
    }
    return address;
}

static float *run_model(const char *path, bool mapped, int threads, int *vocab) {
    struct llama_model *model = load(path, mapped);
    mapped_at = mapped ? address_of(path) : 0;
    struct llama_context *ctx = context(model, threads);
    *vocab = vocabulary(model);
    float *logits = run(ctx, *vocab);
    llama_free(ctx);
    llama_model_free(model);
    return logits;
}

static void compare(const float *a, const float *b, int vocab, const char *what) {
    if (memcmp(a, b, sizeof(float) * ROWS * vocab) != 0) {
        fail(what);
    }
}

static void write_logits(const char *path, const char *out, int threads) {
    int vocab;
    float *logits = run_model(path, true, threads, &vocab);
    FILE *file = fopen(out, "wb");
    size_t count = (size_t)ROWS * vocab;
    if (!file || fwrite(logits, sizeof(float), count, file) != count || fclose(file) != 0) {
        fail(out);
    }
    free(logits);
}

/* By the kernel's account of this program: getrusage's starts with what its parent had. */
static void say_peak(const char *path, bool mapped, int threads) {
    int vocab;
    char line[256];
    free(run_model(path, mapped, threads, &vocab));
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status)) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            fputs(line, stdout);
        }
    }
    if (!status || fclose(status) != 0) {
        fail("no /proc/self/status");
    }
}

static void reload(int times, char **paths) {
    int vocab[2], swapped = 0;
    unsigned long at[2] = {0, 0};
    float *first[2];
    for (int i = 0; i < 2; i++) {
        first[i] = run_model(paths[i], true, 2, &vocab[i]);
    }
    if (vocab[0] == vocab[1] && memcmp(first[0], first[1], sizeof(float) * ROWS * vocab[0]) == 0) {
        fail("the two models are one: nothing is compared");
    }
    for (int i = 0; i < times; i++) {
        int which = i % 2, unused;
        float *again = run_model(paths[which], i % 4 < 2, 2, &unused);
        compare(again, first[which], vocab[which], "a model that was loaded again differs");
        free(again);
        at[which] = mapped_at;
        swapped += which == 1 && at[0] != 0 && at[0] == at[1];
    }
    if (swapped == 0) {
        fail("no model was where the other had been: nothing is tested");
    }
    free(first[0]);
    free(first[1]);
}

struct runner {
    struct llama_context *ctx;
    const float *expected;
    int vocab;
};

static void *run_often(void *data) {
    struct runner *runner = data;
    for (int i = 0; i < 10; i++) {
        float *logits = run(runner->ctx, runner->vocab);
        compare(logits, runner->expected, runner->vocab, "contexts on two threads differ");
        free(logits);
    }
    return NULL;
}

static void contexts(const char *path) {
    struct llama_model *model = load(path, true);
    struct llama_context *both[2] = {context(model, 2), context(model, 1)};
    int vocab = vocabulary(model);
    float *expected = run(both[0], vocab);
    float *other = run(both[1], vocab);
    compare(expected, other, vocab, "the second context differs");
    free(other);
    pthread_t threads[2];
    struct runner runners[2];
    for (int i = 0; i < 2; i++) {
        runners[i] = (struct runner){both[i], expected, vocab};
        if (pthread_create(&threads[i], NULL, run_often, &runners[i]) != 0) {
            fail("no thread");
        }
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        llama_free(both[i]);
    }
    free(expected);
    llama_model_free(model);
}

/* Aborts when it has been asked so often. */
static bool abort_at(void *left) {
    return (*(int *)left)-- == 0;
}

static void abort_graphs(const char *path) {
    struct llama_model *model = load(path, true);
    struct llama_context *ctx = context(model, 2);
    int vocab = vocabulary(model), aborted = 0;
    float *expected = run(ctx, vocab);
    for (int at = 0; at < 100; at += 9) {
        int left = at;
        llama_set_abort_callback(ctx, abort_at, &left);
        llama_memory_clear(llama_get_memory(ctx), true);
        float *logits = malloc(sizeof(float) * ROWS * vocab);
        aborted += decode(ctx, 0, PROMPT, vocab, logits) == 2;
        free(logits);
        llama_set_abort_callback(ctx, NULL, NULL);
        logits = run(ctx, vocab);
        compare(logits, expected, vocab, "logits differ after an abort");
        free(logits);
    }
    if (aborted < 3) {
        fail("no graph was aborted: nothing is tested");
    }
    free(expected);
    llama_free(ctx);
    llama_model_free(model);
}

int main(int argc, char **argv) {
    llama_log_set(quiet, NULL);
    ggml_backend_load_all();
    if (argc == 5 && strcmp(argv[1], "logits") == 0) {
        write_logits(argv[2], argv[3], atoi(argv[4]));
    } else if (argc == 5 && strcmp(argv[1], "reload") == 0) {
        reload(atoi(argv[2]), argv + 3);
    } else if (argc == 3 && strcmp(argv[1], "contexts") == 0) {
        contexts(argv[2]);
    } else if (argc == 3 && strcmp(argv[1], "abort") == 0) {
        abort_graphs(argv[2]);
    } else if (argc == 5 && strcmp(argv[1], "peak") == 0) {
        say_peak(argv[2], atoi(argv[3]), atoi(argv[4]));
    } else {
        fail("see the comment at its start");
    }
    llama_backend_free();
    return 0;
}
