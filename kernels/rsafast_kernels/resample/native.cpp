// Products of RDMs on resamples: see __init__.py for the mathematics, ranked.hpp for the ranks.
//
// Only pairs that a resample holds enter its products (two in five in a bootstrap): both sides are
// written in the same thinned order, one of them times the weights, and multiplied in float64. Ranks
// are taken in 16 resamples at once; twice a centred rank is an integer, so that up to some 800 stimuli
// every product of ranks is exact. Nothing depends on threads or on how the work is cut.
#include "ranked.hpp"
#include "product.hpp"
#include "registry.hpp"
#include "streaming.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif

#include <cmath>

namespace {

using namespace rsafast::resample;
using rsafast::Array;
using rsafast::round_up;
namespace nb = nanobind;
using Index = std::ptrdiff_t;
using Exact = unsigned __int128;

constexpr std::size_t slack = block;  // `append` writes whole blocks
constexpr std::size_t panel_budget = std::size_t{1} << 30;
constexpr std::size_t tile_budget = std::size_t{2} << 30;
constexpr std::size_t streamed_panel = std::size_t{8} << 20;  // beyond what caches keep till it is read
constexpr std::size_t most_rows = 32;   // of a tile
constexpr std::size_t right_rows = 24;  // converted at a time
constexpr std::size_t part = 1024;      // pairs of them: both sides stay in the L2 cache
constexpr std::size_t stretch = 1024;  // pairs whose moments are taken before the next are written
constexpr double noise = 1e-24;  // of the squared length: what is below is no spread

int thread_number() {
#if defined(_OPENMP)
    return omp_get_thread_num();
#else
    return 0;
#endif
}

// `threads` share either the tasks or what is inside each: tasks that fit the caches side by side
// run side by side.
struct Sharing {
    int outer, inner;
    Sharing(int threads, std::size_t tasks, std::size_t bytes_a_task) {
        constexpr std::size_t cache = std::size_t{16} << 20;
        const bool apart = tasks >= static_cast<std::size_t>(threads) && bytes_a_task <= cache;
        outer = apart ? threads : 1;
        inner = apart ? 1 : threads;
    }
    template <class Task>
    void run(std::size_t tasks, Task task) const {
        if (outer == 1) {
            for (std::size_t t = 0; t < tasks; ++t) task(t, 0);
            return;
        }
#pragma omp parallel for num_threads(outer) schedule(dynamic)
        for (Index t = 0; t < static_cast<Index>(tasks); ++t) task(t, thread_number());
    }
};

// Which RDMs of b are added up before the products, each divided by its length: those of group g are
// begin[g] to begin[g + 1]. Without groups every RDM is one by itself, as it is.
struct Groups {
    Array<const std::int32_t> begin;
    std::size_t rdms;

    bool any() const { return begin.size() > 0; }
    std::size_t count() const { return any() ? begin.size() - 1 : rdms; }
    std::size_t first(std::size_t g) const { return any() ? begin.data()[g] : g; }
    // By its length; an RDM without spread adds nothing, and the caller sees its square.
    double scale(double square) const {
        if (!any()) return 1.0;
        return square > 0 ? 1.0 / std::sqrt(square) : 0.0;
    }
};

// ---------------------------------------------------------------- ranks

struct Stack {  // the RDMs of one side
    Array<const std::uint32_t> order;
    Array<const std::uint16_t> slot, chunk;
    Array<const std::uint8_t> tied;

    std::size_t rdms() const { return order.shape(0); }
    Ranked rdm(std::size_t k) const {
        const std::size_t count = order.shape(1), padded = slot.shape(1);
        return {order.data() + k * count, slot.data() + k * padded, chunk.data() + k * padded, count,
                tied.data()[k] != 0};
    }
};

template <class Sum>
Sum sum_of_cubes(const std::int32_t* first, const std::int32_t* last) {
    Sum total = 0;
    for (; first < last; ++first) total += static_cast<Sum>(*first) * *first * *first;
    return total;
}

struct Batch {  // up to 16 resamples
    std::vector<std::uint16_t> counts;  // (n, lanes)
    std::vector<Thinned> thinned;
    std::vector<std::size_t> begin{0};  // of every lane in a row of thinned pairs
    std::vector<std::int32_t> weights;  // of the thinned pairs
    std::int64_t pairs[lanes] = {};
    double spread[lanes];  // Σ w (rank - mean)² where no two values tie
    std::int32_t start[lanes];
    std::int64_t most_pairs = 0;
    std::int32_t most = 0, most_of_pair = 0;
    std::size_t longest = 0;

