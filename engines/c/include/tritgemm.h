/*
 * tritgemm: CPU kernels for ternary neural networks, weights -1, 0 and +1.
 *
 * Shapes. A matrix is [M][K], row-major: M rows (outputs), K columns (inputs).
 * Activations are [tokens][K], outputs [tokens][M], rows `stride` elements
 * apart. Results are the same bits on every instruction set, for any number of
 * tokens at once and any number of threads.
 *
 * Buffers. Every buffer comes with its length in elements, and it is checked.
 * Any alignment is accepted: rows that lie densely and are aligned for their
 * type are used in place, others are copied row by row, a few percent at most
 * of what a product takes. Elements between rows are neither read nor written,
 * so threads may write different columns of one output at a time. A buffer of
 * length 0 may be NULL. Output and input must not overlap, which is checked.
 * After an error what outputs hold is unspecified, except that handles are set
 * to NULL.
 *
 * Errors. Functions that can fail return a status, and say why in
 * tritgemm_last_error(). No panic or exception leaves the library.
 *
 * Handles. Made by functions whose last argument is `out`, freed by `_destroy`,
 * which takes NULL as well. Every handle keeps what it needs of the others:
 * they may be destroyed in any order. Any number of threads may use one at a
 * time, but a workspace serves one call at a time, and so do prepared or routed
 * activations while they are made anew: another call meanwhile fails with
 * TRITGEMM_BUSY.
 */

#ifndef TRITGEMM_H
#define TRITGEMM_H

