// Sums over the pairs of many resamples, row by row of the matrices: see streaming.py.
//
// Sixteen resamples are the lanes of vectors throughout. A result depends neither on the number of
// threads, which share groups of resamples, nor on the rows that are handed over at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "ranked.hpp"
#include "registry.hpp"
#include "simd.hpp"

namespace rsafast::resample::streaming {

using Index = std::ptrdiff_t;

inline constexpr Index classes = 1 << 16;  // of values, in their order
inline constexpr Index stretch = 64;       // pairs whose products are added up in float32
inline constexpr Index ahead = 16;         // pairs: tables are larger than the L2 cache

typedef std::uint16_t Counts __attribute__((vector_size(lanes * sizeof(std::uint16_t))));
using Floats = Simd<float>;
inline constexpr int float_parts = lanes / static_cast<int>(Floats::width);

// By reference: without AVX such a vector has no way of its own to be handed over.
inline void load_counts(const std::uint16_t* from, Counts& to) { std::memcpy(&to, from, sizeof to); }

// Copies of a pair in 16 resamples. Its two counts are at most 255.
inline void copies_of(const Counts& of_row, const std::uint16_t* of_column,
                      Words::type (&out)[word_parts]) {
    Counts product;
    load_counts(of_column, product);
    product *= of_row;
#if defined(__AVX512F__)
    out[0] = Words::type(_mm512_cvtepu16_epi32(__m256i(product)));
#elif defined(__AVX2__)
    const auto v = __m256i(product);
    out[0] = Words::type(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(v)));
    out[1] = Words::type(_mm256_cvtepu16_epi32(_mm256_extracti128_si256(v, 1)));
#else
    std::uint16_t each[lanes];
    std::memcpy(each, &product, sizeof each);
    for (int part = 0; part < word_parts; ++part)
        out[part] = weights_of(each + part * Words::width);
#endif
}

// Rows first..last with all stimuli after them, and where each row's pairs begin among them.
struct Panel {
    Index n, first, last;
    Index begin(Index row) const { return row * n - row * (row + 1) / 2; }
    Index at(Index row) const { return begin(row) - begin(first); }
    Index pairs() const { return at(last); }
};

// ---------------------------------------------------------------- ranks

inline void fetch_line(const void* tables, const std::uint16_t* at, const std::uint16_t* end) {
    if (at + ahead < end)
        __builtin_prefetch(static_cast<const char*>(tables) + at[ahead] * lanes * sizeof(float), 0);
}

// table[class][lane] grows by the copies of every pair of that class.
inline void count(const std::uint16_t* values, const Panel& panel, const std::uint16_t* weights,
                  std::uint32_t* table) {
    const std::uint16_t* const end = values + panel.pairs();
    for (Index i = panel.first; i < panel.last; ++i) {
        Counts of_row;
        load_counts(weights + i * lanes, of_row);
        const std::uint16_t* at = values + panel.at(i) - (i + 1);
        for (Index j = i + 1; j < panel.n; ++j) {
            fetch_line(table, at + j, end);
            Words::type copies[word_parts];
            copies_of(of_row, weights + j * lanes, copies);
            auto* to = reinterpret_cast<std::int32_t*>(table + at[j] * lanes);
            for (int part = 0; part < word_parts; ++part) {
                std::int32_t* word = to + part * Words::width;
                Words::store(word, Words::load(word) + copies[part]);
            }
        }
    }
}

// Counts to centred average ranks, divided by the number of pairs, in their place; and the sum of
// their squares.
inline void ranks_of_counts(std::uint32_t* table, const double* pairs, double* squares) {
    double below[lanes] = {}, sums[lanes] = {}, scale[lanes];
    for (int l = 0; l < lanes; ++l) scale[l] = pairs[l] > 0 ? 1.0 / pairs[l] : 0.0;
    for (Index c = 0; c < classes; ++c) {
        std::uint32_t* line = table + c * lanes;
        float ranks[lanes];
        for (int l = 0; l < lanes; ++l) {
            const double copies = line[l];
            const double rank = (below[l] + (copies - pairs[l]) / 2) * scale[l];
            below[l] += copies;
            sums[l] += copies * rank * rank;
            ranks[l] = static_cast<float>(rank);
        }
        std::memcpy(line, ranks, sizeof ranks);
    }
    std::copy(sums, sums + lanes, squares);
}

// Which RDMs are multiplied with which.
struct Products {
    const std::int32_t* pairs;  // (count, 2) RDMs
    Index count;
};