    Batch(const Layout& layout, const std::int32_t* rows, int used, const std::int32_t* keep,
          bool centred)
        : counts(static_cast<std::size_t>(layout.n) * lanes, 0) {
        const std::vector<std::int32_t> none(layout.n, 0);
        for (int l = 0; l < lanes; ++l) {
            const std::int32_t* w =
                l < used ? rows + static_cast<std::size_t>(l) * layout.n : none.data();
            for (int i = 0; i < layout.n; ++i) {
                counts[static_cast<std::size_t>(i) * lanes + l] = static_cast<std::uint16_t>(w[i]);
                most = std::max(most, w[i]);
            }
            thinned.emplace_back(layout, w);
            begin.push_back(begin.back() + round_up(thinned[l].pairs(), row_multiple));
            longest = std::max(longest, length(l));
        }
        weights.assign(begin.back() + slack, 0);
        for (int l = 0; l < lanes; ++l) weigh(layout, l, keep, centred);
    }
    std::size_t length(int lane) const { return begin[lane + 1] - begin[lane]; }

   private:
    void weigh(const Layout& layout, int l, const std::int32_t* keep, bool centred) {
        const Thinned& thin = thinned[l];
        std::int32_t* const first = weights.data() + begin[l];
        std::int32_t* to = first;
        for (int i = 0; i < layout.n; ++i) {
            if (!thin.holds(i)) continue;
            const std::int32_t* other = thin.weight.data() + thin.before[i + 1];
            const std::int32_t own = other[-1];
            const int count = thin.row(i);
            if (keep) thin.append_row(layout, i, keep + layout.start[i], to);
            else std::fill(to, to + count, 1);
            for (int k = 0; k < count; ++k) to[k] *= own * other[k];
            to += count;
        }
        for (const std::int32_t* from = first; from < to; ++from) {
            pairs[l] += *from;
            most_of_pair = std::max(most_of_pair, *from);
        }
        std::fill(to, weights.data() + begin[l + 1], 0);
        // w copies share a rank: Σ w (rank - mean)² = (P³ - Σ w³) / 12. 2^25 cubes of 13 bits fit 64.
        const bool small = most_of_pair < (1 << 13) && to - first < (1 << 25);
        const Exact cubes =
            small ? sum_of_cubes<std::uint64_t>(first, to) : sum_of_cubes<Exact>(first, to);
        const Exact total = static_cast<Exact>(pairs[l]);
        spread[l] = static_cast<double>(total * total * total - cubes) / 12;
        most_pairs = std::max(most_pairs, pairs[l]);
        start[l] = centred ? static_cast<std::int32_t>(-pairs[l]) : 1;
    }
};

constexpr std::size_t chunks(std::size_t pairs) { return (pairs >> chunk_bits) + 1; }

// What one thread needs: the lines of one RDM, and the thinned ranks of a tile of RDMs, row m of
// lane l at (l * tile + m) * stride.
struct RankScratch {
    std::size_t stride;
    Buffer<Wide> lines;
    Buffer<std::int32_t> bases, panel, row;
    Buffer<double> right;  // rows of the prepared side, as float64
#if defined(__AVX512BW__)
    std::vector<std::int16_t> table = std::vector<std::int16_t>(looked_up * lanes);
#endif

