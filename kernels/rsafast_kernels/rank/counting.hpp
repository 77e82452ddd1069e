// Exact ranks of more values than can be sorted, by counting: see counting.py.
#pragma once

#include "registry.hpp"

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace rsafast::counting {

namespace nb = nanobind;
using Index = std::ptrdiff_t;

inline constexpr int low_bits = 16;  // of a key: a table row
inline constexpr std::uint32_t low_mask = (1u << low_bits) - 1;

// Integers in the order of the floats; -0.0 is 0.0.
inline std::uint32_t key_of(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// counts[key >> 16] grows by one for every value.
inline void count_high(Array<const float> values, Array<std::uint64_t> counts, int threads) {
    const Index size = static_cast<Index>(values.size());
    const float* from = values.data();
    std::uint64_t* total = counts.data();
    nb::gil_scoped_release release;
#pragma omp parallel num_threads(threads) if (size > 65536)
    {
        std::vector<std::uint64_t> own(1u << low_bits, 0);
#pragma omp for schedule(static)
        for (Index k = 0; k < size; ++k) ++own[key_of(from[k]) >> low_bits];
#pragma omp critical
        for (std::size_t k = 0; k < own.size(); ++k) total[k] += own[k];
    }
}

// table[row of the high half][low half] grows by one for every value.
template <class Count>
void count_keys(Array<const float> values, Array<const std::int32_t> row, Array<Count> table,
                int threads) {
    const Index size = static_cast<Index>(values.size());
    const float* from = values.data();
    const std::int32_t* row_of = row.data();
    Count* counts = table.data();
    nb::gil_scoped_release release;
#pragma omp parallel for num_threads(threads) schedule(static) if (size > 65536)
    for (Index k = 0; k < size; ++k) {
        const std::uint32_t key = key_of(from[k]);
        const std::size_t at = static_cast<std::size_t>(row_of[key >> low_bits]) << low_bits;
        std::atomic_ref<Count>(counts[at | (key & low_mask)]).fetch_add(1, std::memory_order_relaxed);
    }
}

// Of the values with the k-th key: first + (average rank - 1) * scale, rounded for whole numbers.
template <class Count, class Rank>
void ranks_of_counts(Array<const Count> table, double first, double scale, Array<Rank> ranks) {
    const Count* counts = table.data();
    Rank* to = ranks.data();
    const std::size_t size = table.size();
    nb::gil_scoped_release release;
    std::uint64_t before = 0;
    for (std::size_t k = 0; k < size; ++k) {
        const double rank = static_cast<double>(before) + (static_cast<double>(counts[k]) + 1) / 2;
        const double value = first + (rank - 1) * scale;
        if (counts[k]) to[k] = static_cast<Rank>(std::is_integral_v<Rank> ? std::nearbyint(value) : value);
        before += counts[k];
    }
}

template <class Rank>
void look_up(Array<const float> values, Array<const std::int32_t> row, Array<const Rank> ranks,
             Array<Rank> out, int threads) {
    const Index size = static_cast<Index>(values.size());
    const float* from = values.data();
    const std::int32_t* row_of = row.data();
    const Rank* table = ranks.data();
    Rank* to = out.data();
    nb::gil_scoped_release release;
#pragma omp parallel for num_threads(threads) schedule(static) if (size > 65536)
    for (Index k = 0; k < size; ++k) {
        const std::uint32_t key = key_of(from[k]);
        const std::size_t at = static_cast<std::size_t>(row_of[key >> low_bits]) << low_bits;
        to[k] = table[at | (key & low_mask)];
    }
}

template <class Count, class Rank>
void bind_ranks(nb::module_& m) {
    m.def("rank_of_counts", &ranks_of_counts<Count, Rank>, nb::arg("table").noconvert(), nb::arg("first"),
          nb::arg("scale"), nb::arg("ranks").noconvert());
}

template <class Count>
void bind_table(nb::module_& m) {
    m.def("rank_count_keys", &count_keys<Count>, nb::arg("values").noconvert(), nb::arg("row").noconvert(),
          nb::arg("table").noconvert(), nb::arg("threads"));
    bind_ranks<Count, float>(m);
    bind_ranks<Count, std::uint16_t>(m);
}

inline void bind(nb::module_& m) {
    m.def("rank_scan_keys", &count_high, nb::arg("values").noconvert(),
          nb::arg("counts").noconvert(), nb::arg("threads"));
    bind_table<std::uint32_t>(m);
    bind_table<std::uint64_t>(m);
    m.def("rank_look_up_keys", &look_up<float>, nb::arg("values").noconvert(), nb::arg("row").noconvert(),
          nb::arg("ranks").noconvert(), nb::arg("out").noconvert(), nb::arg("threads"));
    m.def("rank_look_up_keys", &look_up<std::uint16_t>, nb::arg("values").noconvert(),
          nb::arg("row").noconvert(), nb::arg("ranks").noconvert(), nb::arg("out").noconvert(),
          nb::arg("threads"));
}

}  // namespace rsafast::counting
