// RDMs on resamples, written out for matrix products: see gpu.py for what surrounds them.
//
// A block of threads takes one RDM in one resample. It writes the pairs of different stimuli that the
// resample holds, row by row, then zeros up to a whole number of parts, and the sum of w v^2 over
// them. All sums are made in a fixed order, those that tell ranks in whole numbers.

#include "../block.cuh"

namespace {

constexpr int threads = 256, warps = threads / 32;
constexpr int part = 2048;         // pairs of a matrix product; a power of two, as in gpu.py
constexpr int most_staged = 4096;  // stimuli of a resample in shared memory, as in gpu.py
constexpr int each = 8, chunk = threads * each;  // pairs whose weights are added up at a time
constexpr double noise = 1e-24;                  // of the squared length: what is below is no spread

// Sum over the threads up to this one.
__device__ int up_to_thread(int value, int* shared) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int step = 1; step < 32; step *= 2) {
        const int before = __shfl_up_sync(~0u, value, step);
        if (lane >= step) value += before;
    }
    __syncthreads();  // what the call before left there has been read
    if (lane == 31) shared[warp] = value;
    __syncthreads();
    for (int w = 0; w < warp; ++w) value += shared[w];
    return value;
}

// Where RDM k of resample r goes: as (parts, RDMs, part), or on the right side of a product times the
// weights as (parts, part, RDMs).
struct Panel {
    double* first;
    long long part_step;
    int step;
    bool right;
    double square;  // sum of w v^2 over the pairs that this thread has written

    __device__ Panel(double* panel, int r, int k, int rdms, int parts, bool right)
        : first(panel + static_cast<long long>(r) * parts * part * rdms + (right ? k : k * part)),
          part_step(static_cast<long long>(rdms) * part), step(right ? rdms : 1), right(right), square(0) {}
    __device__ double& at(int pair) const { return first[pair / part * part_step + pair % part * step]; }
    __device__ void clear(int from, int parts) const {
        for (int pair = from + threadIdx.x; pair < parts * part; pair += threads) at(pair) = 0;
    }
    __device__ void write(int pair, double value, int weight) {
        square += weight * (value * value);
        at(pair) = right ? weight * value : value;
    }
};

__device__ int pairs_of(int stimuli) { return stimuli * (stimuli - 1) / 2; }

// Number of the pair of the x-th and the y-th of n stimuli, x < y, row by row.
__device__ int pair_number(int x, int y, int n) { return x * n - x * (x + 1) / 2 + y - x - 1; }

// ---------------------------------------------------------------- ranks

// Place of a weight in shared memory: threads that read `each` neighbours meet in no bank.
__device__ int spread(int k) { return k + k / each; }
constexpr int spread_chunk = chunk + chunk / each;

// Stimuli of one resample: how often each is drawn << 16 | its place among those drawn.
struct Drawn {
    const unsigned* stimuli;
    int held;

    __device__ int weight(unsigned pair) const {
        return static_cast<int>((stimuli[pair >> 16] >> 16) * (stimuli[pair & 0xffff] >> 16));
    }
    __device__ int place(unsigned pair) const {
        const unsigned x = stimuli[pair >> 16], y = stimuli[pair & 0xffff];
        return pair_number(x & 0xffff, y & 0xffff, held);
    }
};

struct Order {
    const unsigned* pairs;  // of stimuli i < j, i << 16 | j, from the smallest value to the largest
    const int *first, *end;  // of the run of ties that holds each; null where no two values tie
    int count;

    // The end of as many whole runs as a chunk holds; `begin` itself where a single run does not fit.
    __device__ int whole_runs(int begin) const {
        const int end_of_chunk = min(begin + chunk, count);
        return first && end_of_chunk < count ? first[end_of_chunk] : end_of_chunk;
    }
};