    RankScratch(const Layout& layout, const Lines& where, int tile)
        : stride(round_up(layout.pairs(), block) + slack),
          lines(where.total * lanes),
          bases(chunks(layout.start[layout.n]) * lanes),
          panel(stride * tile * lanes),
          row(static_cast<std::size_t>(layout.blocks) * block * lanes),
          right(right_rows * part) {
        std::fill_n(bases.data(), chunks(layout.start[layout.n]) * lanes, 0);
    }
};

// Twice the (centred) ranks of one RDM in all resamples of a batch.
void rank(const Ranked& rdm, const Layout& layout, const Lines& where, const Batch& batch,
          RankScratch& scratch, Sink sink) {
    Narrow* const narrow = reinterpret_cast<Narrow*>(scratch.lines.data());
    std::int32_t *const bases = scratch.bases.data(), *const row = scratch.row.data();
    const bool fits = !rdm.tied && batch.most <= narrow_weight &&
                      walk(rdm, layout, where, batch.counts.data(), batch.start, narrow, bases);
    if (!fits) {
        walk(rdm, layout, where, batch.counts.data(), batch.start, scratch.lines.data());
        return unpack(rdm, layout, where, batch.thinned, scratch.lines.data(), bases, row, sink);
    }
#if defined(__AVX512BW__)
    if (chunks(rdm.count) <= looked_up && batch.most_pairs < short_base) {
        tabulate(bases, chunks(rdm.count), batch.start, scratch.table.data());
        return unpack(rdm, layout, where, batch.thinned, narrow, scratch.table.data(), batch.start,
                      reinterpret_cast<std::uint16_t*>(row), sink);
    }
#endif
    unpack(rdm, layout, where, batch.thinned, narrow, bases, row, sink);
}

double weighted_square(const std::int32_t* v, const std::int32_t* w, std::size_t length) {
    auto sum = V::zero();
    for (std::size_t k = 0; k < length; k += V::width) {
        const auto value = load(v + k);
        sum += value * value * load(w + k);
    }
    const auto total = sum;  // a copy, so that `sum` itself never needs an address
    return V::sum(total);
}

struct RankJob {
    Layout layout;
    Lines where;
    Stack a, b;
    Groups groups;
    const std::int32_t* keep;
    bool centred;
    Array<double> products, squares_a, squares_b;
    int tile;

    // Bytes of the prepared side that are worth having at once.
    std::size_t panel_bytes() const {
        const std::size_t row = (layout.pairs() + row_multiple) * lanes * sizeof(double);
        return std::min(std::max(row, panel_budget), row * std::max<std::size_t>(1, groups.count()));
    }

    // Σ w v² of the ranks of RDM `k` in every resample, those of resample l at from + l * stride.
    void write_squares(const Array<double>& out, const Batch& batch, const Ranked& rdm,
                       std::size_t first, std::size_t k, int used, const std::int32_t* from,
                       std::size_t stride) const {
        for (int l = 0; l < used; ++l)
            out.data()[(first + l) * out.shape(1) + k] =
                rdm.tied || !centred
                    ? weighted_square(from + l * stride, batch.weights.data() + batch.begin[l],
                                      batch.length(l)) / 4
                    : batch.spread[l];
    }

    // Ranks of the RDMs of group `g` of b times the weights: row g - first_b of every lane and part of
    // `panel`, whose parts hold all rows one after the other.
    template <class B>
    void prepare(const Batch& batch, std::size_t first, int used, std::size_t g,
                 std::size_t first_b, std::size_t count_b, RankScratch& scratch, B* panel) const {
        for (std::size_t k = groups.first(g); k < groups.first(g + 1); ++k) {
            const Ranked rdm = b.rdm(k);
            const std::int32_t* const from = scratch.panel.data();
            rank(rdm, layout, where, batch, scratch,
                 Sink(layout, scratch.panel.data(), scratch.stride, false));
            write_squares(squares_b, batch, rdm, first, k, used, from, scratch.stride);
            const bool starts = k == groups.first(g);
            for (int l = 0; l < used; ++l) {
                const std::size_t length = batch.length(l);
                const std::int32_t *v = from + l * scratch.stride;
                const std::int32_t* w = batch.weights.data() + batch.begin[l];
                const B scale = static_cast<B>(
                    groups.scale(squares_b.data()[(first + l) * squares_b.shape(1) + k]));
                B* const lane = panel + batch.begin[l] * count_b;
                for (std::size_t at = 0; at < length; at += part) {
                    const std::size_t some = std::min(part, length - at);
                    B* const to = lane + at * count_b + (g - first_b) * some;
                    if (starts) std::fill_n(to, some, B(0));
                    for (std::size_t i = 0; i < some; ++i)
                        to[i] += scale * static_cast<B>(v[at + i]) * static_cast<B>(w[at + i]);
                }
            }
        }
    }

