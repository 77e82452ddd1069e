// Ranks of one RDM in 16 resamples at once, exact, on the pairs that each resample holds.
//
// 1. walk: the pairs in order of value. The running weight of 16 resamples is one vector; twice the
//    average rank goes to a line of the pair's bucket (some rows of the matrix), which fills in
//    order, so that memory is written in a few streams.
// 2. unpack: one bucket, small enough for the L2 cache, is read in the order of the pairs; 16 pairs by
//    16 resamples are transposed in registers, and every resample keeps what it holds.
// A line is 16 words of 32 bits or, where no two values tie and no stimulus is drawn often, of 16 bits
// relative to the running weight at the start of a chunk of the order: half the memory to walk over.
#pragma once

#include "layout.hpp"

namespace rsafast::resample {

inline constexpr int lanes = 16;  // resamples of a batch
inline constexpr int chunk_bits = 12;
inline constexpr std::uint32_t last_of_ties = 0x80000000u;
inline constexpr int narrow_weight = 11;  // 256 pairs of 11² weigh less than 2^15

using Words = Simd<std::int32_t>;
using Narrow = std::uint16_t;
using Wide = std::int32_t;
inline constexpr int word_parts = lanes / Words::width;

struct Ranked {
    const std::uint32_t* order;  // pairs by value: i, j << 16, and whether the next value is larger
    const std::uint16_t* slot;   // line of every padded pair in its bucket; 0 where there is no pair
    const std::uint16_t* chunk;  // of every padded pair
    std::size_t count;
    bool tied;
};

inline std::size_t row_of(std::uint32_t pair) { return pair & 0xffffu; }
inline std::size_t column_of(std::uint32_t pair) { return pair >> 16 & 0x7fffu; }

// Where the lines of every bucket start, the first of each standing for pairs that do not count.
struct Lines {
    std::vector<std::size_t> begin;
    std::size_t total;

