/*
 * tritgemm for C++17: the handles of tritgemm.h as move-only objects, and its
 * errors as exceptions. tritgemm.h says what each function does.
 */
#ifndef TRITGEMM_HPP
#define TRITGEMM_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tritgemm.h"

namespace tritgemm {

/// A call that failed: `what()` is its message.
class Error : public std::runtime_error {
public:
    Error(tritgemm_status status, const std::string &message)
        : std::runtime_error(message), status_(status) {}
    tritgemm_status status() const noexcept { return status_; }

private:
    tritgemm_status status_;
};

/// Throws if `status` is an error.
inline void check(tritgemm_status status) {
    if (status != TRITGEMM_OK) {
        throw Error(status, tritgemm_last_error());
    }
}

/// Borrowed memory and its length: what std::span is in C++20. Of a vector, an
/// array or anything with data() and size().
template <typename T> class Span {
public:
    Span() = default;
    Span(T *data, std::size_t size) : data_(data), size_(size) {}
    template <typename C, typename = decltype(static_cast<T *>(std::declval<C &>().data()))>
    Span(C &container) : data_(container.data()), size_(container.size()) {}
    template <typename C, typename = decltype(static_cast<T *>(std::declval<const C &>().data())),
              typename = void>
    Span(const C &container) : data_(container.data()), size_(container.size()) {}
    T *data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    T *begin() const noexcept { return data_; }
    T *end() const noexcept { return data_ + size_; }
    T &operator[](std::size_t i) const noexcept { return data_[i]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

/// Rows `stride` elements apart in borrowed memory.
template <typename T> struct Rows {
    Span<T> memory;
    std::size_t stride;
};

/// A handle that is destroyed with its owner.
template <typename T, void (*destroy)(T *)> class Handle {
public:
    explicit Handle(T *handle) : handle_(handle) {}
    /// The handle itself, for functions that have no wrapper.
    T *get() const noexcept { return handle_.get(); }

private:
    struct Destroy {
        void operator()(T *handle) const noexcept { destroy(handle); }
    };
    std::unique_ptr<T, Destroy> handle_;
};

/// What a function with a last argument `out` makes.
template <typename T, typename... Parameters, typename... Arguments>
T *make(tritgemm_status (*function)(Parameters...), Arguments... arguments) {
    T *handle = nullptr;
    check(function(arguments..., &handle));
    return handle;
}

/// Pins the backend of the process by its name; nullptr returns to the automatic choice.
inline void pin(const char *name) { check(tritgemm_pin(name)); }

inline std::vector<std::string> backends() {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < tritgemm_backend_count(); i++) {
        names.emplace_back(tritgemm_backend_name(i));
    }
    return names;
}

/// A ternary matrix [M][K] with its scales.
class Matrix : public Handle<tritgemm_matrix, tritgemm_matrix_destroy> {
public:
    using Handle::Handle;

    static Matrix from_trits(Span<const std::int8_t> trits, std::size_t rows, std::size_t cols,
                             tritgemm_granularity granularity, Span<const float> scales) {
        return Matrix(make<tritgemm_matrix>(tritgemm_matrix_from_trits, trits.data(), trits.size(),
                                            rows, cols, std::int32_t(granularity), scales.data(),
                                            scales.size()));
    }

    static Matrix from_packed(Span<const std::uint8_t> packed, std::size_t rows, std::size_t cols,
                              tritgemm_granularity granularity, Span<const float> scales) {
        return Matrix(make<tritgemm_matrix>(tritgemm_matrix_from_packed, packed.data(),
                                            packed.size(), rows, cols, std::int32_t(granularity),
                                            scales.data(), scales.size()));
    }

    static Matrix quantize(Span<const float> weights, std::size_t rows, std::size_t cols,
                           tritgemm_granularity granularity) {
        return Matrix(make<tritgemm_matrix>(tritgemm_matrix_quantize, weights.data(),
                                            weights.size(), rows, cols,
                                            std::int32_t(granularity)));
    }

    std::size_t rows() const { return tritgemm_matrix_rows(get()); }
    std::size_t cols() const { return tritgemm_matrix_cols(get()); }

    /// Lives as long as the matrix.
    Span<const std::uint8_t> packed() const {
        const std::uint8_t *data = nullptr;
        std::size_t size = 0;
        check(tritgemm_matrix_packed(get(), &data, &size));
        return {data, size};
    }

    /// Lives as long as the matrix.
    Span<const float> scales() const {
        const float *data = nullptr;
        std::size_t size = 0;
        std::int32_t granularity = 0;
        check(tritgemm_matrix_scales(get(), &granularity, &data, &size));
        return {data, size};
    }

    std::vector<std::int8_t> trits() const {
        std::vector<std::int8_t> trits(rows() * cols());
        const auto bytes = packed();
        check(tritgemm_unpack(bytes.data(), bytes.size(), rows(), cols(), trits.data(),
                              trits.size(), TRITGEMM_STRICT));
        return trits;
    }
};

/// The threads of a parallel region: one of them leads, the others help.
class Team : public Handle<tritgemm_team, tritgemm_team_destroy> {
public:
    using Handle::Handle;

    explicit Team(std::size_t nth) : Handle(make<tritgemm_team>(tritgemm_team_create, nth)) {}

    /// Runs `work` on this thread, with products on a workspace that has the team, and ends the
    /// region, also if `work` throws.
    template <typename Work> auto lead(std::uint64_t region, Work &&work) const {
        struct End {
            tritgemm_team *team;
            std::uint64_t region;
            ~End() { tritgemm_team_end(team, region); }
        };
        if (region <= last_region()) {
            throw Error(TRITGEMM_INVALID_ARGUMENT, "the region has ended");
        }
        const End end{get(), region};
        return std::forward<Work>(work)();
    }

    /// Helps until the region's leader has ended it.
    void help(std::uint64_t region) const { check(tritgemm_team_help(get(), region)); }

    std::uint64_t last_region() const { return tritgemm_team_last_region(get()); }
};

/// Memory that products reuse, and how they run. Its address may be known to the
/// threads, so it does not move.
class Workspace {
public:
    /// Runs body(item) for every item below `items`, on any threads, and
    /// returns when all have.
    using ParallelFor =
        std::function<void(std::size_t items, const std::function<void(std::size_t)> &body)>;

    Workspace() : handle_(make<tritgemm_workspace>(tritgemm_workspace_create)) {}
    Workspace(const Workspace &) = delete;
    Workspace &operator=(const Workspace &) = delete;

    /// Pins the backend by its name; nullptr returns to that of the process.
    void pin(const char *name) { check(tritgemm_workspace_pin(get(), name)); }

    /// Says whether weights are in the cache when a product starts.
    void set_weights_in_cache(bool weights_in_cache) {
        check(tritgemm_workspace_set_weights_in_cache(get(), weights_in_cache));
    }

    /// Says whether a NaN or an infinity makes its token's outputs NaN, instead of an error.
    void set_propagate_non_finite(bool propagate) {
        check(tritgemm_workspace_set_propagate_non_finite(get(), propagate));
    }

    /// Runs products on the caller's threads. What `run` throws is thrown again
    /// by the product.
    void set_parallel_for(std::size_t workers, ParallelFor run) {
        check(tritgemm_workspace_set_parallel_for(get(), workers, call, this));
        run_ = std::move(run);
    }

    /// Back to the calling thread.
    void clear_parallel_for() {
        check(tritgemm_workspace_set_parallel_for(get(), 1, nullptr, nullptr));
        run_ = nullptr;
    }

    /// Runs products on the threads that help a team, in place of a parallel-for.
    void set_team(const Team &team) {
        check(tritgemm_workspace_set_team(get(), team.get()));
        run_ = nullptr;
    }

    /// Back to the calling thread.
    void clear_team() {
        check(tritgemm_workspace_set_team(get(), nullptr));
        run_ = nullptr;
    }

    tritgemm_workspace *get() const noexcept { return handle_.get(); }

    /// Throws what the parallel-for threw, or if `status` is an error.
    void check_product(tritgemm_status status) {
        if (auto thrown = std::exchange(thrown_, nullptr)) {
            std::rethrow_exception(thrown);
        }
        check(status);
    }

private:
    static void call(void *ctx, std::size_t items, tritgemm_work work, void *work_ctx) noexcept {
        auto *workspace = static_cast<Workspace *>(ctx);
        try {
            workspace->run_(items, [=](std::size_t item) { work(work_ctx, item); });
        } catch (...) {
            workspace->thrown_ = std::current_exception();
        }
    }

    Handle<tritgemm_workspace, tritgemm_workspace_destroy> handle_;
    ParallelFor run_;
    std::exception_ptr thrown_;
};

/// Where outputs go: see output().
using Output = tritgemm_output;

/// Rows that outputs replace, or are added to.
inline Output output(Rows<float> rows, bool add = false) {
    return {rows.memory.data(), rows.memory.size(), rows.stride, TRITGEMM_F32, add};
}

/// As output(), of 16 bits in the type TRITGEMM_F16 or TRITGEMM_BF16.
inline Output output(Rows<std::uint16_t> rows, tritgemm_float type, bool add = false) {
    return {rows.memory.data(), rows.memory.size(), rows.stride, type, add};
}

/// Activations made ready once for several matrices, by Linear::prepare_int8(),
/// Linear::prepare_f32() or of int8 values.
class Prepared : public Handle<tritgemm_prepared, tritgemm_prepared_destroy> {
public:
    using Handle::Handle;

    /// Of activations that are int8 already; `group` is that of the layers.
    static Prepared from_int8(std::size_t tokens, std::size_t cols, Rows<const std::int8_t> x,
                              Span<const float> token_scales, std::size_t group,
                              Workspace &workspace) {
        tritgemm_prepared *handle = nullptr;
        workspace.check_product(tritgemm_prepared_from_int8(
            tokens, cols, x.memory.data(), x.memory.size(), x.stride, 0, token_scales.data(),
            token_scales.size(), group, workspace.get(), &handle));
        return Prepared(handle);
    }

    std::size_t tokens() const { return tritgemm_prepared_tokens(get()); }
    std::size_t cols() const { return tritgemm_prepared_cols(get()); }
};

/// A ternary matrix as the kernels read it.
class Panels : public Handle<tritgemm_panels, tritgemm_panels_destroy> {
public:
    using Handle::Handle;

    static Panels pack(const Matrix &matrix) {
        return Panels(make<tritgemm_panels>(tritgemm_panels_pack, matrix.get()));
    }

    /// `bytes` outlives every handle that is made of it.
    static Panels from_memory(Span<const std::uint8_t> bytes, std::size_t rows, std::size_t cols) {
        return Panels(make<tritgemm_panels>(tritgemm_panels_from_memory, bytes.data(),
                                            bytes.size(), rows, cols));
    }

    std::size_t rows() const { return tritgemm_panels_rows(get()); }
    std::size_t cols() const { return tritgemm_panels_cols(get()); }

    /// Lives as long as the panels.
    Span<const std::uint8_t> bytes() const {
        const std::uint8_t *data = nullptr;
        std::size_t size = 0;
        check(tritgemm_panels_bytes(get(), &data, &size));
        return {data, size};
    }

    Panels slice_rows(std::size_t begin, std::size_t end) const {
        return Panels(make<tritgemm_panels>(tritgemm_panels_slice_rows, get(), begin, end));
    }

    void gemm_i8(std::size_t tokens, Rows<const std::int8_t> x, Rows<std::int32_t> y,
                 Workspace &workspace) const {
        workspace.check_product(tritgemm_panels_gemm_i8(
            get(), tokens, x.memory.data(), x.memory.size(), x.stride, y.memory.data(),
            y.memory.size(), y.stride, workspace.get()));
    }

    void gemm_i8(const Prepared &x, Rows<std::int32_t> y, Workspace &workspace) const {
        workspace.check_product(tritgemm_panels_gemm_i8_prepared(
            get(), x.get(), y.memory.data(), y.memory.size(), y.stride, workspace.get()));
    }
};

class Linear;
inline std::vector<const tritgemm_linear *> handles_of(Span<const Linear *const> layers);

/// A linear layer.
class Linear : public Handle<tritgemm_linear, tritgemm_linear_destroy> {
public:
    using Handle::Handle;

    explicit Linear(const Matrix &matrix, Span<const float> bias = {})
        : Handle(make<tritgemm_linear>(tritgemm_linear_create, matrix.get(), bias.data(),
                                       bias.size())) {}

    Linear(const Panels &panels, tritgemm_granularity granularity, Span<const float> scales,
           Span<const float> bias = {})
        : Handle(make<tritgemm_linear>(tritgemm_linear_from_panels, panels.get(),
                                       std::int32_t(granularity), scales.data(), scales.size(),
                                       bias.data(), bias.size())) {}

    std::size_t rows() const { return tritgemm_linear_rows(get()); }
    std::size_t cols() const { return tritgemm_linear_cols(get()); }
    std::size_t group() const { return tritgemm_linear_group(get()); }

    Linear slice_rows(std::size_t begin, std::size_t end) const {
        return Linear(make<tritgemm_linear>(tritgemm_linear_slice_rows, get(), begin, end));
    }

    void save(const std::string &path) const { check(tritgemm_linear_save(get(), path.c_str())); }

    /// Rotates inputs in blocks, with a sign for each of K or none.
    Linear with_rotation(std::size_t block, Span<const std::int8_t> signs = {}) const {
        return Linear(make<tritgemm_linear>(tritgemm_linear_with_rotation, get(), block,
                                            signs.data(), signs.size()));
    }

    /// A row of weights times their scales, K values.
    void unpack_row(std::size_t row, Span<float> y) const {
        check(tritgemm_linear_unpack_row(get(), row, y.data(), y.size()));
    }

    /// W1.58A8: int8 inside.
    void forward_int8(std::size_t tokens, Rows<const float> x, Rows<float> y,
                      Workspace &workspace) const {
        workspace.check_product(tritgemm_linear_forward_int8(
            get(), tokens, TRITGEMM_F32, x.memory.data(), x.memory.size(), x.stride,
            y.memory.data(), y.memory.size(), y.stride, workspace.get()));
    }

    /// f32 throughout.
    void forward_f32(std::size_t tokens, Rows<const float> x, Rows<float> y,
                     Workspace &workspace) const {
        workspace.check_product(tritgemm_linear_forward_f32(
            get(), tokens, x.memory.data(), x.memory.size(), x.stride, y.memory.data(),
            y.memory.size(), y.stride, workspace.get()));
    }

    /// Of several layers in one loop, output `i` of `layers[i]`: see output().
    static void forward_many(Span<const Linear *const> layers, Span<const Output> outputs,
                             const Prepared &x, Workspace &workspace) {
        if (layers.size() != outputs.size()) {
            throw std::invalid_argument("as many outputs as layers");
        }
        const auto handles = handles_of(layers);
        workspace.check_product(tritgemm_linear_forward_many(
            handles.data(), outputs.data(), outputs.size(), x.get(), workspace.get()));
    }

    /// int8 or f32, as `x` was prepared.
    void forward_prepared(const Prepared &x, Rows<float> y, Workspace &workspace) const {
        workspace.check_product(tritgemm_linear_forward_prepared(
            get(), x.get(), y.memory.data(), y.memory.size(), y.stride, workspace.get()));
    }

    /// For the int8 pass of this layer and of others with the same K and group.
    /// `x_group` values of a token share a scale, or all (0).
    Prepared prepare_int8(std::size_t tokens, Rows<const float> x, Workspace &workspace,
                          std::size_t x_group = 0) const {
        tritgemm_prepared *handle = nullptr;
        workspace.check_product(tritgemm_linear_prepare_int8(get(), tokens, TRITGEMM_F32,
                                                             x.memory.data(), x.memory.size(),
                                                             x.stride, x_group, workspace.get(),
                                                             &handle));
        return Prepared(handle);
    }

    /// As prepare_int8(), in the memory of `prepared`.
    void prepare_int8_into(std::size_t tokens, Rows<const float> x, Prepared &prepared,
                           Workspace &workspace, std::size_t x_group = 0) const {
        workspace.check_product(tritgemm_linear_prepare_int8_into(
            get(), tokens, TRITGEMM_F32, x.memory.data(), x.memory.size(), x.stride, x_group,
            workspace.get(), prepared.get()));
    }

    /// As prepare_f32(), in the memory of `prepared`.
    void prepare_f32_into(std::size_t tokens, Rows<const float> x, Prepared &prepared,
                          Workspace &workspace) const {
        workspace.check_product(tritgemm_linear_prepare_f32_into(
            get(), tokens, x.memory.data(), x.memory.size(), x.stride, workspace.get(),
            prepared.get()));
    }

    /// As prepare_int8(), for the f32 pass.
    Prepared prepare_f32(std::size_t tokens, Rows<const float> x, Workspace &workspace) const {
        tritgemm_prepared *handle = nullptr;
        workspace.check_product(tritgemm_linear_prepare_f32(get(), tokens, x.memory.data(),
                                                            x.memory.size(), x.stride,
                                                            workspace.get(), &handle));
        return Prepared(handle);
    }
};

inline std::vector<const tritgemm_linear *> handles_of(Span<const Linear *const> layers) {
    std::vector<const tritgemm_linear *> handles;
    for (const Linear *layer : layers) {
        handles.push_back(layer->get());
    }
    return handles;
}

/// Activations made ready for the experts that their tokens were sent to.
class Routed : public Handle<tritgemm_routed, tritgemm_routed_destroy> {
public:
    Routed() : Handle(make<tritgemm_routed>(tritgemm_routed_create)) {}

    std::size_t rows() const { return tritgemm_routed_rows(get()); }
};

/// The experts of a mixture.
class Experts : public Handle<tritgemm_experts, tritgemm_experts_destroy> {
public:
    using Handle::Handle;

    static Experts of(Span<const Linear *const> layers) {
        const auto handles = handles_of(layers);
        return Experts(
            make<tritgemm_experts>(tritgemm_experts_create, handles.data(), handles.size()));
    }

    /// `sent` are the tokens of expert 0, `counts[0]` of them, then those of expert 1, ...
    void prepare_int8(std::size_t tokens, Rows<const float> x, Span<const std::size_t> sent,
                      Span<const std::size_t> counts, Routed &routed, Workspace &workspace,
                      std::size_t x_group = 0) const {
        workspace.check_product(tritgemm_experts_prepare_int8(
            get(), tokens, TRITGEMM_F32, x.memory.data(), x.memory.size(), x.stride, x_group,
            sent.data(),
            sent.size(), counts.data(), counts.size(), workspace.get(), routed.get()));
    }

    /// As prepare_int8(), for the f32 pass.
    void prepare_f32(std::size_t tokens, Rows<const float> x, Span<const std::size_t> sent,
                     Span<const std::size_t> counts, Routed &routed, Workspace &workspace) const {
        workspace.check_product(tritgemm_experts_prepare_f32(
            get(), tokens, x.memory.data(), x.memory.size(), x.stride, sent.data(), sent.size(),
            counts.data(), counts.size(), workspace.get(), routed.get()));
    }

    /// Row after row, expert after expert.
    void forward(const Routed &x, Output output, Workspace &workspace) const {
        workspace.check_product(
            tritgemm_experts_forward(get(), x.get(), &output, workspace.get()));
    }

    /// Row `i` into row `to[i]` of the `tokens` rows of `y`.
    void scatter(const Routed &x, Span<const std::size_t> to, std::size_t tokens, Rows<float> y,
                 Workspace &workspace) const {
        workspace.check_product(tritgemm_experts_scatter(get(), x.get(), to.data(), to.size(),
                                                         tokens, y.memory.data(),
                                                         y.memory.size(), y.stride,
                                                         workspace.get()));
    }

    /// Row `i` times `weights[i]` added to row `to[i]` of the `tokens` rows of `y`.
    void add_weighted(const Routed &x, Span<const std::size_t> to, Span<const float> weights,
                      std::size_t tokens, Rows<float> y, Workspace &workspace) const {
        workspace.check_product(tritgemm_experts_add_weighted(
            get(), x.get(), to.data(), to.size(), weights.data(), weights.size(), tokens,
            y.memory.data(), y.memory.size(), y.stride, workspace.get()));
    }
};

/// A panel file.
class PanelFile : public Handle<tritgemm_panel_file, tritgemm_panel_file_destroy> {
public:
    using Handle::Handle;

    /// The file must not change while anything that was made of it lives.
    static PanelFile map(const std::string &path, tritgemm_verify verify = TRITGEMM_VERIFY_FULL) {
        return PanelFile(make<tritgemm_panel_file>(tritgemm_panel_file_map, path.c_str(),
                                                   std::int32_t(verify)));
    }

    static PanelFile load(const std::string &path) {
        return PanelFile(make<tritgemm_panel_file>(tritgemm_panel_file_load, path.c_str()));
    }

    /// `bytes` outlives every handle that is made of it.
    static PanelFile from_memory(Span<const std::uint8_t> bytes,
                                 tritgemm_verify verify = TRITGEMM_VERIFY_FULL) {
        return PanelFile(make<tritgemm_panel_file>(tritgemm_panel_file_from_memory, bytes.data(),
                                                   bytes.size(), std::int32_t(verify)));
    }

    Linear linear() const {
        return Linear(make<tritgemm_linear>(tritgemm_panel_file_linear, get()));
    }

    Panels panels() const {
        return Panels(make<tritgemm_panels>(tritgemm_panel_file_panels, get()));
    }
};

/// A panel file of a whole model.
class ModelFile : public Handle<tritgemm_model_file, tritgemm_model_file_destroy> {
public:
    using Handle::Handle;

    /// The file must not change while anything that was made of it lives.
    static ModelFile map(const std::string &path, tritgemm_verify verify = TRITGEMM_VERIFY_FULL) {
        return ModelFile(make<tritgemm_model_file>(tritgemm_model_file_map, path.c_str(),
                                                   std::int32_t(verify)));
    }

    static ModelFile load(const std::string &path) {
        return ModelFile(make<tritgemm_model_file>(tritgemm_model_file_load, path.c_str()));
    }

    static void save(const std::string &path, const std::vector<std::string> &names,
                     Span<const Linear *const> layers) {
        if (names.size() != layers.size()) {
            throw std::invalid_argument("as many names as layers");
        }
        std::vector<const char *> texts;
        for (const auto &name : names) {
            texts.push_back(name.c_str());
        }
        const auto handles = handles_of(layers);
        check(tritgemm_model_file_save(path.c_str(), texts.data(), handles.data(), texts.size()));
    }

    std::vector<std::string> names() const {
        std::vector<std::string> names;
        for (std::size_t i = 0; i < tritgemm_model_file_count(get()); i++) {
            names.emplace_back(tritgemm_model_file_name(get(), i));
        }
        return names;
    }

    Linear linear(const std::string &name) const {
        return Linear(make<tritgemm_linear>(tritgemm_model_file_linear, get(), name.c_str()));
    }
};

/// A model of GGUF, safetensors, ONNX or panel files, of one or of many.
class Model : public Handle<tritgemm_model, tritgemm_model_destroy> {
public:
    using Handle::Handle;

    /// The files must not change while the model lives.
    static Model open(const std::string &path) {
        return Model(make<tritgemm_model>(tritgemm_model_open, path.c_str()));
    }

    /// With what files do not say of themselves: see tritgemm_model_open_with().
    static Model open(const std::string &path, const char *linear_class, std::size_t rows,
                      const char *i2s_layout) {
        return Model(make<tritgemm_model>(tritgemm_model_open_with, path.c_str(), linear_class,
                                          rows, i2s_layout));
    }

    /// What a reader has to know.
    std::vector<std::string> notes() const {
        std::vector<std::string> notes;
        for (std::size_t i = 0; i < tritgemm_model_note_count(get()); i++) {
            notes.emplace_back(tritgemm_model_note(get(), i));
        }
        return notes;
    }

    std::vector<std::string> names() const {
        std::vector<std::string> names;
        for (std::size_t i = 0; i < tritgemm_model_count(get()); i++) {
            names.emplace_back(tritgemm_model_name(get(), i));
        }
        return names;
    }

    Linear linear(const std::string &name) const {
        return Linear(make<tritgemm_linear>(tritgemm_model_linear, get(), name.c_str()));
    }
};

} // namespace tritgemm

#endif
