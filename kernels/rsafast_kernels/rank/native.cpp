// Average ranks by one equal-depth partition and an in-cache sort of every bucket.
//
// 1. Splitters from a sorted random sample (fixed seed) cut the values into buckets of about
//    `bucket_target`; a value that fills several quantiles gets a bucket of its own, so that heavy
//    ties cost one comparison each.
// 2. Keys are scattered to their buckets in input order, and the bucket number of every value kept.
// 3. Each bucket is sorted in cache: a linear map to as many cells as values, std::sort for cells
//    that came out full (never quadratic), one insertion pass. Ranks replace the keys in place.
// 4. Walking the input again, bucket by bucket number, reads the ranks back in streams: no random
//    access to memory, and no index is ever moved.
#include "counting.hpp"
#include "registry.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

namespace nb = nanobind;
using rsafast::Array;

constexpr std::int64_t bucket_target = 8192;   // 16-byte entries of a bucket stay in a 512 kB L2
constexpr std::int64_t single_bucket = 16384;  // below this, partitioning costs more than it saves
constexpr int max_levels = 12;                 // 4096 splitters fill one 32 kB L1
constexpr std::int64_t oversampling = 16;
constexpr std::uint32_t full_cell = 24;

struct Entry {
    double key;
    std::uint32_t index;
};

struct Scratch {
    std::vector<Entry> entries;
    std::vector<std::uint32_t> cells;
};

inline bool by_key(const Entry& a, const Entry& b) { return a.key < b.key; }

void insertion_sort(Entry* e, std::int64_t m) {
    for (std::int64_t i = 1; i < m; ++i) {
        const Entry moving = e[i];
        std::int64_t j = i;
        for (; j > 0 && moving.key < e[j - 1].key; --j) e[j] = e[j - 1];
        e[j] = moving;
    }
}

// Sort (values, position) into scratch.entries.
void sort_bucket(const double* values, std::int64_t m, double low, double high, Scratch& scratch) {
    if (static_cast<std::int64_t>(scratch.entries.size()) < m) scratch.entries.resize(m);
    Entry* entries = scratch.entries.data();
    // Halving first keeps the range finite; cells are monotone in the value all the same.
    const double range = 0.5 * high - 0.5 * low;
    const double scale = static_cast<double>(m - 1) / range;
    const bool linear = m > 32 && range > DBL_MIN && std::isfinite(scale);
    if (!linear) {
        for (std::int64_t i = 0; i < m; ++i)
            entries[i] = {values[i], static_cast<std::uint32_t>(i)};
        if (m <= 32) insertion_sort(entries, m);
        else std::sort(entries, entries + m, by_key);
        return;
    }
    const double half_low = 0.5 * low;
    const auto cell_of = [=](double v) {
        return static_cast<std::uint32_t>(static_cast<std::int64_t>((0.5 * v - half_low) * scale));
    };
    // The product can round up to m: one spare cell.
    scratch.cells.assign(m + 2, 0);
    std::uint32_t* ends = scratch.cells.data();
    for (std::int64_t i = 0; i < m; ++i) ++ends[cell_of(values[i])];
    std::uint32_t total = 0, largest = 0;
    for (std::int64_t c = 0; c < m + 2; ++c) {
        const std::uint32_t count = ends[c];
        largest = std::max(largest, count);
        ends[c] = total;
        total += count;
    }
    for (std::int64_t i = 0; i < m; ++i)
        entries[ends[cell_of(values[i])]++] = {values[i], static_cast<std::uint32_t>(i)};
    if (largest > full_cell) {
        std::uint32_t begin = 0;
        for (std::int64_t c = 0; c < m + 2; ++c) {
            const std::uint32_t end = ends[c];
            if (end - begin > full_cell) {
                const double first = entries[begin].key;
                const bool tied = std::all_of(entries + begin, entries + end,
                                              [=](const Entry& e) { return e.key == first; });
                if (!tied) std::sort(entries + begin, entries + end, by_key);
            }
            begin = end;
        }
    }
    insertion_sort(entries, m);
}