    explicit Lines(const Layout& layout) {
        for (std::size_t b = 0; b < layout.buckets(); ++b)
            begin.push_back(layout.start[layout.bucket_rows[b]] + b);
        total = layout.start[layout.n] + layout.buckets();
    }
    template <class Line>
    std::vector<Line*> cursors(Line* lines) const {
        std::vector<Line*> at;
        for (const std::size_t from : begin) {
            std::fill_n(lines + from * lanes, lanes, Line(0));
            at.push_back(lines + (from + 1) * lanes);
        }
        return at;
    }
};

// The running weights `total`, twice and from `start`, at the beginning of every chunk go to `bases`.
// Returns false where 16 bits do not suffice.
inline bool walk(const Ranked& rdm, const Layout& layout, const Lines& where,
                 const std::uint16_t* weights, const std::int32_t* start, Narrow* lines,
                 std::int32_t* bases) {
    typedef Narrow Sixteen __attribute__((vector_size(lanes * sizeof(Narrow))));
    constexpr std::size_t stretch = 256;
    auto cursors = where.cursors(lines);
    Narrow** const cursor = cursors.data();
    const std::uint16_t* const bucket_of = layout.bucket_of.data();
    std::int32_t total[lanes];
    std::copy(start, start + lanes, total);
    for (std::size_t t = 0; t < rdm.count; bases += lanes) {
        std::copy(total, total + lanes, bases);
        const std::size_t chunk = std::min(rdm.count, t + (std::size_t{1} << chunk_bits));
        Sixteen running = {};
        while (t < chunk) {
            for (const std::size_t end = std::min(chunk, t + stretch); t < end; ++t) {
                const std::uint32_t pair = rdm.order[t];
                const std::size_t i = row_of(pair);
                Sixteen weight, other;
                std::memcpy(&weight, weights + i * lanes, sizeof weight);
                std::memcpy(&other, weights + column_of(pair) * lanes, sizeof other);
                weight *= other;
                const Sixteen next = running + weight, twice = running + next;
                running = next;
                Narrow*& to = cursor[bucket_of[i]];
                std::memcpy(to, &twice, sizeof twice);
                __builtin_prefetch(to + 4 * lanes, 1);
                to += lanes;
            }
            Narrow reached[lanes];
            std::memcpy(reached, &running, sizeof running);
            if (*std::max_element(reached, reached + lanes) > 0x7fff) return false;
        }
        for (int l = 0; l < lanes; ++l) total[l] += 2 * running[l];
    }
    return true;
}

inline Words::type weights_of(const std::uint16_t* at) {
    typedef std::uint16_t Half __attribute__((vector_size(vector_bytes / 2)));
    Half v;
    std::memcpy(&v, at, sizeof v);
    return __builtin_convertvector(v, Words::type);
}

inline void walk(const Ranked& rdm, const Layout& layout, const Lines& where,
                 const std::uint16_t* weights, const std::int32_t* start, Wide* lines) {
    auto cursors = where.cursors(lines);
    Wide** const cursor = cursors.data();
    const std::uint16_t* const bucket_of = layout.bucket_of.data();
    Words::type running[word_parts];
    for (int part = 0; part < word_parts; ++part)
        running[part] = Words::load(start + part * Words::width);
    for (std::size_t t = 0; t < rdm.count;) {
        Words::type next[word_parts], twice[word_parts];
        std::copy(running, running + word_parts, next);
        std::size_t end = t;
        do {
            const std::uint32_t pair = rdm.order[end];
            for (int part = 0; part < word_parts; ++part) {
                const std::size_t lane = part * Words::width;
                const auto weight = weights_of(weights + row_of(pair) * lanes + lane) *
                                    weights_of(weights + column_of(pair) * lanes + lane);
                next[part] += weight;
            }
        } while (!(rdm.order[end++] & last_of_ties));
        // `running` is the start and twice the weight below: the ties' own weight leads half-way.
        for (int part = 0; part < word_parts; ++part) {
            twice[part] = next[part];
            next[part] += next[part] - running[part];
            running[part] = next[part];
        }
        for (; t < end; ++t) {
            Wide*& to = cursor[bucket_of[row_of(rdm.order[t])]];
            for (int part = 0; part < word_parts; ++part)
                Words::store(to + part * Words::width, twice[part]);
            __builtin_prefetch(to + 2 * lanes, 1);
            to += lanes;
        }
    }
}

inline void transpose(Words::type (&r)[Words::width]) {
    using T = Words::type;
    constexpr int w = Words::width;
    T s[w];
    for (int k = 0; k < w; k += 4) {
#if defined(__AVX512F__)
#define RSAFAST_LOW_32 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define RSAFAST_HIGH_32 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#define RSAFAST_LOW_64 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define RSAFAST_HIGH_64 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#elif defined(__AVX2__)
#define RSAFAST_LOW_32 0, 8, 1, 9, 4, 12, 5, 13
#define RSAFAST_HIGH_32 2, 10, 3, 11, 6, 14, 7, 15
#define RSAFAST_LOW_64 0, 1, 8, 9, 4, 5, 12, 13
#define RSAFAST_HIGH_64 2, 3, 10, 11, 6, 7, 14, 15
#else
#define RSAFAST_LOW_32 0, 4, 1, 5
#define RSAFAST_HIGH_32 2, 6, 3, 7
#define RSAFAST_LOW_64 0, 1, 4, 5
#define RSAFAST_HIGH_64 2, 3, 6, 7
#endif
        const T a = __builtin_shufflevector(r[k], r[k + 1], RSAFAST_LOW_32);
        const T b = __builtin_shufflevector(r[k], r[k + 1], RSAFAST_HIGH_32);
        const T c = __builtin_shufflevector(r[k + 2], r[k + 3], RSAFAST_LOW_32);
        const T d = __builtin_shufflevector(r[k + 2], r[k + 3], RSAFAST_HIGH_32);
        s[k] = __builtin_shufflevector(a, c, RSAFAST_LOW_64);
        s[k + 1] = __builtin_shufflevector(a, c, RSAFAST_HIGH_64);
        s[k + 2] = __builtin_shufflevector(b, d, RSAFAST_LOW_64);
        s[k + 3] = __builtin_shufflevector(b, d, RSAFAST_HIGH_64);
    }
    // s[k + q] holds, four by four, rows k ... k + 3 of the columns q, 4 + q, 8 + q, ...
    for (int q = 0; q < 4; ++q) {
#if defined(__AVX512F__)
#define RSAFAST_EVEN 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27
#define RSAFAST_ODD 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31
        const T a = __builtin_shufflevector(s[q], s[4 + q], RSAFAST_EVEN);
        const T b = __builtin_shufflevector(s[q], s[4 + q], RSAFAST_ODD);
        const T c = __builtin_shufflevector(s[8 + q], s[12 + q], RSAFAST_EVEN);
        const T d = __builtin_shufflevector(s[8 + q], s[12 + q], RSAFAST_ODD);
        r[q] = __builtin_shufflevector(a, c, RSAFAST_EVEN);
        r[8 + q] = __builtin_shufflevector(a, c, RSAFAST_ODD);
        r[4 + q] = __builtin_shufflevector(b, d, RSAFAST_EVEN);
        r[12 + q] = __builtin_shufflevector(b, d, RSAFAST_ODD);
#elif defined(__AVX2__)
        r[q] = __builtin_shufflevector(s[q], s[4 + q], 0, 1, 2, 3, 8, 9, 10, 11);
        r[4 + q] = __builtin_shufflevector(s[q], s[4 + q], 4, 5, 6, 7, 12, 13, 14, 15);
#else
        r[q] = s[q];
#endif
    }
}

inline Words::type line_part(const Narrow* line, const std::int32_t* base) {
    return weights_of(line) + Words::load(base);
}
inline Words::type line_part(const Wide* line, const std::int32_t*) { return Words::load(line); }

// One bucket: the pairs of resample l go to panel + l * stride. `row` is room for one row of the
// matrix in every resample. `next` is what will be read after this: fetched meanwhile.
template <class Line>
void unpack(const Ranked& rdm, const Layout& layout, const std::vector<Thinned>& thinned,
            std::size_t bucket, const Line* lines, const std::int32_t* bases, std::int32_t* row,
            std::int32_t* panel, std::size_t stride, const char* next) {
    constexpr std::size_t w = Words::width;
    const std::size_t row_stride = static_cast<std::size_t>(layout.blocks) * block;
    std::int32_t* to[lanes];
    for (int l = 0; l < lanes; ++l) to[l] = panel + l * stride;
    for (int i = layout.bucket_rows[bucket]; i < layout.bucket_rows[bucket + 1]; ++i) {
        const std::size_t from = layout.start[i], count = layout.start[i + 1] - from;
        for (std::size_t q = 0; q < count; q += w) {
            const std::uint16_t *slot = rdm.slot + from + q, *chunk = rdm.chunk + from + q;
            for (int part = 0; part < word_parts; ++part) {
                Words::type cells[w];
                for (std::size_t k = 0; k < w; ++k)
                    cells[k] = line_part(lines + slot[k] * lanes + part * w,
                                         bases + chunk[k] * lanes + part * w);
                transpose(cells);
                for (std::size_t l = 0; l < w; ++l)
                    Words::store(row + (part * w + l) * row_stride + q, cells[l]);
            }
            for (std::size_t k = 0; k < w * lanes * sizeof(Line); k += 64, next += 64)
                __builtin_prefetch(next, 0, 2);
        }
        for (int l = 0; l < lanes; ++l)
            if (thinned[l].holds(i))
                to[l] = thinned[l].append_row(layout, i, row + l * row_stride, to[l]);
    }
}

}  // namespace rsafast::resample
