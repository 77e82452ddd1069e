// Counting exceedances, moments, histograms and joint maxima of permuted statistics: see __init__.py.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "registry.hpp"

namespace {

using rsafast::Array;
namespace nb = nanobind;

enum Alternative { greater = 0, less = 1, two_sided = 2 };

double score(double value, int alternative) {
    return alternative == greater ? value : alternative == less ? -value : std::fabs(value);
}

struct Layout {  // values[(i, m, j, b, s)]: block r = (i, j), pair q = (m, b)
    std::ptrdiff_t blocks_a, models, blocks_b, brains, shifts;
    std::ptrdiff_t blocks() const { return blocks_a * blocks_b; }
    std::ptrdiff_t pairs() const { return models * brains; }
    std::ptrdiff_t offset(std::ptrdiff_t r, std::ptrdiff_t q) const {
        const std::ptrdiff_t i = r / blocks_b, j = r % blocks_b, m = q / brains, b = q % brains;
        return (((i * models + m) * blocks_b + j) * brains + b) * shifts;
    }
};

Layout layout_of(const Array<const double>& values) {
    return {static_cast<std::ptrdiff_t>(values.shape(0)), static_cast<std::ptrdiff_t>(values.shape(1)),
            static_cast<std::ptrdiff_t>(values.shape(2)), static_cast<std::ptrdiff_t>(values.shape(3)),
            static_cast<std::ptrdiff_t>(values.shape(4))};
}

template <int alternative>
std::int64_t exceedances(const double* values, std::ptrdiff_t n, double threshold) {
    std::int64_t count = 0;
    for (std::ptrdiff_t s = 0; s < n; ++s) count += score(values[s], alternative) >= threshold;
    return count;
}

// Eight running sums: a fixed order that the compiler may still turn into vectors.
void moments(const double* values, std::ptrdiff_t n, double centre, double& sum, double& squares) {
    double s[8] = {}, t[8] = {};
    std::ptrdiff_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; ++k) {
            const double d = values[i + k] - centre;
            s[k] += d, t[k] += d * d;
        }
    for (; i < n; ++i) {
        const double d = values[i] - centre;
        s[0] += d, t[0] += d * d;
    }
    sum = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
    squares = ((t[0] + t[1]) + (t[2] + t[3])) + ((t[4] + t[5]) + (t[6] + t[7]));
}

void bin(const double* values, std::ptrdiff_t n, double low, double scale, int bins,
         std::int32_t* local) {
    constexpr std::ptrdiff_t step = 64;
    std::int32_t index[step];
    for (std::ptrdiff_t start = 0; start < n; start += step) {
        const std::ptrdiff_t length = std::min(step, n - start);
        for (std::ptrdiff_t i = 0; i < length; ++i) {
            const double position = (values[start + i] - low) * scale;
            index[i] = static_cast<std::int32_t>(std::min(std::max(position, 0.0), bins - 1.0));
        }
        for (std::ptrdiff_t i = 0; i < length; ++i) ++local[index[i]];
    }
}

void each(Array<const double> values, Array<const double> thresholds, int alternative,
          Array<const double> centres, Array<const double> low, Array<const double> scale,
          Array<std::int64_t> count, Array<double> sum, Array<double> squares,
          Array<std::int64_t> histogram, int threads) {
    nb::gil_scoped_release release;
    const Layout layout = layout_of(values);
    const std::ptrdiff_t pairs = layout.pairs(), rows = layout.blocks() * pairs;
    const int bins = static_cast<int>(histogram.shape(1));
    const auto counter = alternative == greater ? exceedances<greater>
                         : alternative == less  ? exceedances<less>
                                                : exceedances<two_sided>;
#pragma omp parallel num_threads(threads)
    {
        std::vector<std::int32_t> local(bins);
#pragma omp for schedule(static)
        for (std::ptrdiff_t row = 0; row < rows; ++row) {
            const std::ptrdiff_t r = row / pairs, q = row % pairs;
            const double* from = values.data() + layout.offset(r, q);
            count.data()[row] = counter(from, layout.shifts, thresholds.data()[q]);
            moments(from, layout.shifts, centres.data()[q], sum.data()[row], squares.data()[row]);
            std::fill(local.begin(), local.end(), 0);
            bin(from, layout.shifts, low.data()[q], scale.data()[q], bins, local.data());
            std::int64_t* into = histogram.data() + q * bins;
            for (int k = 0; k < bins; ++k)
                if (local[k]) {
#pragma omp atomic
                    into[k] += local[k];
                }
        }
    }
}

// Scores are compared across pairs as (score - centre) * scale, increasing in the score. `order` lists
// the pairs from the smallest observed one to the largest. down[q]: relabellings in which the maximum over q and all pairs before it reaches threshold q; bins[k]: relabellings whose
// maximum over all pairs reaches exactly k of the thresholds.
void joint(Array<const double> values, Array<const double> thresholds, int alternative,
           Array<const double> centres, Array<const double> scales,
           Array<const std::int64_t> order, Array<std::int64_t> down, Array<std::int64_t> bins,
           int threads) {
    nb::gil_scoped_release release;
    const Layout layout = layout_of(values);
    const std::ptrdiff_t pairs = layout.pairs();
    constexpr std::ptrdiff_t step = 128;
    const std::ptrdiff_t chunks = (layout.shifts + step - 1) / step;
    std::vector<double> ascending(pairs);
    const auto comparable = [&](double value, std::ptrdiff_t q) {
        return (value - centres.data()[q]) * scales.data()[q];
    };
    for (std::ptrdiff_t k = 0; k < pairs; ++k)
        ascending[k] = comparable(thresholds.data()[order.data()[k]], order.data()[k]);
#pragma omp parallel num_threads(threads)
    {
        std::vector<std::int64_t> local_down(pairs, 0), local_bins(pairs + 1, 0);
        double best[step];
#pragma omp for schedule(static)
        for (std::ptrdiff_t task = 0; task < layout.blocks() * chunks; ++task) {
            const std::ptrdiff_t r = task / chunks, first = task % chunks * step;
            const std::ptrdiff_t length = std::min(step, layout.shifts - first);
            std::fill(best, best + step, -INFINITY);
            for (std::ptrdiff_t k = 0; k < pairs; ++k) {
                const std::ptrdiff_t q = order.data()[k];
                const double* from = values.data() + layout.offset(r, q) + first;
                std::int64_t reached = 0;
                for (std::ptrdiff_t s = 0; s < length; ++s) {
                    best[s] = std::max(best[s], comparable(score(from[s], alternative), q));
                    reached += best[s] >= ascending[k];
                }
                local_down[q] += reached;
            }
            for (std::ptrdiff_t s = 0; s < length; ++s)
                ++local_bins[std::upper_bound(ascending.begin(), ascending.end(), best[s]) -
                             ascending.begin()];
        }
#pragma omp critical
        {
            for (std::ptrdiff_t q = 0; q < pairs; ++q) down.data()[q] += local_down[q];
            for (std::ptrdiff_t k = 0; k <= pairs; ++k) bins.data()[k] += local_bins[k];
        }
    }
}

}  // namespace

RSAFAST_KERNEL(tally) {
    m.def("tally_each", &each);
    m.def("tally_joint", &joint);
}