    // Products of a tile of a with `count_b` prepared groups.
    template <class B>
    void multiply(const Batch& batch, std::size_t first, int used, std::size_t first_a, int count_a,
                  std::size_t first_b, std::size_t count_b, RankScratch& scratch,
                  const B* panel) const {
        const std::size_t wide = products.shape(2), per_resample = products.shape(1) * wide;
        const std::size_t stride = round_up(batch.longest, block) + slack;
        const std::size_t lane_stride = stride * count_a;
        const bool streamed = lane_stride * lanes * sizeof(std::int32_t) > streamed_panel;
        for (int m = 0; m < count_a; ++m) {
            std::int32_t* const to = scratch.panel.data() + m * stride;
            const Ranked rdm = a.rdm(first_a + m);
            rank(rdm, layout, where, batch, scratch, Sink(layout, to, lane_stride, streamed));
            write_squares(squares_a, batch, rdm, first, first_a + m, used, to, lane_stride);
        }
        for (int l = 0; l < used; ++l) {
            double* const out =
                products.data() + (first + l) * per_resample + first_a * wide + first_b;
            for (int m = 0; m < count_a; ++m) std::fill_n(out + m * wide, count_b, 0.0);
            const std::size_t length = batch.length(l);
            const std::int32_t* const left = scratch.panel.data() + l * lane_stride;
            for (std::size_t k = 0; k < length; k += part) {
                const std::size_t some = std::min(part, length - k);
                const B* const right = panel + (batch.begin[l] + k) * count_b;
                for (std::size_t j = 0; j < count_b; j += right_rows) {
                    const std::size_t rows = std::min(right_rows, count_b - j);
                    // Converted once for the whole tile, not in every product.
                    std::copy_n(right + j * some, rows * some, scratch.right.data());
                    product(left + k, stride, count_a, scratch.right.data(), some,
                            static_cast<int>(rows), some, out + j, wide,
                            right + (j + rows) * some, rows * some * sizeof(B));
                }
            }
            for (int m = 0; m < count_a; ++m)
                for (std::size_t j = 0; j < count_b; ++j) out[m * wide + j] /= 4;
        }
    }