// Replace the m values by their ranks, counted from `before`.
void rank_in_place(double* values, std::int64_t m, std::int64_t before, Scratch& scratch) {
    if (m == 0) return;
    double low = values[0], high = values[0];
    for (std::int64_t i = 1; i < m; ++i) {
        low = values[i] < low ? values[i] : low;
        high = values[i] > high ? values[i] : high;
    }
    if (low == high) {
        std::fill(values, values + m, 0.5 * static_cast<double>(2 * before + m + 1));
        return;
    }
    sort_bucket(values, m, low, high, scratch);
    const Entry* entries = scratch.entries.data();
    for (std::int64_t i = 0; i < m;) {
        std::int64_t j = i + 1;
        while (j < m && entries[j].key == entries[i].key) ++j;
        const double rank = 0.5 * static_cast<double>(2 * before + i + j + 1);
        for (; i < j; ++i) values[entries[i].index] = rank;
    }
}

std::uint64_t mix(std::uint64_t z) {  // splitmix64
    z += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

// Sorted splitters (at most buckets - 1). A value drawn as several quantiles is given as
// (its predecessor, itself), which fences off a bucket that holds nothing else.
template <class T>
std::vector<double> choose_splitters(const T* x, std::int64_t n, std::int64_t buckets) {
    const std::int64_t size = std::min(n, buckets * oversampling);
    std::vector<double> sample(size);
    for (std::int64_t i = 0; i < size; ++i)
        sample[i] = static_cast<double>(x[mix(i) % static_cast<std::uint64_t>(n)]);
    std::sort(sample.begin(), sample.end());
    std::vector<double> splitters;
    for (std::int64_t b = 1; b < buckets; ++b) {
        const double v = sample[b * size / buckets];
        if (splitters.empty() || splitters.back() < v) {
            splitters.push_back(v);
        } else if (splitters.back() == v) {
            const double below = std::nextafter(v, -std::numeric_limits<double>::infinity());
            const bool fenced = splitters.size() > 1 && splitters[splitters.size() - 2] >= below;
            if (!fenced) splitters.insert(splitters.end() - 1, below);
        }
    }
    return splitters;
}

// Splitters in the order of a heap: the bucket of v is found by `levels` branchless steps.
struct Tree {
    int levels;
    std::vector<double> nodes;  // nodes[1 ..]

    Tree(const std::vector<double>& splitters, int levels_) : levels(levels_), nodes(1 << levels_) {
        std::size_t next = 0;
        fill(1, splitters, next);
    }
    void fill(std::size_t node, const std::vector<double>& splitters, std::size_t& next) {
        if (node >= nodes.size()) return;
        fill(2 * node, splitters, next);
        nodes[node] = next < splitters.size() ? splitters[next]
                                              : std::numeric_limits<double>::infinity();
        ++next;
        fill(2 * node + 1, splitters, next);
    }
};

template <int Lanes, class T>
inline void classify(const Tree& tree, const T* x, std::uint16_t* bucket) {
    std::uint32_t at[Lanes];
    double v[Lanes];
    for (int l = 0; l < Lanes; ++l) {
        v[l] = static_cast<double>(x[l]);
        at[l] = 1;
    }
    const double* nodes = tree.nodes.data();
    for (int level = 0; level < tree.levels; ++level)
        for (int l = 0; l < Lanes; ++l) at[l] = 2 * at[l] + (v[l] > nodes[at[l]] ? 1u : 0u);
    const std::uint32_t first = 1u << tree.levels;
    for (int l = 0; l < Lanes; ++l) bucket[l] = static_cast<std::uint16_t>(at[l] - first);
}

template <class T>
void rank_long(const T* x, double* out, std::int64_t n, int threads) {
    int levels = 1;
    while (levels < max_levels && (n >> levels) > bucket_target) ++levels;
    const std::int64_t buckets = std::int64_t{1} << levels;
    const Tree tree(choose_splitters(x, n, buckets), levels);

    std::unique_ptr<std::uint16_t[]> bucket(new std::uint16_t[n]);
    std::unique_ptr<double[]> keys(new double[n]);
    const int chunks = std::max(1, threads);
    std::vector<std::int64_t> start(static_cast<std::size_t>(chunks) * buckets, 0);
    std::vector<std::int64_t> bounds(buckets + 1, 0);
    const auto edge = [=](int c) { return n / chunks * c + std::min<std::int64_t>(c, n % chunks); };

#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(static, 1)
#endif
    for (int c = 0; c < chunks; ++c) {
        std::int64_t i = edge(c);
        const std::int64_t end = edge(c + 1);
        std::vector<std::int64_t> count(buckets, 0);
        for (; i + 8 <= end; i += 8) {
            classify<8>(tree, x + i, bucket.get() + i);
            for (int l = 0; l < 8; ++l) ++count[bucket[i + l]];
        }
        for (; i < end; ++i) {
            classify<1>(tree, x + i, bucket.get() + i);
            ++count[bucket[i]];
        }
        std::copy(count.begin(), count.end(), start.begin() + c * buckets);
    }
    std::int64_t total = 0;
    for (std::int64_t b = 0; b < buckets; ++b) {
        bounds[b] = total;
        for (int c = 0; c < chunks; ++c) {
            const std::int64_t count = start[c * buckets + b];
            start[c * buckets + b] = total;
            total += count;
        }
    }
    bounds[buckets] = total;

#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
#endif
    {
        Scratch scratch;
#if defined(_OPENMP)
#pragma omp for schedule(static, 1)
#endif
        for (int c = 0; c < chunks; ++c) {
            std::vector<std::int64_t> at(start.begin() + c * buckets,
                                         start.begin() + (c + 1) * buckets);
            for (std::int64_t i = edge(c); i < edge(c + 1); ++i)
                keys[at[bucket[i]]++] = static_cast<double>(x[i]);
        }
#if defined(_OPENMP)
#pragma omp for schedule(dynamic, 4)
#endif
        for (std::int64_t b = 0; b < buckets; ++b)
            rank_in_place(keys.get() + bounds[b], bounds[b + 1] - bounds[b], bounds[b], scratch);
#if defined(_OPENMP)
#pragma omp for schedule(static, 1)
#endif
        for (int c = 0; c < chunks; ++c) {
            std::vector<std::int64_t> at(start.begin() + c * buckets,
                                         start.begin() + (c + 1) * buckets);
            for (std::int64_t i = edge(c); i < edge(c + 1); ++i) out[i] = keys[at[bucket[i]]++];
        }
    }
}

// Position of the first value that is not finite, or -1.
template <class T>
std::int64_t first_non_finite(Array<const T> values, int threads) {
    const T* x = values.data();
    const std::int64_t n = static_cast<std::int64_t>(values.size());
    constexpr std::int64_t block = 1 << 14;
    const std::int64_t blocks = (n + block - 1) / block;
    std::int64_t first = n;
    nb::gil_scoped_release release;
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(static) reduction(min : first) \
    if (n > (1 << 16))
#endif
    for (std::int64_t b = 0; b < blocks; ++b) {
        const std::int64_t end = std::min(n, (b + 1) * block);
        int bad = 0;
        for (std::int64_t i = b * block; i < end; ++i)
            bad |= !(std::fabs(x[i]) <= std::numeric_limits<T>::max());
        if (!bad) continue;
        for (std::int64_t i = b * block; i < end; ++i)
            if (!std::isfinite(x[i])) {
                first = std::min(first, i);
                break;
            }
    }
    return first == n ? -1 : first;
}

template <class T>
void average_ranks(Array<const T> values, Array<double> ranks, int threads) {
    const T* x = values.data();
    double* out = ranks.data();
    const std::int64_t k = static_cast<std::int64_t>(values.shape(0));
    const std::int64_t n = static_cast<std::int64_t>(values.shape(1));
    nb::gil_scoped_release release;
    if (n > single_bucket) {
        for (std::int64_t row = 0; row < k; ++row)
            rank_long(x + row * n, out + row * n, n, threads);
        return;
    }
    // Starting threads costs more than ranking a few thousand values.
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads) if (k > 1 && k * n > 8192)
#endif
    {
        Scratch scratch;
#if defined(_OPENMP)
#pragma omp for schedule(dynamic, 8)
#endif
        for (std::int64_t row = 0; row < k; ++row) {
            std::copy(x + row * n, x + (row + 1) * n, out + row * n);
            rank_in_place(out + row * n, n, 0, scratch);
        }
    }
}

}  // namespace

RSAFAST_KERNEL(rank) {
    m.def("rank_average_ranks", &average_ranks<double>, nb::arg("values").noconvert(),
          nb::arg("ranks").noconvert(), nb::arg("threads"));
    m.def("rank_average_ranks", &average_ranks<float>, nb::arg("values").noconvert(),
          nb::arg("ranks").noconvert(), nb::arg("threads"));
    m.def("first_non_finite", &first_non_finite<double>, nb::arg("values").noconvert(),
          nb::arg("threads"));
    m.def("first_non_finite", &first_non_finite<float>, nb::arg("values").noconvert(),
          nb::arg("threads"));
    rsafast::counting::bind(m);
}
