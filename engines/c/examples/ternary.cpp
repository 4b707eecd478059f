// Ternary layers from C++: gate and up share prepared activations, run on
// std::thread, go through a panel file, and are split into shards.
//
//     cargo build --release -p tritgemm-capi
//     c++ -std=c++17 engines/c/examples/ternary.cpp -Iengines/c/include
//         target/release/libtritgemm_capi.a -lpthread -ldl -lm -o ternary && ./ternary

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "tritgemm.hpp"

namespace {

constexpr std::size_t M = 256, K = 520, tokens = 33, workers = 3;

std::vector<float> random_floats(std::size_t count, unsigned state) {
    std::vector<float> values(count);
    for (auto &value : values) {
        state = state * 1664525u + 1013904223u;
        value = float(state >> 8) / 8388608.0f - 1.0f;
    }
    return values;
}

// Starts its threads for every loop; an engine has a pool.
void on_threads(std::size_t items, const std::function<void(std::size_t)> &body) {
    std::atomic<std::size_t> next{0};
    const auto work = [&] {
        for (std::size_t item; (item = next++) < items;) {
            body(item);
        }
    };
    std::vector<std::thread> threads;
    for (std::size_t i = 1; i < workers; i++) {
        threads.emplace_back(work);
    }
    work();
    for (auto &thread : threads) {
        thread.join();
    }
}

void require(bool holds, const char *what) {
    if (!holds) {
        std::cerr << "FAILED: " << what << "\n";
        std::exit(EXIT_FAILURE);
    }
    std::cout << "ok: " << what << "\n";
}

// The exact product by its definition.
std::vector<std::int32_t> plain_product(const std::vector<std::int8_t> &trits,
                                        const std::vector<std::int8_t> &x) {
    std::vector<std::int32_t> y(tokens * M);
    for (std::size_t n = 0; n < tokens; n++) {
        for (std::size_t m = 0; m < M; m++) {
            for (std::size_t k = 0; k < K; k++) {
                y[n * M + m] += trits[m * K + k] * x[n * K + k];
            }
        }
    }
    return y;
}

void run(const std::string &path) {
    using namespace tritgemm;
    const auto matrix = Matrix::quantize(random_floats(M * K, 1), M, K, TRITGEMM_PER_GROUP128);
    const auto bias = random_floats(M, 2);
    const Linear gate(matrix, bias), up(matrix);
    const auto x = random_floats(tokens * K, 3);
    Workspace workspace;
    workspace.set_parallel_for(workers, on_threads);

    // The raw product, exactly.
    std::vector<std::int8_t> x_i8(tokens * K);
    std::transform(x.begin(), x.end(), x_i8.begin(), [](float v) { return std::int8_t(v * 127); });
    std::vector<std::int32_t> sums(tokens * M);
    const auto panels = Panels::pack(matrix);
    panels.gemm_i8(tokens, {x_i8, K}, {sums, M}, workspace);
    require(sums == plain_product(matrix.trits(), x_i8), "the int8 product is exact");
    std::vector<std::int32_t> from_prepared(tokens * M);
    const std::vector<float> ones(tokens, 1.0f);
    const auto exact = Prepared::from_int8(tokens, K, {x_i8, K}, ones, 0, workspace);
    panels.gemm_i8(exact, {from_prepared, M}, workspace);
    require(from_prepared == sums, "and so it is of prepared activations");

    // Both layers from the same prepared activations.
    const auto prepared = gate.prepare_int8(tokens, {x, K}, workspace);
    std::vector<float> y(tokens * M), z(tokens * M), wanted(tokens * M), joined(tokens * M);
    gate.forward_prepared(prepared, {y, M}, workspace);
    up.forward_prepared(prepared, {z, M}, workspace);
    gate.forward_int8(tokens, {x, K}, {wanted, M}, workspace);
    require(y == wanted, "prepared activations give the same");
    bool biased = true;
    for (std::size_t i = 0; i < y.size(); i++) {
        biased = biased && y[i] == z[i] + bias[i % M];
    }
    require(biased, "gate and up differ by the bias");

    // Both in one loop, the second one added to what is there.
    std::fill(y.begin(), y.end(), 0.0f);
    const std::vector<const Linear *> both{&gate, &up};
    const std::vector<Output> outputs{output({y, M}), output({joined, M})};
    Linear::forward_many(both, outputs, prepared, workspace);
    require(y == wanted && joined == z, "one loop gives the same");
    Linear::forward_many(both, std::vector<Output>{output({y, M}, true), output({joined, M}, true)},
                         prepared, workspace);
    require(y[0] == 2 * wanted[0] && joined[M] == 2 * z[M], "outputs are added to");

    // As two experts: token 5 goes to both, token 0 to the second.
    const auto experts = Experts::of(both);
    const std::vector<std::size_t> sent{5, 5, 0}, counts{1, 2}, to{1, 1, 0};
    Routed routed;
    experts.prepare_int8(tokens, {x, K}, sent, counts, routed, workspace);
    std::vector<float> rows(3 * M), sums_of_two(2 * M);
    experts.forward(routed, output({rows, M}), workspace);
    require(rows[0] == wanted[5 * M] && rows[M] == z[5 * M] && rows[2 * M] == z[0],
            "experts give the same");
    experts.add_weighted(routed, to, std::vector<float>{1, 2, 3}, 2, {sums_of_two, M}, workspace);
    require(sums_of_two[0] == 3 * rows[2 * M] && sums_of_two[M] == rows[0] + 2 * rows[M],
            "and are added by weight");
    experts.scatter(routed, std::vector<std::size_t>{2, 0, 1}, 3, {joined, M}, workspace);
    require(joined[0] == rows[M] && joined[2 * M] == rows[0], "and go where they are sent");

    // The same bits on the f32 path, and whatever is said about speed.
    const auto floats = gate.prepare_f32(tokens, {x, K}, workspace);
    gate.forward_f32(tokens, {x, K}, {y, M}, workspace);
    workspace.set_weights_in_cache(true);
    for (const auto &name : backends()) {
        workspace.pin(name.c_str());
        gate.forward_prepared(floats, {z, M}, workspace);
        require(y == z, ("prepared floats give the same on " + name).c_str());
    }
    workspace.set_weights_in_cache(false);
    workspace.pin(nullptr);

    // Two shards write the columns of one output.
    for (std::size_t begin = 0; begin < M; begin += M / 2) {
        const auto shard = gate.slice_rows(begin, begin + M / 2);
        const Span<float> columns(joined.data() + begin, joined.size() - begin);
        shard.forward_prepared(prepared, {columns, M}, workspace);
    }
    require(joined == wanted, "shards give the same");

    // Through a file that is mapped, without the layer it came from.
    gate.save(path);
    const auto mapped = PanelFile::map(path).linear();
    mapped.forward_prepared(prepared, {z, M}, workspace);
    require(z == wanted, "a mapped panel file gives the same");

    // A model of both, by their names.
    ModelFile::save(path, {"gate", "up"}, both);
    const auto model = ModelFile::map(path, TRITGEMM_VERIFY_HEADER);
    require(model.names() == std::vector<std::string>{"gate", "up"}, "a model has names");
    model.linear("gate").forward_prepared(prepared, {z, M}, workspace);
    require(z == wanted, "a layer of a model gives the same");
    try {
        model.linear("down");
        require(false, "a name that is not there is an error");
    } catch (const Error &error) {
        require(error.status() == TRITGEMM_INVALID_ARGUMENT, error.what());
    }

    // One row, and activations with a scale for each group.
    std::vector<float> row(K), ones_row(K, 1.0f), one(M);
    up.unpack_row(7, row);
    float sum = 0;
    for (float value : row) {
        sum += value;
    }
    up.forward_f32(1, {ones_row, K}, {one, M}, workspace);
    require(std::abs(one[7] - sum) < 1e-2f, "a row sums to the product with ones");
    gate.forward_prepared(gate.prepare_int8(tokens, {x, K}, workspace, 32), {z, M}, workspace);
    float worst = 0, worst_grouped = 0;
    for (std::size_t i = 0; i < z.size(); i++) {
        worst = std::max(worst, std::abs(wanted[i] - y[i]));
        worst_grouped = std::max(worst_grouped, std::abs(z[i] - y[i]));
    }
    require(z != wanted && worst_grouped < worst, "groups of activations are nearer to f32");

    // A rotated input: the layer's f32 product with what its inverse gives is the plain one.
    const std::vector<std::int8_t> signs(K, -1);
    const auto rotated = gate.with_rotation(1, signs);
    std::vector<float> negated(x);
    for (float &value : negated) {
        value = -value;
    }
    rotated.forward_f32(tokens, {negated, K}, {z, M}, workspace);
    require(z == y && tritgemm_linear_rotated_block(rotated.get()) == 1, "signs turn inputs");

    // Panels in memory of our own, here a vector, used where they are.
    const std::vector<std::uint8_t> bytes(panels.bytes().begin(), panels.bytes().end());
    const Linear borrowed(Panels::from_memory(bytes, M, K), TRITGEMM_PER_GROUP128, matrix.scales(),
                          bias);
    borrowed.forward_prepared(prepared, {z, M}, workspace);
    require(z == wanted, "panels in borrowed memory give the same");

    // Errors and exceptions.
    try {
        gate.forward_int8(tokens, {x, K - 1}, {y, M}, workspace);
        require(false, "a stride that is too small is an error");
    } catch (const Error &error) {
        require(error.status() == TRITGEMM_INVALID_SIZE, error.what());
    }
    workspace.set_parallel_for(workers, [](std::size_t, const auto &) { throw 42; });
    try {
        gate.forward_f32(tokens, {x, K}, {y, M}, workspace);
        require(false, "what the threads throw comes out");
    } catch (int thrown) {
        require(thrown == 42, "what the threads throw comes out");
    }
    // The threads of a parallel region.
    const Team team(workers);
    workspace.set_team(team);
    for (int round = 0; round < 3; round++) {
        const auto region = team.last_region() + 1;
        std::vector<std::thread> helpers;
        for (std::size_t i = 1; i < workers; i++) {
            helpers.emplace_back([&] { team.help(region); });
        }
        std::fill(y.begin(), y.end(), 0.0f);
        team.lead(region, [&] { gate.forward_int8(tokens, {x, K}, {y, M}, workspace); });
        for (auto &helper : helpers) {
            helper.join();
        }
        require(y == wanted, "a team gives the same");
    }
    try {
        team.lead(1, [] {});
        require(false, "a region that has ended is an error");
    } catch (const Error &error) {
        require(error.status() == TRITGEMM_INVALID_ARGUMENT, error.what());
    }

    workspace.clear_team();
    gate.forward_int8(tokens, {x, K}, {y, M}, workspace);
    require(y == wanted, "one thread gives the same");
}

} // namespace

int main(int argc, char **argv) {
    const std::string path = argc > 1 ? argv[1] : "ternary-example.panels";
    try {
        run(path);
    } catch (const std::exception &error) {
        std::cerr << "FAILED: " << error.what() << "\n";
        std::remove(path.c_str());
        return EXIT_FAILURE;
    }
    std::remove(path.c_str());
    return EXIT_SUCCESS;
}