    template <class B>
    void run(const Batch& batch, std::size_t first, int used, RankScratch* scratch, B* panel,
             int threads) const {
        const std::size_t models = a.rdms(), brains = groups.count();
        const std::size_t row = std::max<std::size_t>(1, batch.begin.back() * sizeof(B));
        const std::size_t step = std::max<std::size_t>(1, std::min(brains, panel_bytes() / row));
        // Once at least: the squares of a do not ask for a brain RDM.
        for (std::size_t first_b = 0; first_b < std::max<std::size_t>(1, brains); first_b += step) {
            const std::size_t count_b = std::min(step, brains - first_b);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
            for (Index k = 0; k < static_cast<Index>(count_b); ++k)
                prepare(batch, first, used, first_b + k, first_b, count_b, scratch[thread_number()],
                        panel);
            const Index tiles = (models + tile - 1) / tile;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
            for (Index t = 0; t < tiles; ++t)
                multiply(batch, first, used, t * tile,
                         static_cast<int>(std::min<std::size_t>(tile, models - t * tile)), first_b,
                         count_b, scratch[thread_number()], panel);
        }
    }
};

void ranked(int n, Stack a, Stack b, Groups groups, Array<const std::int32_t> rows,
            Array<const std::int32_t> keep, bool centred, Array<double> products,
            Array<double> squares_a, Array<double> squares_b, Array<double> pairs, int threads) {
    nb::gil_scoped_release release;
    const Layout layout(n);
    const std::size_t resamples = rows.shape(0), batches = (resamples + lanes - 1) / lanes;
    const Lines where(layout);
    const Sharing sharing(threads, batches, layout.pairs() * (groups.count() + 1) * lanes * sizeof(Wide));
    const std::size_t affordable = tile_budget / (threads * layout.pairs() * lanes * sizeof(Wide) + 1);
    // As many tiles as threads share evenly.
    const std::size_t most = std::clamp<std::size_t>(affordable, 1, most_rows);
    const std::size_t tiles = round_up((a.rdms() + most - 1) / most, sharing.inner);
    const int tile = static_cast<int>(
        tiles == 0 ? 1 : std::max<std::size_t>(1, (a.rdms() + tiles - 1) / tiles));
    const RankJob job{layout,  where,    a,         b,         groups, keep.size() ? keep.data() : nullptr,
                      centred, products, squares_a, squares_b, tile};
    std::vector<RankScratch> scratch;
    for (int t = 0; t < threads; ++t) scratch.emplace_back(layout, where, job.tile);
    std::vector<Buffer<char>> panels;
    for (int t = 0; t < sharing.outer; ++t) panels.emplace_back(job.panel_bytes());
    sharing.run(batches, [&](std::size_t t, int thread) {
        const std::size_t first = t * lanes;
        const int used = static_cast<int>(std::min<std::size_t>(lanes, resamples - first));
        const Batch batch(layout, rows.data() + first * n, used, job.keep, centred);
        for (int l = 0; l < used; ++l) pairs.data()[first + l] = static_cast<double>(batch.pairs[l]);
        // A weighted rank of the prepared side fits 32 bits unless stimuli are drawn very often.
        const bool fits = !groups.any() &&
                          2 * batch.most_pairs * batch.most_of_pair < (std::int64_t{1} << 31);
        RankScratch* own = scratch.data() + (sharing.outer > 1 ? thread : 0);
        char* const panel = panels[thread].data();
        if (fits)
            job.run(batch, first, used, own, reinterpret_cast<std::int32_t*>(panel), sharing.inner);
        else job.run(batch, first, used, own, reinterpret_cast<double*>(panel), sharing.inner);
    });
}

// The order of the kept pairs from their average ranks.
void sort(int n, Array<const double> ranks, Array<const std::uint8_t> keep,
          Array<std::uint32_t> order, Array<std::uint16_t> slot, Array<std::uint16_t> chunk,
          Array<std::uint8_t> tied, int threads) {
    nb::gil_scoped_release release;
    const Layout layout(n);
    const std::size_t rdms = ranks.shape(0), count = ranks.shape(1), padded = slot.shape(1);
    std::vector<std::uint32_t> pairs;
    std::size_t p = 0;
    for (std::uint32_t i = 0; i < static_cast<std::uint32_t>(n); ++i)
        for (std::uint32_t j = i + 1; j < static_cast<std::uint32_t>(n); ++j)
            if (keep.data()[p++]) pairs.push_back(packed(i, j));
#pragma omp parallel num_threads(threads)
    {
        std::vector<std::uint32_t> ties(2 * count + 1), next(2 * count + 1);
        std::vector<std::uint16_t> filled(layout.buckets());
#pragma omp for schedule(dynamic)
        for (Index k = 0; k < static_cast<Index>(rdms); ++k) {
            const double* rank = ranks.data() + k * count;
            const auto key = [=](std::size_t t) { return static_cast<std::size_t>(2 * rank[t]); };
            std::uint32_t* to = order.data() + k * count;
            std::fill(ties.begin(), ties.end(), 0);
            for (std::size_t t = 0; t < count; ++t) ++ties[key(t)];
            bool any = false;
            for (std::size_t r = 2; r <= 2 * count; ++r) {
                next[r] = static_cast<std::uint32_t>((r - 1 - ties[r]) / 2);
                any |= ties[r] > 1;
            }
            for (std::size_t t = 0; t < count; ++t) {
                const std::size_t r = key(t);
                const bool last = --ties[r] == 0;
                to[next[r]++] = pairs[t] | (any && last ? last_of_ties : 0);
            }
            tied.data()[k] = any;
            std::fill(filled.begin(), filled.end(), 0);
            std::fill_n(slot.data() + k * padded, padded, 0);
            std::fill_n(chunk.data() + k * padded, padded, 0);
            for (std::size_t t = 0; t < count; ++t) {
                const int i = static_cast<int>(row_of(to[t]));
                const std::size_t column = column_of(to[t]) - layout.first(i) * block;
                const std::size_t at = k * padded + layout.start[i] + place(column);
                slot.data()[at] = ++filled[layout.bucket_of[i]];
                chunk.data()[at] = static_cast<std::uint16_t>(t >> chunk_bits);
            }
        }
    }
}

// Average ranks in one resample, to squareform order; 0 for pairs that it does not hold.
void rank_one(int n, Array<const std::uint32_t> order, Array<const std::uint8_t> tied,
              Array<const std::int32_t> weights, Array<double> out, int threads) {
    nb::gil_scoped_release release;
    const std::size_t rdms = order.shape(0), count = order.shape(1), pairs = out.shape(1);
    const std::int32_t* w = weights.data();
    std::vector<Index> row(n);
    for (Index i = 0; i < n; ++i) row[i] = i * n - i * (i + 1) / 2 - i - 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (Index k = 0; k < static_cast<Index>(rdms); ++k) {
        const std::uint32_t* from = order.data() + k * count;
        double* to = out.data() + k * pairs;
        std::fill_n(to, pairs, 0.0);
        std::int64_t before = 0;
        const auto weight = [=](std::size_t t) {
            return std::int64_t{w[row_of(from[t])]} * w[column_of(from[t])];
        };
        for (std::size_t t = 0; t < count;) {
            std::size_t end = t;
            std::int64_t after = before;
            do after += weight(end);
            while (!(from[end++] & last_of_ties) && tied.data()[k]);
            const double rank = 0.5 * static_cast<double>(before + after + 1);
            for (; t < end; ++t)
                to[row[row_of(from[t])] + column_of(from[t])] = weight(t) ? rank : 0.0;
            before = after;
        }
    }
}

// ---------------------------------------------------------------- values as they are

// Squareform order to padded rows, 0 where a pair does not count.
void pad(int n, Array<const double> values, Array<const std::uint8_t> keep, Array<double> out,
         int threads) {
    nb::gil_scoped_release release;
    const Layout layout(n);
    const std::size_t rdms = values.shape(0), pairs = values.shape(1), padded = out.shape(1);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index k = 0; k < static_cast<Index>(rdms); ++k) {
        const double* from = values.data() + k * pairs;
        double* to = out.data() + k * padded;
        std::fill_n(to, padded, 0.0);
        std::size_t p = 0;
        for (int i = 0; i < n; ++i)
            for (int j = i + 1; j < n; ++j, ++p)
                if (keep.data()[p]) to[layout.at(i, j)] = from[p];
    }
}

