// Concordant minus discordant pairs under relabelling, in O(N log N): see __init__.py.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "registry.hpp"

namespace {

using rsafast::Array;
namespace nb = nanobind;
using Rank = std::int32_t;

// Sorts `x` and returns the number of strict inversions.
std::int64_t inversions(std::vector<Rank>& x, std::vector<Rank>& scratch) {
    const std::size_t n = x.size();
    constexpr std::size_t run = 16;
    std::int64_t total = 0;
    for (std::size_t start = 0; start < n; start += run)
        for (std::size_t i = start + 1; i < std::min(n, start + run); ++i) {
            const Rank value = x[i];
            std::size_t j = i;
            for (; j > start && x[j - 1] > value; --j) x[j] = x[j - 1];
            x[j] = value;
            total += static_cast<std::int64_t>(i - j);
        }
    for (std::size_t width = run; width < n; width *= 2) {
        for (std::size_t start = 0; start < n; start += 2 * width) {
            const std::size_t middle = std::min(n, start + width), end = std::min(n, start + 2 * width);
            std::size_t left = start, right = middle, out = start;
            while (left < middle && right < end) {
                const bool take_right = x[right] < x[left];
                scratch[out++] = take_right ? x[right] : x[left];
                total += take_right ? static_cast<std::int64_t>(middle - left) : 0;
                right += take_right, left += !take_right;
            }
            std::copy(x.begin() + left, x.begin() + middle, scratch.begin() + out);
            std::copy(x.begin() + right, x.begin() + end, scratch.begin() + out + (middle - left));
        }
        x.swap(scratch);
    }
    return total;
}

// Pairs tied within [first, last), which is sorted.
std::int64_t ties(const Rank* first, const Rank* last) {
    std::int64_t total = 0, length = 1;
    for (const Rank* p = first + 1; p < last; ++p) {
        length = *p == p[-1] ? length + 1 : 1;
        total += length - 1;
    }
    return total;
}

// order[m]: pairs of model m from smallest to largest, as stimuli (x, y); edges[m]: where a new
// value starts, closed by the number of pairs. rank[k]: (n, n) dense ranks of brain k.
// constant[m, k] = all - tied in m - tied in k.
void concordance(Array<const std::int32_t> order, Array<const std::int64_t> edges,
                 Array<const std::int64_t> edge_starts, Array<const Rank> rank,
                 Array<const std::int64_t> constant, Array<const std::int32_t> permutations,
                 Array<std::int64_t> out, int threads) {
    nb::gil_scoped_release release;
    const std::ptrdiff_t models = order.shape(0), pairs = order.shape(1), brains = rank.shape(0);
    const std::ptrdiff_t n = rank.shape(1), count = permutations.shape(0);
#pragma omp parallel num_threads(threads)
    {
        std::vector<Rank> values(pairs), scratch(pairs);
        std::vector<std::int32_t> inverse(n);
#pragma omp for schedule(dynamic)
        for (std::ptrdiff_t task = 0; task < count * models * brains; ++task) {
            const std::ptrdiff_t p = task / (models * brains), m = task / brains % models;
            const std::ptrdiff_t k = task % brains;
            for (std::ptrdiff_t x = 0; x < n; ++x) inverse[permutations.data()[p * n + x]] = x;
            const std::int32_t* pair = order.data() + m * pairs * 2;
            const Rank* from = rank.data() + k * n * n;
            for (std::ptrdiff_t i = 0; i < pairs; ++i)
                values[i] = from[inverse[pair[2 * i]] * n + inverse[pair[2 * i + 1]]];
            std::int64_t both = 0;
            for (std::int64_t e = edge_starts.data()[m]; e + 1 < edge_starts.data()[m + 1]; ++e) {
                Rank *first = values.data() + edges.data()[e], *last = values.data() + edges.data()[e + 1];
                if (last - first < 2) continue;
                std::sort(first, last);
                both += ties(first, last);
            }
            out.data()[(m * brains + k) * count + p] =
                constant.data()[m * brains + k] + both - 2 * inversions(values, scratch);
        }
    }
}

}  // namespace

RSAFAST_KERNEL(kendall) { m.def("kendall_concordance", &concordance); }