// Twice the average rank of a value is the weight before its run of ties, and that up to its end, + 1.
// `start` is 1, or for ranks about their mean minus the pairs of the resample.
struct Ranker {
    Order order;
    Drawn drawn;
    int start;
    int* prefix;  // weights up to each of a chunk
    int* totals;

    // A run of ties longer than a chunk: one rank for all. Returns its weight.
    __device__ int long_run(int begin, int end, int before, Panel& panel) const {
        int sum = 0;
        for (int t = begin + threadIdx.x; t < end; t += threads) sum += drawn.weight(order.pairs[t]);
        sum = over_block<warps>(sum, totals);
        const double value = start + before + (before + sum);
        for (int t = begin + threadIdx.x; t < end; t += threads) {
            const int weight = drawn.weight(order.pairs[t]);
            if (weight) panel.write(drawn.place(order.pairs[t]), value, weight);
        }
        return sum;
    }

    // Whole runs that fit a chunk. Returns their weight.
    __device__ int short_runs(int begin, int end, int before, Panel& panel) const {
        unsigned pairs[each];
        int weights[each];
        for (int e = 0; e < each; ++e) {
            const int k = e * threads + threadIdx.x;
            pairs[e] = begin + k < end ? order.pairs[begin + k] : 0;
            weights[e] = begin + k < end ? drawn.weight(pairs[e]) : 0;
            prefix[spread(k)] = weights[e];
        }
        __syncthreads();
        const int own = threadIdx.x * each;
        int sum = 0;
        for (int e = 0; e < each; ++e) sum += prefix[spread(own + e)];
        sum = up_to_thread(sum, totals) - sum;
        for (int e = 0; e < each; ++e) prefix[spread(own + e)] = sum += prefix[spread(own + e)];
        __syncthreads();
        for (int e = 0; e < each; ++e) {
            if (!weights[e]) continue;
            const int k = e * threads + threadIdx.x;
            const int first = order.first ? order.first[begin + k] - begin : k;
            const int last = order.first ? order.end[begin + k] - 1 - begin : k;
            const int below = first ? prefix[spread(first - 1)] : 0;
            panel.write(drawn.place(pairs[e]), start + (before + below) + (before + prefix[spread(last)]),
                        weights[e]);
        }
        const int all = prefix[spread(chunk - 1)];
        __syncthreads();  // before the next chunk is written there
        return all;
    }

    __device__ void run(Panel& panel) const {
        for (int begin = 0, before = 0; begin < order.count;) {
            const int end = order.whole_runs(begin);
            if (end > begin) {
                before += short_runs(begin, end, before, panel);
                begin = end;
            } else {
                const int after = order.end[begin];
                before += long_run(begin, after, before, panel);
                begin = after;
            }
        }
    }
};

// order (RDMs, count), ties (RDMs that have some, 2, count) and tie_row (RDMs): see gpu.py.
// stimuli (resamples, n), held (resamples), pairs (resamples) that count, copies counted.
__device__ void ranks(const unsigned* order, const int* ties, const int* tie_row, const unsigned* stimuli,
                      const int* held, const int* pairs, double* panel, double* squares, int resamples,
                      int rdms, int count, int parts, int centred, int right, int masked, int r, int k,
                      int* prefix, int* totals, double* sums) {
    Panel out(panel, r, k, rdms, parts, right);
    out.clear(masked ? 0 : pairs_of(held[r]), parts);
    __syncthreads();  // zeros and what was staged before are written
    const int* first = tie_row[k] < 0 ? nullptr : ties + 2LL * tie_row[k] * count;
    const Ranker ranker{{order + static_cast<long long>(k) * count, first, first + count, count},
                        {stimuli, held[r]}, centred ? -pairs[r] : 1, prefix, totals};
    ranker.run(out);
    const double square = over_block<warps>(out.square, sums);
    if (threadIdx.x == 0) squares[static_cast<long long>(r) * rdms + k] = square;
}

}  // namespace