// What V⁻¹ of a resample takes away, ⟨f, g⟩ over its stimuli: see __init__.py. The stimulus drawn most
// often is taken out of the sums, because its c is infinite where it fills n/2 + 1 of the n places.
struct Additive {
    std::size_t most = 0;
    double inverse = 0, total = 1;
    std::vector<double> c;  // 0 at `most`

    explicit Additive(const Thinned& thin) : c(thin.held(), 0.0) {
        double n = 0;
        for (int x = 0; x < thin.held(); ++x) {
            n += thin.weight[x];
            if (thin.weight[x] > thin.weight[most]) most = x;
        }
        for (std::size_t x = 0; x < c.size(); ++x) {
            const double w = thin.weight[x];
            if (x == most) {
                inverse = (2 + n - 2 * w) / w;
            } else {
                c[x] = w / (2 + n - 2 * w);
                total += c[x];
            }
        }
    }
    double rest(const double* f) const {
        double sum = 0;
        for (std::size_t x = 0; x < c.size(); ++x) sum += c[x] * f[x];
        return sum;
    }
    double operator()(const double* f, double rest_f, const double* g, double rest_g) const {
        double within = 0;
        for (std::size_t x = 0; x < c.size(); ++x) within += c[x] * f[x] * g[x];
        const double at_f = f[most], at_g = g[most];
        const double one = at_f * at_g * total - at_f * rest_g - at_g * rest_f -
                           inverse * rest_f * rest_g;
        return within + one / (inverse * total + 1);
    }
};

struct Moments {  // Σ w v and Σ w v²
    double sum, square;

    static Moments of(const double* v, const double* w, std::size_t length) {
        auto sum = V::zero(), square = V::zero(), sum_odd = V::zero(), square_odd = V::zero();
        std::size_t k = 0;
        for (; k + 2 * V::width <= length; k += 2 * V::width) {
            const auto x = load(v + k), wx = load(w + k) * x;
            const auto y = load(v + k + V::width), wy = load(w + k + V::width) * y;
            sum += wx;
            square += wx * x;
            sum_odd += wy;
            square_odd += wy * y;
        }
        for (; k < length; k += V::width) {
            const auto x = load(v + k), wx = load(w + k) * x;
            sum += wx;
            square += wx * x;
        }
        const auto sums = sum + sum_odd, squares = square + square_odd;
        return {V::sum(sums), V::sum(squares)};
    }
    void operator+=(const Moments& other) {
        sum += other.sum;
        square += other.square;
    }
};

// Subtracts the mean; returns Σ w v² of what is left.
double centre(double* v, const double* w, std::size_t length, double mean) {
    auto even = V::zero(), odd = V::zero();
    const auto step = [=](double* at, const double* weight) {
        const auto x = load(at) - mean;
        V::store(at, x);
        return load(weight) * x * x;
    };
    std::size_t k = 0;
    for (; k + 2 * V::width <= length; k += 2 * V::width) {
        even += step(v + k, w + k);
        odd += step(v + k + V::width, w + k + V::width);
    }
    for (; k < length; k += V::width) even += step(v + k, w + k);
    const auto total = even + odd;
    return V::sum(total);
}

struct Sums {  // of one RDM over the other stimuli, for every stimulus that a resample holds
    std::vector<double> of;
    double rest;
};