// sums[q][lane] += copies * rank of the one RDM * rank of the other, for each of `products`.
// `room` is of rdms * stretch * lanes.
inline void multiply_ranks(const std::uint16_t* values, Index rdms, const Panel& panel,
                           const std::uint16_t* weights, const float* tables, Index table_stride,
                           const Products& products, float* room, double* sums) {
    const Index size = panel.pairs();
    std::vector<float> copies(stretch * lanes);
    for (Index i = panel.first; i < panel.last; ++i) {
        Counts of_row;
        load_counts(weights + i * lanes, of_row);
        const std::uint16_t* row = values + panel.at(i) - (i + 1);
        for (Index j = i + 1; j < panel.n; j += stretch) {
            const Index some = std::min(stretch, panel.n - j);
            for (Index k = 0; k < some; ++k) {
                Words::type words[word_parts];
                copies_of(of_row, weights + (j + k) * lanes, words);
                for (int part = 0; part < word_parts; ++part)
                    Floats::store(copies.data() + k * lanes + part * Floats::width,
                                  __builtin_convertvector(words[part], Floats::type));
            }
            for (Index m = 0; m < rdms; ++m) {
                const std::uint16_t* at = row + m * size + j;
                const float* table = tables + m * table_stride;
                float* to = room + m * stretch * lanes;
                for (Index k = 0; k < some; ++k) {
                    fetch_line(table, at + k, values + (m + 1) * size);
                    std::memcpy(to + k * lanes, table + at[k] * lanes, lanes * sizeof(float));
                }
            }
            for (Index q = 0; q < products.count; ++q) {
                const float* a = room + products.pairs[2 * q] * stretch * lanes;
                const float* b = room + products.pairs[2 * q + 1] * stretch * lanes;
                for (int part = 0; part < float_parts; ++part) {
                    const Index lane = part * static_cast<Index>(Floats::width);
                    Floats::type sum = {};
                    for (Index k = 0; k < some; ++k)
                        sum += Floats::load(a + k * lanes + lane) * Floats::load(b + k * lanes + lane) *
                               Floats::load(copies.data() + k * lanes + lane);
                    for (std::size_t l = 0; l < Floats::width; ++l) sums[q * lanes + lane + l] += sum[l];
                }
            }
        }
    }
}

// ---------------------------------------------------------------- values

using Doubles = Simd<double>;
inline constexpr Index tile_lanes = 2 * static_cast<Index>(Doubles::width);
inline constexpr int tile_rows = 6;    // of quantities: 12 sums in registers
inline constexpr Index columns = 256;  // of a block: its weights, 32 kB, stay in a cache
inline constexpr Index share = 4;      // groups of one task, which makes its products by itself:
                                       // threads that wait for each other stand still on busy machines

// out[q][lane] += sum over columns of z[q][column] * weights[column][lane].
template <int rows>
void add_tile(const double* z, const double* weights, Index length, double* out) {
    Doubles::type sum[rows][2] = {};
    for (Index j = 0; j < length; ++j) {
        const auto w0 = Doubles::load(weights + j * lanes);
        const auto w1 = Doubles::load(weights + j * lanes + Doubles::width);
        for (int q = 0; q < rows; ++q) {
            sum[q][0] += z[q * columns + j] * w0;
            sum[q][1] += z[q * columns + j] * w1;
        }
    }
    for (int q = 0; q < rows; ++q)
        for (int half = 0; half < 2; ++half) {
            double* to = out + q * lanes + half * Doubles::width;
            Doubles::store(to, Doubles::load(to) + sum[q][half]);
        }
}

template <int rows>
void add_rows(Index count, const double* z, const double* weights, Index length, double* out) {
    if (count >= rows) return add_tile<rows>(z, weights, length, out);
    if constexpr (rows > 1) add_rows<rows - 1>(count, z, weights, length, out);
}

// All quantities of one row's block of columns, for 16 resamples.
inline void add_block(const double* z, Index quantities, const double* weights, Index length,
                      double* out) {
    for (Index q = 0; q < quantities; q += tile_rows)
        for (Index lane = 0; lane < lanes; lane += tile_lanes)
            add_rows<tile_rows>(quantities - q, z + q * columns, weights + lane, length,
                                out + q * lanes + lane);
}

// Products of the listed pairs of RDMs, then the values themselves: (quantities, columns).
inline void quantities_of(const double* values, Index rdms, Index size, Index at, Index length,
                          const Products& products, double* z) {
    for (Index q = 0; q < products.count; ++q, z += columns) {
        const double* a = values + products.pairs[2 * q] * size + at;
        const double* b = values + products.pairs[2 * q + 1] * size + at;
        for (Index j = 0; j < length; ++j) z[j] = a[j] * b[j];
    }
    for (Index m = 0; m < rdms; ++m, z += columns)
        std::copy_n(values + m * size + at, length, z);
}