// Twice the average ranks. For n up to 4096, and for any n.
extern "C" __global__ void __launch_bounds__(256)
resample_ranks_staged(const unsigned* order, const int* ties, const int* tie_row, const unsigned* stimuli,
                      const int* held, const int* pairs, double* panel, double* squares, int resamples,
                      int rdms, int n, int count, int parts, int centred, int right, int masked) {
    __shared__ unsigned staged[most_staged];
    __shared__ int prefix[spread_chunk], totals[warps];
    __shared__ double sums[warps];
    const int r = blockIdx.x % resamples, k = blockIdx.x / resamples;
    for (int x = threadIdx.x; x < n; x += threads) staged[x] = stimuli[static_cast<long long>(r) * n + x];
    ranks(order, ties, tie_row, staged, held, pairs, panel, squares, resamples, rdms, count, parts, centred,
          right, masked, r, k, prefix, totals, sums);
}

extern "C" __global__ void __launch_bounds__(256)
resample_ranks_any(const unsigned* order, const int* ties, const int* tie_row, const unsigned* stimuli,
                   const int* held, const int* pairs, double* panel, double* squares, int resamples,
                   int rdms, int n, int count, int parts, int centred, int right, int masked) {
    __shared__ int prefix[spread_chunk], totals[warps];
    __shared__ double sums[warps];
    const int r = blockIdx.x % resamples, k = blockIdx.x / resamples;
    ranks(order, ties, tie_row, stimuli + static_cast<long long>(r) * n, held, pairs, panel, squares,
          resamples, rdms, count, parts, centred, right, masked, r, k, prefix, totals, sums);
}

// ---------------------------------------------------------------- values as they are

namespace {

// The values of one RDM, those of pairs that do not count being 0, and the stimuli of one resample.
struct Values {
    const double* values;       // (pairs), row by row
    const unsigned char* keep;  // pairs that count; null where all do
    const unsigned* drawn;      // stimuli held, in order: number << 16 | how often it is drawn
    int held, n;

    // A warp walks a row: consumer(number of the pair, value, weight).
    template <class Consumer>
    __device__ void each_pair(Consumer consumer) const {
        for (int x = threadIdx.x / 32; x < held - 1; x += warps)
            for (int y = x + 1 + threadIdx.x % 32; y < held; y += 32) {
                const int at = pair_number(drawn[x] >> 16, drawn[y] >> 16, n);
                int weight = static_cast<int>((drawn[x] & 0xffff) * (drawn[y] & 0xffff));
                if (keep && !keep[at]) weight = 0;
                consumer(pair_number(x, y, held), values[at], weight);
            }
    }
};

}  // namespace

// Values, or their deviations from the mean; the square is 0 where it is noise.
extern "C" __global__ void __launch_bounds__(256)
resample_values(const double* values, const unsigned char* keep, const unsigned* drawn, const int* held,
                const int* pairs, double* panel, double* squares, int resamples, int rdms, int n,
                int longest, int parts, int centred, int right) {
    __shared__ double sums[warps];
    const int r = blockIdx.x % resamples, k = blockIdx.x / resamples;
    const Values rdm{values + static_cast<long long>(k) * pairs_of(n), keep,
                     drawn + static_cast<long long>(r) * longest, held[r], n};
    Panel out(panel, r, k, rdms, parts, right);
    out.clear(pairs_of(held[r]), parts);
    double sum = 0, raw = 0;
    rdm.each_pair([&](int, double value, int weight) {
        sum += weight * value;
        raw += weight * (value * value);
    });
    sum = over_block<warps>(sum, sums);
    raw = over_block<warps>(raw, sums);
    const double mean = centred && pairs[r] ? sum / pairs[r] : 0;
    rdm.each_pair([&](int pair, double value, int weight) { out.write(pair, value - mean, weight); });
    const double square = over_block<warps>(out.square, sums);
    if (threadIdx.x == 0)
        squares[static_cast<long long>(r) * rdms + k] = square > noise * raw ? square : 0;
}
