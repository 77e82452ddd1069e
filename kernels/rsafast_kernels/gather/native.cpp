// Direct evaluation of sum_{x<y} A[pi(x), pi(y)] B[x, y]: see __init__.py.
#include <cstdint>
#include <vector>

#include "registry.hpp"
#include "simd.hpp"

namespace {

using rsafast::Array;
using S = rsafast::Simd<double>;
namespace nb = nanobind;

double dot(const double* a, const double* b, std::ptrdiff_t n) {
    auto s0 = S::zero(), s1 = S::zero();
    std::ptrdiff_t i = 0;
    constexpr std::ptrdiff_t w = S::width;
    for (; i + 2 * w <= n; i += 2 * w) {
        s0 += S::load(a + i) * S::load(b + i);
        s1 += S::load(a + i + w) * S::load(b + i + w);
    }
    double total = S::sum(s0 + s1);
    for (; i < n; ++i) total += a[i] * b[i];
    return total;
}

// Each row of a permuted model is gathered once and meets the same row of every brain while in L1.
void products(Array<const double> a, Array<const double> b, Array<const std::int32_t> permutations,
              Array<double> out, int threads) {
    nb::gil_scoped_release release;
    const std::ptrdiff_t models = a.shape(0), brains = b.shape(0), n = a.shape(1);
    const std::ptrdiff_t count = permutations.shape(0);
#pragma omp parallel num_threads(threads)
    {
        std::vector<double> row(n), sums(brains);
#pragma omp for schedule(static)
        for (std::ptrdiff_t task = 0; task < count * models; ++task) {
            const std::ptrdiff_t p = task / models, m = task % models;
            const std::int32_t* pi = permutations.data() + p * n;
            std::fill(sums.begin(), sums.end(), 0.0);
            for (std::ptrdiff_t x = 0; x + 1 < n; ++x) {
                const double* from = a.data() + (m * n + pi[x]) * n;
                for (std::ptrdiff_t y = x + 1; y < n; ++y) row[y] = from[pi[y]];
                for (std::ptrdiff_t k = 0; k < brains; ++k)
                    sums[k] +=
                        dot(row.data() + x + 1, b.data() + (k * n + x) * n + x + 1, n - x - 1);
            }
            for (std::ptrdiff_t k = 0; k < brains; ++k)
                out.data()[(m * brains + k) * count + p] = sums[k];
        }
    }
}

}  // namespace

RSAFAST_KERNEL(gather) { m.def("gather_products", &products); }