struct ValueJob {
    Layout layout;
    Array<const double> a, b;
    Groups groups;
    const std::int32_t* keep;
    bool centred, whitened;
    int tile;

    struct Resample {
        Thinned thin;
        std::vector<double> weights;  // of the thinned pairs
        double pairs = 0;
        std::size_t length;

        Resample(const Layout& layout, const std::int32_t* w, const std::int32_t* keep)
            : thin(layout, w),
              length(round_up(thin.pairs(), row_multiple)) {
            weights.assign(length, 0.0);
            std::vector<std::int32_t> kept(layout.n + slack, 1);
            double* to = weights.data();
            for (int i = 0; i < layout.n; ++i) {
                if (!thin.holds(i)) continue;
                const std::int32_t* other = thin.weight.data() + thin.before[i + 1];
                if (keep) thin.append_row(layout, i, keep + layout.start[i], kept.data());
                for (int k = 0; k < thin.row(i); ++k) {
                    *to = static_cast<double>(other[-1]) * other[k] * kept[k];
                    pairs += *to++;
                }
            }
        }
    };

    // The thinned pairs of one RDM, centred if asked. Returns Σ w v², exactly 0 if that is noise,
    // and, through `floor`, what counts as noise.
    double thin(const Resample& resample, const double* from, double* to, double& floor) const {
        const double* const w = resample.weights.data();
        Moments moments{0, 0};
        std::size_t done = 0;
        double* next = to;
        for (int i = 0; i < layout.n; ++i) {
            if (!resample.thin.holds(i)) continue;
            next = resample.thin.append_row(layout, i, from + layout.start[i], next);
            const std::size_t written = next - to;
            if (written < done + stretch) continue;
            moments += Moments::of(to + done, w + done, stretch);  // still in the L1 cache
            done += stretch;
        }
        std::fill(next, to + resample.length, 0.0);
        moments += Moments::of(to + done, w + done, resample.length - done);
        floor = noise * moments.square;
        if (!centred) return moments.square;
        return centre(to, w, resample.length, moments.sum / resample.pairs);
    }

    Sums sums(const Resample& resample, const Additive& additive, const double* v) const {
        Sums out{std::vector<double>(resample.thin.held(), 0.0), 0};
        const std::int32_t* w = resample.thin.weight.data();
        const int held = resample.thin.held();
        for (int x = 0; x < held; ++x) {
            double own = 0;
            for (int y = x + 1; y < held; ++y, ++v) {
                own += w[y] * *v;
                out.of[y] += w[x] * *v;
            }
            out.of[x] += own;
        }
        out.rest = additive.rest(out.of.data());
        return out;
    }

    double square(const Additive& additive, const Sums& f, double square, double floor) const {
        if (whitened) square = (square - additive(f.of.data(), f.rest, f.of.data(), f.rest)) / 2;
        return square > floor ? square : 0.0;
    }

    // The RDMs of group `g` of b times the weights, to row `to`; their sums where whitening needs them.
    Sums prepare(const Resample& resample, const Additive& additive, std::size_t g,
                 double* squares_b, double* row, double* to) const {
        Sums total{std::vector<double>(resample.thin.held(), 0.0), 0};
        std::fill_n(to, resample.length, 0.0);
        for (std::size_t k = groups.first(g); k < groups.first(g + 1); ++k) {
            double floor;
            const double plain = thin(resample, b.data() + k * b.shape(1), row, floor);
            const Sums own = whitened ? sums(resample, additive, row) : Sums{};
            squares_b[k] = square(additive, own, plain, floor);
            const double scale = groups.scale(squares_b[k]);
            for (std::size_t x = 0; x < own.of.size(); ++x) total.of[x] += scale * own.of[x];
            total.rest += scale * own.rest;
            for (std::size_t i = 0; i < resample.length; ++i)
                to[i] += scale * row[i] * resample.weights[i];
        }
        return total;
    }