// sums[group][quantity][lane] grows by what the rows of a panel hold, for some groups of resamples.
// Every row is summed by itself, so that it does not matter which rows come together.
inline void add_values(const double* values, Index rdms, const Panel& panel, const double* weights,
                       Index groups, const Products& products, double* sums) {
    const Index size = panel.pairs(), quantities = products.count + rdms, of_group = quantities * lanes;
    const Index at_once = std::max<Index>(1, 64 / quantities);  // rows: 128 kB of quantities
    std::vector<double> z(at_once * quantities * columns), of_rows(groups * at_once * of_group);
    for (Index i = panel.first; i < panel.last; i += at_once) {
        const Index rows = std::min(at_once, panel.last - i);
        for (Index block = (i + 1) / columns * columns; block < panel.n; block += columns) {
            const Index end = std::min(block + columns, panel.n);
            const auto begin = [&](Index r) { return std::max(block, i + r + 1); };
            for (Index r = 0; r < rows; ++r)
                if (begin(r) < end)
                    quantities_of(values, rdms, size, panel.at(i + r) + begin(r) - (i + r + 1),
                                  end - begin(r), products, z.data() + r * quantities * columns);
            for (Index g = 0; g < groups; ++g)
                for (Index r = 0; r < rows; ++r)
                    if (begin(r) < end)
                        add_block(z.data() + r * quantities * columns, quantities,
                                  weights + (g * panel.n + begin(r)) * lanes, end - begin(r),
                                  of_rows.data() + (g * at_once + r) * of_group);
        }
        for (Index g = 0; g < groups; ++g)
            for (Index r = 0; r < rows; ++r) {
                double* row = of_rows.data() + (g * at_once + r) * of_group;
                const double* w = weights + (g * panel.n + i + r) * lanes;
                for (Index q = 0; q < of_group; ++q) sums[g * of_group + q] += w[q % lanes] * row[q];
                std::fill_n(row, of_group, 0.0);
            }
    }
}

// ---------------------------------------------------------------- bindings

inline void bind_count(Array<const std::uint16_t> values, Index first, Index last,
                       Array<const std::uint16_t> weights, Array<std::uint32_t> tables, int threads) {
    const Index rdms = values.shape(0), groups = weights.shape(0);
    const Panel panel{static_cast<Index>(weights.shape(1)), first, last};
    nb::gil_scoped_release release;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (Index task = 0; task < rdms * groups; ++task)
        count(values.data() + task % rdms * panel.pairs(), panel,
              weights.data() + task / rdms * panel.n * lanes, tables.data() + task * classes * lanes);
}

inline void bind_ranks(Array<std::uint32_t> tables, Array<const double> pairs, Array<double> squares,
                       int threads) {
    const Index groups = tables.shape(0), rdms = tables.shape(1);
    nb::gil_scoped_release release;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index task = 0; task < groups * rdms; ++task)
        ranks_of_counts(tables.data() + task * classes * lanes, pairs.data() + task / rdms * lanes,
                        squares.data() + task * lanes);
}

inline void bind_multiply(Array<const std::uint16_t> values, Index first, Index last,
                          Array<const std::uint16_t> weights, Array<const float> tables,
                          Array<const std::int32_t> pairs, Array<double> sums, int threads) {
    const Index rdms = values.shape(0), groups = weights.shape(0);
    const Panel panel{static_cast<Index>(weights.shape(1)), first, last};
    const Products products{pairs.data(), static_cast<Index>(pairs.shape(0))};
    nb::gil_scoped_release release;
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> room(rdms * stretch * lanes);
#pragma omp for schedule(dynamic)
        for (Index g = 0; g < groups; ++g)
            multiply_ranks(values.data(), rdms, panel, weights.data() + g * panel.n * lanes,
                           tables.data() + g * rdms * classes * lanes, classes * lanes, products,
                           room.data(), sums.data() + g * products.count * lanes);
    }
}

inline void bind_values(Array<const double> values, Index first, Index last,
                        Array<const double> weights, Array<const std::int32_t> pairs,
                        Array<double> sums, int threads) {
    const Panel panel{static_cast<Index>(weights.shape(1)), first, last};
    const Products products{pairs.data(), static_cast<Index>(pairs.shape(0))};
    const Index groups = weights.shape(0);
    const Index rdms = values.shape(0), of_group = (products.count + rdms) * lanes;
    nb::gil_scoped_release release;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (Index first = 0; first < groups; first += share)
        add_values(values.data(), rdms, panel, weights.data() + first * panel.n * lanes,
                   std::min(share, groups - first), products, sums.data() + first * of_group);
}

inline void bind(nb::module_& m) {
    m.def("resample_count_classes", &bind_count, nb::arg("values").noconvert(), nb::arg("first"),
          nb::arg("last"), nb::arg("weights").noconvert(), nb::arg("tables").noconvert(),
          nb::arg("threads"));
    m.def("resample_rank_classes", &bind_ranks, nb::arg("tables").noconvert(),
          nb::arg("pairs").noconvert(), nb::arg("squares").noconvert(), nb::arg("threads"));
    m.def("resample_multiply_ranks", &bind_multiply, nb::arg("values").noconvert(), nb::arg("first"),
          nb::arg("last"), nb::arg("weights").noconvert(), nb::arg("tables").noconvert(),
          nb::arg("pairs").noconvert(), nb::arg("sums").noconvert(), nb::arg("threads"));
    m.def("resample_add_values", &bind_values, nb::arg("values").noconvert(), nb::arg("first"),
          nb::arg("last"), nb::arg("weights").noconvert(), nb::arg("pairs").noconvert(),
          nb::arg("sums").noconvert(), nb::arg("threads"));
}

}  // namespace rsafast::resample::streaming
