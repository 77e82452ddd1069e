// Counting permuted statistics on a GPU; what is counted is in __init__.py, the order of the work in
// gpu.py.

#include "../block.cuh"

namespace {

// values[i, m, j, b, s]: block r = (i, j), pair q = (m, b), shift s.
struct Layout {
    long long blocks_a, models, blocks_b, brains, shifts;
    __device__ explicit Layout(const long long* shape)
        : blocks_a(shape[0]), models(shape[1]), blocks_b(shape[2]), brains(shape[3]), shifts(shape[4]) {}
    __device__ long long blocks() const { return blocks_a * blocks_b; }
    __device__ long long pairs() const { return models * brains; }
    __device__ long long offset(long long r, long long q) const {
        const long long i = r / blocks_b, j = r % blocks_b, m = q / brains, b = q % brains;
        return (((i * models + m) * blocks_b + j) * brains + b) * shifts;
    }
};

__device__ double score(double value, int alternative) {
    return alternative == 0 ? value : alternative == 1 ? -value : fabs(value);
}

constexpr int most_bins = 256, threads = 128, warps = threads / 32;
constexpr double lowest = -1.7976931348623157e308;

// A block of threads counts pair q = blockIdx.x in every gridDim.y-th block of relabellings. Sums are
// made in a fixed order; the histogram, kept in shared memory to the end, is of whole numbers.
// per_pair: threshold, centre, lowest edge and bins per unit, (4, pairs). skipped marks relabellings
// (r, s) to leave out; null where there are none. moments: sums and squares, (2, blocks, pairs).
template <class T>
__device__ void each(const T* values, const long long* shape, const unsigned char* skipped,
                     const double* per_pair, int alternative, int* count, double* moments,
                     unsigned long long* histogram, int bins, int* local, int* counts, double* sums) {
    const Layout layout(shape);
    const long long q = blockIdx.x, pairs = layout.pairs(), blocks = layout.blocks();
    const double threshold = per_pair[q], centre = per_pair[pairs + q];
    const double low = per_pair[2 * pairs + q], scale = per_pair[3 * pairs + q];
    for (int k = threadIdx.x; k < bins; k += threads) local[k] = 0;
    __syncthreads();
    for (long long r = blockIdx.y; r < blocks; r += gridDim.y) {
        const T* from = values + layout.offset(r, q);
        int reached = 0;
        double sum = 0, squares = 0;
        for (long long s = threadIdx.x; s < layout.shifts; s += threads) {
            if (skipped && skipped[r * layout.shifts + s]) continue;
            const double value = from[s], d = value - centre;
            reached += score(value, alternative) >= threshold;
            sum += d, squares += d * d;
            const double position = (value - low) * scale;
            atomicAdd(local + static_cast<int>(fmin(fmax(position, 0.0), bins - 1.0)), 1);
        }
        reached = over_block<warps>(reached, counts);
        sum = over_block<warps>(sum, sums);
        squares = over_block<warps>(squares, sums);
        if (threadIdx.x == 0) {
            count[r * pairs + q] = reached;
            moments[r * pairs + q] = sum;
            moments[(blocks + r) * pairs + q] = squares;
        }
    }
    __syncthreads();
    for (int k = threadIdx.x; k < bins; k += threads)
        if (local[k]) atomicAdd(histogram + q * bins + k, static_cast<unsigned long long>(local[k]));
}

// How many of the thresholds, in ascending order, a maximum reaches.
__device__ long long reached_by(double best, const double* ascending, long long pairs) {
    long long first = 0, last = pairs;
    while (first < last) {
        const long long middle = (first + last) / 2;
        if (best >= ascending[middle]) first = middle + 1;
        else last = middle;
    }
    return first;
}

// Pairs in the order of their thresholds, the smallest first. Their scores are compared as
// (score - centre) * scale, see tally/__init__.py.
struct Order {
    const long long* places;  // where pair k stands behind the start of a block
    const double *centres, *scales, *ascending;
    __device__ Order(const long long* order, const double* comparison, long long pairs)
        : places(order), centres(comparison), scales(comparison + pairs), ascending(comparison + 2 * pairs) {}
    __device__ double comparable(double value, long long k) const { return (value - centres[k]) * scales[k]; }
};

// A thread follows one relabelling through the pairs.
template <class T>
__device__ void joint(const T* values, const long long* shape, const unsigned char* skipped,
                      const long long* places, const double* comparison, int alternative,
                      unsigned long long* down, unsigned long long* bins) {
    const Layout layout(shape);
    const long long pairs = layout.pairs();
    const Order order(places, comparison, pairs);
    const long long at = static_cast<long long>(blockIdx.x) * threads + threadIdx.x;
    const bool counted = at < layout.blocks() * layout.shifts && !(skipped && skipped[at]);
    const T* from = counted ? values + layout.offset(at / layout.shifts, 0) + at % layout.shifts : values;
    double best = lowest;
    for (long long k = 0; k < pairs; ++k) {
        if (counted) best = fmax(best, order.comparable(score(from[order.places[k]], alternative), k));
        const unsigned reached = __ballot_sync(~0u, counted && best >= order.ascending[k]);
        if (threadIdx.x % 32 == 0 && reached)
            atomicAdd(down + k, static_cast<unsigned long long>(__popc(reached)));
    }
    if (counted) atomicAdd(bins + reached_by(best, order.ascending, pairs), 1ULL);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128)
tally_each_f32(const float* values, const long long* shape, const unsigned char* skipped,
               const double* per_pair, int alternative, int* count, double* moments,
               unsigned long long* histogram, int bins) {
    __shared__ int local[most_bins], counts[warps];
    __shared__ double sums[warps];
    each(values, shape, skipped, per_pair, alternative, count, moments, histogram, bins, local, counts, sums);
}

extern "C" __global__ void __launch_bounds__(128)
tally_each_f64(const double* values, const long long* shape, const unsigned char* skipped,
               const double* per_pair, int alternative, int* count, double* moments,
               unsigned long long* histogram, int bins) {
    __shared__ int local[most_bins], counts[warps];
    __shared__ double sums[warps];
    each(values, shape, skipped, per_pair, alternative, count, moments, histogram, bins, local, counts, sums);
}

extern "C" __global__ void __launch_bounds__(128)
tally_joint_f32(const float* values, const long long* shape, const unsigned char* skipped,
                const long long* order, const double* comparison, int alternative,
                unsigned long long* down, unsigned long long* bins) {
    joint(values, shape, skipped, order, comparison, alternative, down, bins);
}

extern "C" __global__ void __launch_bounds__(128)
tally_joint_f64(const double* values, const long long* shape, const unsigned char* skipped,
                const long long* order, const double* comparison, int alternative,
                unsigned long long* down, unsigned long long* bins) {
    joint(values, shape, skipped, order, comparison, alternative, down, bins);
}

// Marks the relabellings of which float32 values cannot say how they compare: a statistic lies within
// `band` of its threshold or, compared jointly, a maximum within `joint_band` of one. thresholds: of
// the pairs in order.
extern "C" __global__ void __launch_bounds__(128)
tally_mark_f32(const float* values, const long long* shape, const long long* places,
               const double* comparison, const double* thresholds, int alternative, double band,
               double joint_band, unsigned char* marked) {
    const Layout layout(shape);
    const long long pairs = layout.pairs();
    const Order order(places, comparison, pairs);
    const long long at = static_cast<long long>(blockIdx.x) * threads + threadIdx.x;
    if (at >= layout.blocks() * layout.shifts) return;
    const float* from = values + layout.offset(at / layout.shifts, 0) + at % layout.shifts;
    double best = lowest;
    bool unsure = false;
    for (long long k = 0; k < pairs && !unsure; ++k) {
        const double value = score(from[order.places[k]], alternative);
        best = fmax(best, order.comparable(value, k));
        unsure = fabs(value - thresholds[k]) <= band || fabs(best - order.ascending[k]) <= joint_band;
    }
    const long long above = reached_by(best, order.ascending, pairs);
    unsure |= above < pairs && order.ascending[above] - best <= joint_band;
    unsure |= above > 0 && best - order.ascending[above - 1] <= joint_band;
    marked[at] = unsure;
}