    void run(const Resample& resample, double* products, double* squares_a, double* squares_b,
             Buffer<double>* scratch, double* panel, int threads) const {
        const std::size_t models = a.shape(0), brains = groups.count(), padded = a.shape(1);
        const std::size_t length = resample.length, stride = length + slack;
        if (resample.pairs == 0) {
            std::fill_n(products, models * brains, 0.0);
            std::fill_n(squares_a, models, 0.0);
            std::fill_n(squares_b, b.shape(0), 0.0);
            return;
        }
        const Additive additive(resample.thin);
        std::vector<Sums> sums_b(brains);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
        for (Index g = 0; g < static_cast<Index>(brains); ++g)
            sums_b[g] = prepare(resample, additive, g, squares_b,
                                scratch[thread_number()].data(), panel + g * stride);
        const Index tiles = (models + tile - 1) / tile;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
        for (Index t = 0; t < tiles; ++t) {
            const std::size_t first = t * tile, count = std::min<std::size_t>(tile, models - first);
            double* const rows = scratch[thread_number()].data();
            std::vector<Sums> sums_a(count);
            for (std::size_t m = 0; m < count; ++m) {
                double floor, *to = rows + m * stride;
                const double plain = thin(resample, a.data() + (first + m) * padded, to, floor);
                if (whitened) sums_a[m] = sums(resample, additive, to);
                squares_a[first + m] = square(additive, sums_a[m], plain, floor);
            }
            double* const out = products + first * brains;
            std::fill_n(out, count * brains, 0.0);
            product(rows, stride, static_cast<int>(count), panel, stride,
                    static_cast<int>(brains), length, out, brains);
            if (!whitened) continue;
            for (std::size_t m = 0; m < count; ++m)
                for (std::size_t k = 0; k < brains; ++k) {
                    const Sums &f = sums_a[m], &g = sums_b[k];
                    double& value = out[m * brains + k];
                    value = (value - additive(f.of.data(), f.rest, g.of.data(), g.rest)) / 2;
                }
        }
    }
};

void values(int n, Array<const double> a, Array<const double> b,
            Array<const std::int32_t> group_begin, Array<const std::int32_t> rows,
            Array<const std::int32_t> keep, bool centred, bool whitened, Array<double> products,
            Array<double> squares_a, Array<double> squares_b, Array<double> pairs, int threads) {
    nb::gil_scoped_release release;
    const Layout layout(n);
    const Groups groups{group_begin, b.shape(0)};
    const std::size_t resamples = rows.shape(0), models = a.shape(0), brains = groups.count();
    const std::size_t padded = layout.start[n];
    const Sharing sharing(threads, resamples, padded * (brains + 1) * sizeof(double));
    const int shared = static_cast<int>((models + sharing.inner - 1) / sharing.inner);
    const ValueJob job{layout,  a,        b, groups, keep.size() ? keep.data() : nullptr,
                       centred, whitened, std::clamp(shared, 1, 8)};
    const std::size_t row = round_up(padded, row_multiple) + slack;
    std::vector<Buffer<double>> scratch, panels;
    for (int t = 0; t < threads; ++t) scratch.emplace_back(row * job.tile);
    for (int t = 0; t < sharing.outer; ++t) panels.emplace_back(row * brains);
    sharing.run(resamples, [&](std::size_t r, int thread) {
        const ValueJob::Resample resample(layout, rows.data() + r * n, job.keep);
        pairs.data()[r] = resample.pairs;
        job.run(resample, products.data() + r * models * brains, squares_a.data() + r * models,
                squares_b.data() + r * b.shape(0), scratch.data() + (sharing.outer > 1 ? thread : 0),
                panels[thread].data(), sharing.inner);
    });
}

std::size_t padded_pairs(int n) { return Layout(n).start[n]; }

void bind_ranked(int n, Array<const std::uint32_t> order_a, Array<const std::uint16_t> slot_a,
                 Array<const std::uint16_t> chunk_a, Array<const std::uint8_t> tied_a,
                 Array<const std::uint32_t> order_b, Array<const std::uint16_t> slot_b,
                 Array<const std::uint16_t> chunk_b, Array<const std::uint8_t> tied_b,
                 Array<const std::int32_t> group_begin,
                 Array<const std::int32_t> rows, Array<const std::int32_t> keep, bool centred,
                 Array<double> products, Array<double> squares_a, Array<double> squares_b,
                 Array<double> pairs, int threads) {
    ranked(n, {order_a, slot_a, chunk_a, tied_a}, {order_b, slot_b, chunk_b, tied_b},
           {group_begin, order_b.shape(0)}, rows, keep, centred, products, squares_a, squares_b, pairs, threads);
}

}  // namespace

RSAFAST_KERNEL(resample) {
    m.def("resample_padded_pairs", &padded_pairs);
    m.def("resample_sort", &sort);
    m.def("resample_pad", &pad);
    m.def("resample_rank_one", &rank_one);
    m.def("resample_ranked", &bind_ranked);
    m.def("resample_values", &values);
    streaming::bind(m);
}