/* Generated from the Rust sources by cbindgen; do not edit. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// What a function returns.
typedef enum {
    // It worked.
    TRITGEMM_OK = 0,
    // A pointer is NULL that must not be, or a handle is none.
    TRITGEMM_NULL_POINTER = 1,
    // A length, shape, stride or range does not fit the others, or the address space.
    TRITGEMM_INVALID_SIZE = 2,
    // A number or string that stands for a choice is none of the choices.
    TRITGEMM_INVALID_ARGUMENT = 3,
    // A value in a buffer is illegal: a code 11, a trit outside of -1, 0, 1, a NaN.
    TRITGEMM_INVALID_VALUE = 4,
    // Input and output overlap.
    TRITGEMM_OVERLAP = 5,
    // The CPU or the build lacks the instruction set, or TRITGEMM_ISA names none.
    TRITGEMM_UNSUPPORTED_ISA = 6,
    // The operating system could not read or write a file.
    TRITGEMM_IO = 7,
    // A panel file or a model is damaged, of another version, or none.
    TRITGEMM_BAD_FILE = 8,
    // The caller's parallel-for did not run every item; part of the output may be
    // written.
    TRITGEMM_INCOMPLETE = 9,
    // The workspace is in use by another call.
    TRITGEMM_BUSY = 10,
    // A defect of this library; the handles stay usable. Please report it.
    TRITGEMM_INTERNAL = 11,
    // Memory ran out; the handles stay usable.
    TRITGEMM_OUT_OF_MEMORY = 12,
} tritgemm_status;

// The type of floats.
typedef enum {
    // `float`.
    TRITGEMM_F32 = 0,
    // IEEE half precision.
    TRITGEMM_F16 = 1,
    // bfloat16.
    TRITGEMM_BF16 = 2,
} tritgemm_float;

// What a scale covers.
typedef enum {
    // The whole matrix: 1 scale.
    TRITGEMM_PER_TENSOR = 1,
    // A row: M scales.
    TRITGEMM_PER_ROW = 2,
    // 32 weights along K: [M][ceil(K / 32)] scales.
    TRITGEMM_PER_GROUP32 = 32,
    // 64 weights along K.
    TRITGEMM_PER_GROUP64 = 64,
    // 128 weights along K.
    TRITGEMM_PER_GROUP128 = 128,
    // 256 weights along K.
    TRITGEMM_PER_GROUP256 = 256,
} tritgemm_granularity;

// What to do with what the encoding has no meaning for.
typedef enum {
    // It is an error that names its row and column.
    TRITGEMM_STRICT = 0,
    // It counts as the weight 0, and padding bits are ignored.
    TRITGEMM_LENIENT = 1,
} tritgemm_mode;

// How much of a panel file is checked against its checksums.
typedef enum {
    // Everything; reads every byte once.
    TRITGEMM_VERIFY_FULL = 0,
    // All but the panels, so that opening a large mapped file takes no time; damaged
    // panels give wrong products and nothing worse.
    TRITGEMM_VERIFY_HEADER = 1,
} tritgemm_verify;

// The experts of a mixture: layers with one M, one K and one tritgemm_linear_group().
typedef struct tritgemm_experts tritgemm_experts;

// A linear layer: y[n][m] = scale[m] * sum over k of w[m][k] * x[n][k] + bias[m], with
// scales for the tensor, for rows or for groups along K.
typedef struct tritgemm_linear tritgemm_linear;

// A ternary matrix [M][K] in packed rows, with its scales.
typedef struct tritgemm_matrix tritgemm_matrix;

// A model of GGUF, safetensors, ONNX or panel files, of one or of many: its ternary
// matrices, by their names.
typedef struct tritgemm_model tritgemm_model;

// A panel file of a whole model: many matrices with their scales and biases, by their
// names. A file of one matrix is a model of one without a name.
typedef struct tritgemm_model_file tritgemm_model_file;

// A panel file: one matrix in panels with its scales and bias, versioned and
// checksummed, the same on every CPU.
typedef struct tritgemm_panel_file tritgemm_panel_file;

// A ternary matrix [M][K] as the kernels read it, without scales:
// panel[p][strip][r] is packed byte `strip` of row 64 p + r, rows padded with zeros to
// 64, strips to a multiple of 3. The same on every instruction set.
typedef struct tritgemm_panels tritgemm_panels;

// Activations made ready once for any number of matrices with the same K, such as those
// of Q, K and V or of gate and up.
typedef struct tritgemm_prepared tritgemm_prepared;

// Activations made ready for the experts that their tokens were sent to, again and again
// in the same memory. Rows of products are those of the first expert's tokens, then those
// of the second's, and so on.
typedef struct tritgemm_routed tritgemm_routed;

// The threads of a parallel region, such as OpenMP's, a node of ggml or a task of TVM: one
// of them multiplies, the others help. A team starts no thread.
//
// One thread, the leader, calls products with a workspace that has the team, by
// tritgemm_workspace_set_team(), then tritgemm_team_end(). Every other thread of the region
// calls tritgemm_team_help() meanwhile. Regions have numbers, which the caller chooses, each
// larger than those before:
//
// ```c
// uint64_t region = tritgemm_team_last_region(team) + 1;
// #pragma omp parallel num_threads(nth)
// if (omp_get_thread_num() == 0) {
//     status = tritgemm_linear_forward_int8(layer, ..., workspace);
//     tritgemm_team_end(team, region); // after errors too: the others wait for it
// } else {
//     tritgemm_team_help(team, region);
// }
// ```
//
// Threads that stay for many products may count the regions, each by itself, and need no
// barrier between two of them. A helper that comes before its leader waits for it, and one
// that comes after its region has ended returns at once. The leader starts without helpers,
// and never waits for one that does not come.
typedef struct tritgemm_team tritgemm_team;

// Scratch memory that products reuse, and how they run: their backend, their threads and
// where their weights are. After the first product of a shape, further ones allocate
// nothing.
typedef struct tritgemm_workspace tritgemm_workspace;

// Runs one work item.
typedef void (*tritgemm_work)(void *work_ctx, size_t item);

// Calls work(work_ctx, 0) to work(work_ctx, items - 1), each once, on any threads and in
// any order, and returns when all of them have returned.
//
// `ctx` is what the caller registered with it. An item is a range of rows (whole panels
// of 64) by a range of tokens; items are independent. It must not throw, and it must not
// use the workspace that calls it.
//
// In a forked child, which has none of its parent's threads, a workspace that it inherits
// does not call it: products run on the calling thread. A workspace of the child's own calls
// what is registered there.
//
// Items compute in the default floating-point environment, whatever that of the thread is,
// and give it back; exception flags may be raised.
//
// What it does wrong is safe: an item run twice does nothing the second time, items left
// out make the call fail with TRITGEMM_INCOMPLETE, and if it returns too early, items
// that are running are waited for and later ones do nothing.
typedef void (*tritgemm_parallel_for)(void *ctx,
                                      size_t items,
                                      tritgemm_work work,
                                      void *work_ctx);

// Where outputs go: rows of one of the types of tritgemm_float, `stride` elements apart.
// They are computed in f32 and rounded once, half to even.
typedef struct {
    // The first row.
    void *data;
    // Elements there are.
    size_t len;
    // Elements from a row to the next.
    size_t stride;
    // A tritgemm_float.
    int32_t type;
    // 0, or not 0 to add them to what is there, in f32.
    int32_t add;
} tritgemm_output;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What the last function that failed on this thread had to say: what was wrong, and
// what was expected. Empty before the first failure. Valid until the next failure on
// this thread, and no longer than the thread.
const char *tritgemm_last_error(void);

// The name of a status, such as "TRITGEMM_OK"; NULL if there is no such status.
const char *tritgemm_status_name(int32_t status);

// The library's version, such as "0.1.0".
const char *tritgemm_version(void);

// The version of this interface. It grows by one with every change that breaks
// programs built with an older header; additions leave it alone.
uint32_t tritgemm_abi_version(void);

// Number of backends that can run on this CPU, at least one.
size_t tritgemm_backend_count(void);

// The name of a backend that can run on this CPU, best first: a level with the CPU that
// its choice of kernels was measured on, such as "avx512-vbmi/zen5" or "avx2/intel", or
// the level alone, "neon" and "scalar". Each can be pinned by this name. NULL if there
// are not that many.
const char *tritgemm_backend_name(size_t index);

// The name of the backend that products run with when their workspace pins none. NULL
// if TRITGEMM_ISA names one that cannot run, of which tritgemm_last_error() says more.
const char *tritgemm_active_backend(void);

// Number of CPU features that the kernels know of.
size_t tritgemm_cpu_feature_count(void);

// The name of a CPU feature that the kernels know of, and, where `present` is not NULL,
// whether this CPU has it. NULL if there are not that many.
const char *tritgemm_cpu_feature(size_t index, bool *present);

// Pins the backend of the whole process by its name: that of a backend as
// tritgemm_backend_name() gives it, or a level ("scalar", "avx2", "avx512",
// "avx512-vbmi", "neon"), whose best backend it takes. NULL returns to what the
// environment variable TRITGEMM_ISA names, else the best of this CPU. Only speed depends
// on it. Fails and changes nothing if this CPU lacks it; tritgemm_last_error() names
// what is missing.
tritgemm_status tritgemm_pin(const char *name);

// Bytes that a packed matrix takes: rows * ceil(cols / 4).
tritgemm_status tritgemm_packed_size(size_t rows, size_t cols, size_t *out);

// Packs trits [rows][cols] into [rows][ceil(cols / 4)] bytes: four weights a byte, the
// first in the top bits, -1 = 10, 0 = 00, +1 = 01, rows padded with zeros. `mode` is a
// tritgemm_mode.
tritgemm_status tritgemm_pack(const int8_t *trits,
                              size_t trits_len,
                              size_t rows,
                              size_t cols,
                              uint8_t *packed,
                              size_t packed_len,
                              int32_t mode);

// Unpacks bytes [rows][ceil(cols / 4)] into trits [rows][cols]. `mode` is a
// tritgemm_mode.
tritgemm_status tritgemm_unpack(const uint8_t *packed,
                                size_t packed_len,
                                size_t rows,
                                size_t cols,
                                int8_t *trits,
                                size_t trits_len,
                                int32_t mode);

// Unpacks bytes [rows][ceil(cols / 4)] into floats [rows][cols]: +scale, -scale and
// +0.0, with one scale a row. `mode` is a tritgemm_mode.
tritgemm_status tritgemm_unpack_f32(const uint8_t *packed,
                                    size_t packed_len,
                                    size_t rows,
                                    size_t cols,
                                    const float *scales,
                                    size_t scales_len,
                                    float *weights,
                                    size_t weights_len,
                                    int32_t mode);

// Number of scales of a [rows, cols] matrix; `granularity` is a tritgemm_granularity.
tritgemm_status tritgemm_scale_count(size_t rows,
                                     size_t cols,
                                     int32_t granularity,
                                     size_t *out);

// The scales of latent weights [rows][cols]: max(mean |w|, 1e-5) of the tensor, of each
// row or of each group (BitNet b1.58). `granularity` is a tritgemm_granularity;
// tritgemm_scale_count() says how many scales there are.
tritgemm_status tritgemm_absmean(const float *weights,
                                 size_t weights_len,
                                 size_t rows,
                                 size_t cols,
                                 int32_t granularity,
                                 float *scales,
                                 size_t scales_len);

// The trits of latent weights [rows][cols]: w / scale, clamped to -1 .. 1, rounded half
// to even. `granularity` is a tritgemm_granularity.
tritgemm_status tritgemm_ternarize(const float *weights,
                                   size_t weights_len,
                                   size_t rows,
                                   size_t cols,
                                   int32_t granularity,
                                   const float *scales,
                                   size_t scales_len,
                                   int8_t *trits,
                                   size_t trits_len);

// Quantises activations [tokens][features] to int8, each token by its absolute maximum;
// `values` [tokens][features] times `token_scales` [tokens] is about `x`.
tritgemm_status tritgemm_quantize_activations(const float *x,
                                              size_t x_len,
                                              size_t tokens,
                                              size_t features,
                                              int8_t *values,
                                              size_t values_len,
                                              float *token_scales,
                                              size_t token_scales_len);

// A team of `nth` threads, the leader among them, counted as 1 to 1024. Work is cut for
// that many; should more of them or fewer come, results are the same.
tritgemm_status tritgemm_team_create(size_t nth, tritgemm_team **out);

// Helps with the products of a region until its leader has ended it; returns at once if it
// has already. Called by every thread of the region but the leader, and by none inside of a
// work item. While there is nothing to do it spins for some ten microseconds, then gives the
// core to whoever wants it, again and again. What the leader wrote is there when it returns.
tritgemm_status tritgemm_team_help(const tritgemm_team *team,
                                   uint64_t region);

// Ends a region: its helpers return. Called by its leader, after the last product of the
// region and whatever came of it. Fails if a region of that number or of a larger one has
// ended before.
tritgemm_status tritgemm_team_end(const tritgemm_team *team, uint64_t region);

// The largest number of a region that has ended, or 0 before the first and for NULL.
uint64_t tritgemm_team_last_region(const tritgemm_team *team);

// Frees a team, or nothing for NULL. No thread may be in it any more. Workspaces that have it
// keep what they need of it.
void tritgemm_team_destroy(tritgemm_team *team);

// A workspace. Products run on the calling thread, with the backend of the process and
// weights from memory.
tritgemm_status tritgemm_workspace_create(tritgemm_workspace **out);

// Pins the backend of this workspace's products by its name, as tritgemm_pin() does;
// NULL returns to that of the process. Fails and changes nothing if this CPU lacks it.
tritgemm_status tritgemm_workspace_pin(tritgemm_workspace *workspace, const char *name);

// Says whether the weights are in the CPU's cache when a product starts, as those of a
// small model are, or of one matrix that is multiplied again and again. False unless
// said: the weights of a large model come from memory. Only the speed of a single int8
// token depends on it, and only on some CPUs.
tritgemm_status tritgemm_workspace_set_weights_in_cache(tritgemm_workspace *workspace,
                                                        bool weights_in_cache);

// Says what becomes of a NaN or an infinity in activations that are quantised to int8. Unless
// said it is an error; propagated, all outputs of its token are NaN.
tritgemm_status tritgemm_workspace_set_propagate_non_finite(tritgemm_workspace *workspace,
                                                            bool propagate);

// Runs this workspace's products on the caller's threads: `parallel_for` is called with
// `ctx` for every loop that is worth it, and `workers` is the number of threads that
// share its items, counted as 1 to 1024. NULL returns to the calling thread.
tritgemm_status tritgemm_workspace_set_parallel_for(tritgemm_workspace *workspace,
                                                    size_t workers,
                                                    tritgemm_parallel_for parallel_for,
                                                    void *ctx);

// Runs this workspace's products on the threads of a parallel region that help `team`, in
// place of a parallel-for; outside of regions, on the calling thread. NULL returns to the
// calling thread. Any number of workspaces may have a team: whichever starts a loop first has
// the helpers. In a forked child, a workspace that it inherits does without them.
tritgemm_status tritgemm_workspace_set_team(tritgemm_workspace *workspace,
                                            const tritgemm_team *team);

// Frees a workspace, or nothing for NULL. No call may use it any more, nor may work
// items of it be called.
void tritgemm_workspace_destroy(tritgemm_workspace *workspace);

// A matrix of trits -1, 0, +1, [rows][cols]. `granularity` is a tritgemm_granularity,
// tritgemm_scale_count() says how many scales it takes. Everything is copied.
tritgemm_status tritgemm_matrix_from_trits(const int8_t *trits,
                                           size_t trits_len,
                                           size_t rows,
                                           size_t cols,
                                           int32_t granularity,
                                           const float *scales,
                                           size_t scales_len,
                                           tritgemm_matrix **out);

// A matrix of packed bytes [rows][ceil(cols / 4)]; a code 11 or padding that is not zero
// is an error. Otherwise as tritgemm_matrix_from_trits().
tritgemm_status tritgemm_matrix_from_packed(const uint8_t *packed,
                                            size_t packed_len,
                                            size_t rows,
                                            size_t cols,
                                            int32_t granularity,
                                            const float *scales,
                                            size_t scales_len,
                                            tritgemm_matrix **out);

// The matrix nearest to latent weights [rows][cols]: absmean scales, then trits, as
// tritgemm_absmean() and tritgemm_ternarize(). `granularity` is a tritgemm_granularity.
tritgemm_status tritgemm_matrix_quantize(const float *weights,
                                         size_t weights_len,
                                         size_t rows,
                                         size_t cols,
                                         int32_t granularity,
                                         tritgemm_matrix **out);

// M, or 0 for NULL.
size_t tritgemm_matrix_rows(const tritgemm_matrix *matrix);

// K, or 0 for NULL.
size_t tritgemm_matrix_cols(const tritgemm_matrix *matrix);

// The packed bytes [M][ceil(K / 4)], which live as long as the matrix.
tritgemm_status tritgemm_matrix_packed(const tritgemm_matrix *matrix,
                                       const uint8_t **packed,
                                       size_t *packed_len);

// The scales, which live as long as the matrix, and what each covers (a
// tritgemm_granularity).
tritgemm_status tritgemm_matrix_scales(const tritgemm_matrix *matrix,
                                       int32_t *granularity,
                                       const float **scales,
                                       size_t *scales_len);

// Frees a matrix, or nothing for NULL.
void tritgemm_matrix_destroy(tritgemm_matrix *matrix);

// Bytes of the panels of a [rows, cols] matrix.
tritgemm_status tritgemm_panels_size(size_t rows, size_t cols, size_t *out);

// Lays a matrix out in panels.
tritgemm_status tritgemm_panels_pack(const tritgemm_matrix *matrix,
                                     tritgemm_panels **out);

// Panels that are in memory already, as tritgemm_panels_bytes() gave them: used where
// they are, without a copy. `bytes` must stay valid and unchanged until every handle
// that was made of these panels is destroyed. Any alignment works, 64 bytes is fastest.
// Bytes that are no panels give wrong products and nothing worse.
tritgemm_status tritgemm_panels_from_memory(const uint8_t *bytes,
                                            size_t bytes_len,
                                            size_t rows,
                                            size_t cols,
                                            tritgemm_panels **out);

// The bytes of the panels, which live as long as `panels`.
tritgemm_status tritgemm_panels_bytes(const tritgemm_panels *panels,
                                      const uint8_t **bytes,
                                      size_t *bytes_len);

// M, or 0 for NULL.
size_t tritgemm_panels_rows(const tritgemm_panels *panels);

// K, or 0 for NULL.
size_t tritgemm_panels_cols(const tritgemm_panels *panels);

// Rows `begin` to `end` (exclusive), sharing the memory: a shard. `begin` must be a
// multiple of 64, `end` one or M.
tritgemm_status tritgemm_panels_slice_rows(const tritgemm_panels *panels,
                                           size_t begin,
                                           size_t end,
                                           tritgemm_panels **out);

// The exact integer product y[n][m] = sum over k of w[m][k] * x[n][k], for `tokens` rows
// of `x` (K values, `x_stride` apart) and of `y` (M values, `y_stride` apart).
tritgemm_status tritgemm_panels_gemm_i8(const tritgemm_panels *panels,
                                        size_t tokens,
                                        const int8_t *x,
                                        size_t x_len,
                                        size_t x_stride,
                                        int32_t *y,
                                        size_t y_len,
                                        size_t y_stride,
                                        tritgemm_workspace *workspace);

// As tritgemm_panels_gemm_i8(), with activations that were prepared as int8 and without
// groups; their scales are not applied.
tritgemm_status tritgemm_panels_gemm_i8_prepared(const tritgemm_panels *panels,
                                                 const tritgemm_prepared *x,
                                                 int32_t *y,
                                                 size_t y_len,
                                                 size_t y_stride,
                                                 tritgemm_workspace *workspace);

// The weights of one row, -1, 0 or +1, into `trits`, K values.
tritgemm_status tritgemm_panels_unpack_row(const tritgemm_panels *panels,
                                           size_t row,
                                           int8_t *trits,
                                           size_t trits_len);

// Frees panels, or nothing for NULL.
void tritgemm_panels_destroy(tritgemm_panels *panels);

// A layer of a matrix, its scales and `bias`, M values, or NULL and 0 for none.
tritgemm_status tritgemm_linear_create(const tritgemm_matrix *matrix,
                                       const float *bias,
                                       size_t bias_len,
                                       tritgemm_linear **out);

// A layer of panels, scales (`granularity` is a tritgemm_granularity) and `bias`, M
// values, or NULL and 0 for none. It shares the panels; scales and bias are copied.
tritgemm_status tritgemm_linear_from_panels(const tritgemm_panels *panels,
                                            int32_t granularity,
                                            const float *scales,
                                            size_t scales_len,
                                            const float *bias,
                                            size_t bias_len,
                                            tritgemm_linear **out);

// The same layer with a rotated input: H (s * x) of each `block` values along K, a power of
// two, H the Walsh-Hadamard transform in Sylvester's order over sqrt(block) and s the `signs`,
// 1 or -1 for each of K, or NULL and 0 for none. It is applied when activations are prepared.
// The layers share their panels.
tritgemm_status tritgemm_linear_with_rotation(const tritgemm_linear *linear,
                                              size_t block,
                                              const int8_t *signs,
                                              size_t signs_len,
                                              tritgemm_linear **out);

// M, the outputs, or 0 for NULL.
size_t tritgemm_linear_rows(const tritgemm_linear *linear);

// K, the inputs, or 0 for NULL.
size_t tritgemm_linear_cols(const tritgemm_linear *linear);

// Weights along K that share a scale: 32, 64, 128 or 256, or 0 if scales are not per group.
// Activations that are prepared for the layer need to know.
size_t tritgemm_linear_group(const tritgemm_linear *linear);

// Values of a block in which the layer rotates its inputs, or 0 if it does not.
size_t tritgemm_linear_rotated_block(const tritgemm_linear *linear);

// The layer's panels; they share its memory.
tritgemm_status tritgemm_linear_panels(const tritgemm_linear *linear,
                                       tritgemm_panels **out);

// Rows `begin` to `end` (exclusive) as a layer of its own, sharing the panels: a shard
// for tensor parallelism. `begin` must be a multiple of 64, `end` one or M.
tritgemm_status tritgemm_linear_slice_rows(const tritgemm_linear *linear,
                                           size_t begin,
                                           size_t end,
                                           tritgemm_linear **out);

// One row of weights times their scales, without bias, into `y`, K values: a row of an
// embedding whose matrix is the output layer's, too.
tritgemm_status tritgemm_linear_unpack_row(const tritgemm_linear *linear,
                                           size_t row,
                                           float *y,
                                           size_t y_len);

// The W1.58A8 forward pass: quantises each of `tokens` rows of `x` (K values of the
// tritgemm_float `x_type`, `x_stride` apart) to int8 by its absolute maximum, multiplies
// exactly, scales and adds the bias into `y` (rows of M values, `y_stride` apart). As in
// BitNet b1.58. A NaN or an infinity in `x` is an error.
tritgemm_status tritgemm_linear_forward_int8(const tritgemm_linear *linear,
                                             size_t tokens,
                                             int32_t x_type,
                                             const void *x,
                                             size_t x_len,
                                             size_t x_stride,
                                             float *y,
                                             size_t y_len,
                                             size_t y_stride,
                                             tritgemm_workspace *workspace);

// The f32 forward pass in the canonical order of summation: the same bits on every
// instruction set. A weight of 0 never touches its activation. Shapes as in
// tritgemm_linear_forward_int8().
tritgemm_status tritgemm_linear_forward_f32(const tritgemm_linear *linear,
                                            size_t tokens,
                                            const float *x,
                                            size_t x_len,
                                            size_t x_stride,
                                            float *y,
                                            size_t y_len,
                                            size_t y_stride,
                                            tritgemm_workspace *workspace);

// The forward pass on prepared activations, by int8 or by f32 as they were prepared: the
// bits of tritgemm_linear_forward_int8() or tritgemm_linear_forward_f32(), which take
// plain activations alone, as C has no overloading. `y` has a row for each of the tokens.
tritgemm_status tritgemm_linear_forward_prepared(const tritgemm_linear *linear,
                                                 const tritgemm_prepared *x,
                                                 float *y,
                                                 size_t y_len,
                                                 size_t y_stride,
                                                 tritgemm_workspace *workspace);

// Frees a layer, or nothing for NULL.
void tritgemm_linear_destroy(tritgemm_linear *linear);

// Prepares for the int8 forward pass of a layer, and of any other with the same K and
// tritgemm_linear_group(): quantises each of `tokens` rows of `x` (K values of the
// tritgemm_float `x_type`, `x_stride` apart) to int8 by its absolute maximum, or each
// `x_group` values of a row (32, 64, 128 or 256) by their own; 0 for the whole row. A NaN or
// an infinity in `x` is an error, unless tritgemm_workspace_set_propagate_non_finite() says
// otherwise.
tritgemm_status tritgemm_linear_prepare_int8(const tritgemm_linear *linear,
                                             size_t tokens,
                                             int32_t x_type,
                                             const void *x,
                                             size_t x_len,
                                             size_t x_stride,
                                             size_t x_group,
                                             tritgemm_workspace *workspace,
                                             tritgemm_prepared **out);

// As tritgemm_linear_prepare_int8(), in the memory of `prepared`, which may have been for
// any other activations: from the second time on nothing is allocated where it is enough.
// While another call uses them it fails with TRITGEMM_BUSY. After an error of
// `x` itself they have no tokens.
tritgemm_status tritgemm_linear_prepare_int8_into(const tritgemm_linear *linear,
                                                  size_t tokens,
                                                  int32_t x_type,
                                                  const void *x,
                                                  size_t x_len,
                                                  size_t x_stride,
                                                  size_t x_group,
                                                  tritgemm_workspace *workspace,
                                                  tritgemm_prepared *prepared);

// As tritgemm_linear_prepare_int8_into(), for the f32 forward pass.
tritgemm_status tritgemm_linear_prepare_f32_into(const tritgemm_linear *linear,
                                                 size_t tokens,
                                                 const float *x,
                                                 size_t x_len,
                                                 size_t x_stride,
                                                 tritgemm_workspace *workspace,
                                                 tritgemm_prepared *prepared);

// Prepares for the f32 forward pass. A NaN or an infinity stays what it is. Otherwise as
// tritgemm_linear_prepare_int8().
tritgemm_status tritgemm_linear_prepare_f32(const tritgemm_linear *linear,
                                            size_t tokens,
                                            const float *x,
                                            size_t x_len,
                                            size_t x_stride,
                                            tritgemm_workspace *workspace,
                                            tritgemm_prepared **out);

// Prepares activations that are int8 already, `tokens` rows of `cols` = K values,
// `x_stride` apart; `token_scales`, one for each `x_group` values of a token or, if that is 0,
// one a token, turn them back into floats. `group` is the tritgemm_linear_group() of the
// layers that they are for.
tritgemm_status tritgemm_prepared_from_int8(size_t tokens,
                                            size_t cols,
                                            const int8_t *x,
                                            size_t x_len,
                                            size_t x_stride,
                                            size_t x_group,
                                            const float *token_scales,
                                            size_t token_scales_len,
                                            size_t group,
                                            tritgemm_workspace *workspace,
                                            tritgemm_prepared **out);

// Tokens, or 0 for NULL.
size_t tritgemm_prepared_tokens(const tritgemm_prepared *prepared);

// K, the values of a token, or 0 for NULL.
size_t tritgemm_prepared_cols(const tritgemm_prepared *prepared);

// Frees prepared activations, or nothing for NULL.
void tritgemm_prepared_destroy(tritgemm_prepared *prepared);

// The forward passes of `count` layers with one K and one tritgemm_linear_group() on the
// same prepared activations, by int8 or by f32 as they were prepared: the bits of
// tritgemm_linear_forward_prepared(), with the rows of all layers (16 at a time) shared
// among the threads in one loop, so that layers which are too small to be shared alone
// are shared together. Output `i` is of `layers[i]`, with a row for each of the tokens.
// Outputs have one type, all or none are added to, and none overlaps another.
tritgemm_status tritgemm_linear_forward_many(const tritgemm_linear *const *layers,
                                             const tritgemm_output *outputs,
                                             size_t count,
                                             const tritgemm_prepared *x,
                                             tritgemm_workspace *workspace);

// Experts of `count` layers, in the order of the router's numbers; they share the layers'
// panels.
tritgemm_status tritgemm_experts_create(const tritgemm_linear *const *layers,
                                        size_t count,
                                        tritgemm_experts **out);

// Frees experts, or nothing for NULL.
void tritgemm_experts_destroy(tritgemm_experts *experts);

// Routed activations of no tokens yet.
tritgemm_status tritgemm_routed_create(tritgemm_routed **out);

// Frees routed activations, or nothing for NULL.
void tritgemm_routed_destroy(tritgemm_routed *routed);

// Rows of a product: the tokens of all experts. 0 for NULL.
size_t tritgemm_routed_rows(const tritgemm_routed *routed);

// Quantises each of `tokens` rows of `x` (K values of the tritgemm_float `x_type`,
// `x_stride` apart) to int8 by its absolute maximum, or each `x_group`
// values by their own as in tritgemm_linear_prepare_int8(), once, and makes ready in `routed` what
// each expert gets of them: expert 0 the first `counts[0]` of the numbers in `sent`, expert
// 1 those after them, and so on, a count for each of the experts. A token may be sent to
// any number of experts. While another call uses `routed` it fails with TRITGEMM_BUSY.
// Where the arguments do not fit `routed` stays as it is; after any other error it may have
// no rows.
tritgemm_status tritgemm_experts_prepare_int8(const tritgemm_experts *experts,
                                              size_t tokens,
                                              int32_t x_type,
                                              const void *x,
                                              size_t x_len,
                                              size_t x_stride,
                                              size_t x_group,
                                              const size_t *sent,
                                              size_t sent_len,
                                              const size_t *counts,
                                              size_t counts_len,
                                              tritgemm_workspace *workspace,
                                              tritgemm_routed *routed);

// As tritgemm_experts_prepare_int8(), for the f32 pass.
tritgemm_status tritgemm_experts_prepare_f32(const tritgemm_experts *experts,
                                             size_t tokens,
                                             const float *x,
                                             size_t x_len,
                                             size_t x_stride,
                                             const size_t *sent,
                                             size_t sent_len,
                                             const size_t *counts,
                                             size_t counts_len,
                                             tritgemm_workspace *workspace,
                                             tritgemm_routed *routed);

// Every expert's forward pass on its tokens, by int8 or by f32 as they were prepared, in one
// loop, into tritgemm_routed_rows() rows of `output`: the bits of each layer by itself.
tritgemm_status tritgemm_experts_forward(const tritgemm_experts *experts,
                                         const tritgemm_routed *x,
                                         const tritgemm_output *output,
                                         tritgemm_workspace *workspace);

// As tritgemm_experts_forward(), row `i` into row `to[i]` of the `tokens` rows of `y` (M
// values, `y_stride` apart), a number for each row and none twice. Other rows stay as they
// are.
tritgemm_status tritgemm_experts_scatter(const tritgemm_experts *experts,
                                         const tritgemm_routed *x,
                                         const size_t *to,
                                         size_t to_len,
                                         size_t tokens,
                                         float *y,
                                         size_t y_len,
                                         size_t y_stride,
                                         tritgemm_workspace *workspace);

// As tritgemm_experts_forward(), row `i` times `weights[i]` added to row `to[i]` of the
// `tokens` rows of `y` (M values, `y_stride` apart), one after the other, rounded after the
// product and after the sum.
tritgemm_status tritgemm_experts_add_weighted(const tritgemm_experts *experts,
                                              const tritgemm_routed *x,
                                              const size_t *to,
                                              size_t to_len,
                                              const float *weights,
                                              size_t weights_len,
                                              size_t tokens,
                                              float *y,
                                              size_t y_len,
                                              size_t y_stride,
                                              tritgemm_workspace *workspace);

// Maps a panel file into memory: panels are read from the disk when they are first used,
// and shared with every process that maps them; nothing is copied. Nobody may change or
// truncate the file until every handle that was made of it is destroyed; replacing it
// by tritgemm_linear_save() is fine. `verify` is a tritgemm_verify.
tritgemm_status tritgemm_panel_file_map(const char *path,
                                        int32_t verify,
                                        tritgemm_panel_file **out);

// Reads a panel file into memory and checks all of it.
tritgemm_status tritgemm_panel_file_load(const char *path, tritgemm_panel_file **out);

// A panel file that is in memory already, mapped by the caller or part of a larger file:
// the panels are used where they are. `bytes` must stay valid and unchanged until every
// handle that was made of it is destroyed. Any alignment works, 64 bytes is fastest.
// `verify` is a tritgemm_verify.
tritgemm_status tritgemm_panel_file_from_memory(const uint8_t *bytes,
                                                size_t bytes_len,
                                                int32_t verify,
                                                tritgemm_panel_file **out);

// What a file holds: M, K, what a scale covers (a tritgemm_granularity, 0 if it has no
// scales) and whether there is a bias.
tritgemm_status tritgemm_panel_file_info(const tritgemm_panel_file *file,
                                         size_t *rows,
                                         size_t *cols,
                                         int32_t *granularity,
                                         bool *has_bias);

// The file's panels; they share its memory.
tritgemm_status tritgemm_panel_file_panels(const tritgemm_panel_file *file,
                                           tritgemm_panels **out);

// The file's layer; it shares the panels. An error if the file has no scales.
tritgemm_status tritgemm_panel_file_linear(const tritgemm_panel_file *file,
                                           tritgemm_linear **out);

// Writes a layer as a panel file, atomically: whoever opens `path` sees the old file or
// the whole new one, and what was mapped stays as it was.
tritgemm_status tritgemm_linear_save(const tritgemm_linear *linear, const char *path);

// Frees a panel file, or nothing for NULL.
void tritgemm_panel_file_destroy(tritgemm_panel_file *file);

// Maps a model's panel file into memory, as tritgemm_panel_file_map() does a matrix's.
// `verify` says what is checked of each matrix when it is taken; with
// TRITGEMM_VERIFY_HEADER a shard touches the pages of its own rows alone.
tritgemm_status tritgemm_model_file_map(const char *path,
                                        int32_t verify,
                                        tritgemm_model_file **out);

// Reads a model's panel file into memory; each matrix is checked when it is taken.
tritgemm_status tritgemm_model_file_load(const char *path, tritgemm_model_file **out);

// A model's panel file that is in memory already: see tritgemm_panel_file_from_memory().
tritgemm_status tritgemm_model_file_from_memory(const uint8_t *bytes,
                                                size_t bytes_len,
                                                int32_t verify,
                                                tritgemm_model_file **out);

// Number of matrices, or 0 for NULL.
size_t tritgemm_model_file_count(const tritgemm_model_file *model);

// The name of a matrix, in the order of the file; it lives as long as the handle. NULL if
// there are not that many.
const char *tritgemm_model_file_name(const tritgemm_model_file *model, size_t index);

// The layer of a name; it shares the file's panels. An error if there is none, it is damaged
// or it has no scales.
tritgemm_status tritgemm_model_file_linear(const tritgemm_model_file *model,
                                           const char *name,
                                           tritgemm_linear **out);

// Writes `count` layers and their names as one panel file, atomically: see
// tritgemm_linear_save().
tritgemm_status tritgemm_model_file_save(const char *path,
                                         const char *const *names,
                                         const tritgemm_linear *const *layers,
                                         size_t count);

// Frees a model's panel file, or nothing for NULL.
void tritgemm_model_file_destroy(tritgemm_model_file *model);

// Opens a model and maps all of its files into memory: a GGUF file or the first of its
// parts, a safetensors file or the .index.json of its shards, an ONNX or a panel file, or a
// folder with one of these. Headers are checked now, weights when they are read. The files
// are neither changed nor truncated while the handle lives.
tritgemm_status tritgemm_model_open(const char *path,
                                    tritgemm_model **out);

// tritgemm_model_open() with what files do not say of themselves: what `weight_scale` means
// in HF BitNet files, "bitlinear" or "autobitlinear", or NULL for what a config.json says;
// the rows of HF BitNet matrices, or 0 for 4 times their packed ones; the layout of I2_S
// matrices, "x86", "rows4" or "arm", or NULL for x86. What the model has no use for is an
// error.
tritgemm_status tritgemm_model_open_with(const char *path,
                                         const char *linear_class,
                                         size_t rows,
                                         const char *i2s_layout,
                                         tritgemm_model **out);

// Number of notes: what a reader has to know, assumptions that no file states and matrices
// that look packed and were not recognised. 0 for NULL.
size_t tritgemm_model_note_count(const tritgemm_model *model);

// A note, one or more sentences; it lives as long as the handle. NULL if there are not that
// many.
const char *tritgemm_model_note(const tritgemm_model *model,
                                size_t index);

// Number of ternary matrices, or 0 for NULL.
size_t tritgemm_model_count(const tritgemm_model *model);

// The name of a matrix; it lives as long as the handle. NULL if there are not that many.
const char *tritgemm_model_name(const tritgemm_model *model, size_t index);

// Reads the matrix of a name as a layer, on the calling thread, with as few scales as say
// the same. Rotated inputs (prism.hadamard) are a property of the layer.
tritgemm_status tritgemm_model_linear(const tritgemm_model *model,
                                      const char *name,
                                      tritgemm_linear **out);

// Frees a model, or nothing for NULL.
void tritgemm_model_destroy(tritgemm_model *model);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TRITGEMM_H */
