// Leaky integrate-and-fire neurons, all time steps of a sample in cache: see __init__.py.
//
// A spike is a comparison, so one different rounding is a different spike. Products and sums are
// therefore not contracted to fused ones, and all instruction sets give the same bits.
#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "registry.hpp"

namespace {

namespace nb = nanobind;
using rsafast::Array;
using Index = std::ptrdiff_t;

struct Layer {
    Index steps, samples, channels, positions, groups;
    float leak, threshold;
    bool subtract, winner_take_all;
    std::int32_t refractory;
    float theta_decay, theta_gain;
    Index size() const { return channels / groups; }
};

// One step of one group of channels in one sample. `winner` (positions) is -1 until a channel won.
void step(const Layer& l, const float* current, const float* theta, float* v, std::int32_t* left,
          std::int32_t* winner, float* spikes, float* best) {
    const Index size = l.size(), positions = l.positions;
    for (Index c = 0; c < size; ++c) {
        const float limit = l.threshold + theta[c];
        const Index row = c * positions;
        for (Index p = 0; p < positions; ++p) {
            const bool held = left[row + p] > 0;
            const bool silenced = winner[p] >= 0 && winner[p] != static_cast<std::int32_t>(c);
            const float next = l.leak * v[row + p] + current[row + p];
            const bool moves = !held && !silenced;
            v[row + p] = moves ? next : v[row + p];
            spikes[row + p] = moves && next >= limit ? 1.0f : 0.0f;
            left[row + p] -= held;
        }
    }
    if (l.winner_take_all) {
        // Positions that have no winner yet look for the largest potential across its threshold.
        for (Index p = 0; p < positions; ++p) best[p] = winner[p] < 0 ? -INFINITY : INFINITY;
        for (Index c = 0; c < size; ++c)
            for (Index p = 0; p < positions; ++p) {
                const Index i = c * positions + p;
                const bool better = spikes[i] != 0.0f && v[i] > best[p];
                best[p] = better ? v[i] : best[p];
                winner[p] = better ? static_cast<std::int32_t>(c) : winner[p];
            }
    }
    for (Index c = 0; c < size; ++c) {
        const float limit = l.threshold + theta[c];
        for (Index p = 0; p < positions; ++p) {
            const Index i = c * positions + p;
            const bool silenced = winner[p] >= 0 && winner[p] != static_cast<std::int32_t>(c);
            const bool spike = spikes[i] != 0.0f && !silenced;
            const float after = l.subtract ? v[i] - limit : 0.0f;
            v[i] = silenced ? 0.0f : spike ? after : v[i];
            left[i] = spike ? l.refractory : left[i];
            spikes[i] = spike ? 1.0f : 0.0f;
        }
    }
}

void run(Array<const float> current, Array<float> potential, Array<std::int32_t> refractory_left,
         Array<float> theta, Array<float> spikes, int groups, float leak, float threshold,
         bool subtract, bool winner_take_all, int refractory, float theta_decay, float theta_gain,
         int threads) {
    const auto size = [&](int axis) { return static_cast<Index>(current.shape(axis)); };
    const Layer l{size(0), size(1), size(2), size(3), groups, leak, threshold,
                  subtract, winner_take_all, refractory, theta_decay, theta_gain};
    const float* in = current.data();
    float *v = potential.data(), *limit = theta.data(), *out = spikes.data();
    std::int32_t* left = refractory_left.data();
    nb::gil_scoped_release release;
    const Index block = l.size() * l.positions, tasks = l.samples * l.groups;
    std::vector<std::int32_t> winner(tasks * l.positions, -1);
    const auto advance = [&](Index task, Index t, std::vector<float>& best) {
        const Index at = t * tasks * block + task * block;
        step(l, in + at, limit + task % l.groups * l.size(), v + task * block, left + task * block,
             winner.data() + task * l.positions, out + at, best.data());
    };
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
#endif
    {
        std::vector<float> best(l.positions);
        if (theta_gain == 0.0f) {
#if defined(_OPENMP)
#pragma omp for schedule(static)
#endif
            for (Index task = 0; task < tasks; ++task)
                for (Index t = 0; t < l.steps; ++t) advance(task, t, best);
        } else {
            // Thresholds depend on the whole batch, which therefore advances step by step.
            for (Index t = 0; t < l.steps; ++t) {
#if defined(_OPENMP)
#pragma omp for schedule(static)
#endif
                for (Index task = 0; task < tasks; ++task) advance(task, t, best);
#if defined(_OPENMP)
#pragma omp for schedule(static)
#endif
                for (Index c = 0; c < l.channels; ++c) {
                    std::int64_t count = 0;
                    for (Index n = 0; n < l.samples; ++n) {
                        const float* s = out + ((t * l.samples + n) * l.channels + c) * l.positions;
                        for (Index p = 0; p < l.positions; ++p) count += s[p] != 0.0f;
                    }
                    limit[c] = theta_decay * limit[c] + theta_gain * static_cast<float>(count);
                }
            }
        }
    }
}

}  // namespace

RSAFAST_KERNEL(lif) {
    m.def("lif_run", &run, nb::arg("current").noconvert(), nb::arg("potential").noconvert(),
          nb::arg("refractory_left").noconvert(), nb::arg("theta").noconvert(),
          nb::arg("spikes").noconvert(), nb::arg("groups"), nb::arg("leak"), nb::arg("threshold"),
          nb::arg("subtract"), nb::arg("winner_take_all"), nb::arg("refractory"),
          nb::arg("theta_decay"), nb::arg("theta_gain"), nb::arg("threads"));
}
