// Ranks of one RDM in 16 resamples at once, exact, on the pairs that each resample holds.
//
// 1. walk: the pairs in order of value. The running weight of 16 resamples is one vector; twice the
//    average rank goes to a line of the pair's bucket (some rows of the matrix), which fills in
//    order, so that memory is written in a few streams.
// 2. unpack: bucket by bucket, each small enough for the L1 cache, the lines are read in the order of
//    the pairs; 16 pairs by 16 resamples are transposed in registers, and every resample keeps what it
//    holds.
// A line is 16 words of 32 bits or, where no two values tie and no stimulus is drawn often, of 16 bits
// relative to the running weight at the start of a chunk of the order: half the memory to walk over.
#pragma once

#include "layout.hpp"

namespace rsafast::resample {

inline constexpr int lanes = 16;  // resamples of a batch
inline constexpr int chunk_bits = 12;
inline constexpr std::uint32_t last_of_ties = 1u << 16;
inline constexpr std::int32_t base_step = 16;
inline constexpr int narrow_weight = 11;  // 256 pairs of 11² weigh less than 2^15

using Words = Simd<std::int32_t>;
using Narrow = std::uint16_t;
using Wide = std::int32_t;
inline constexpr int word_parts = lanes / Words::width;

// Both orders below have the columns of a group as `unpack` wants them: `place`.
struct Ranked {
    const std::uint32_t* order;  // pairs by value, as `packed`
    const std::uint16_t* slot;   // line of every padded pair in its bucket; 0 where there is no pair
    const std::uint16_t* chunk;  // of every padded pair
    std::size_t count;
    bool tied;
};

// Stimuli times four: with the largest scale of an address, the offset of 16 counts of 16 bits.
inline constexpr std::uint32_t packed(std::uint32_t i, std::uint32_t j) { return 4 * i | j << 18; }
inline std::size_t row_of(std::uint32_t pair) { return (pair & 0xffffu) / 4; }
inline std::size_t column_of(std::uint32_t pair) { return pair >> 18; }

// Columns 0-3, 16-19, 4-7, 20-23, ...: interleaving the words of two vectors in this order, as
// 16-byte parts do it, leaves two blocks in their natural order.
inline constexpr std::size_t place(std::size_t column) {
    const std::size_t within = column % group;
    return column - within + within % block / 4 * 8 + within / block * 4 + within % 4;
}

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

// Twice the running weight, from `start`, at the beginning of every chunk goes to `bases`, less what
// makes it start + a multiple of 16. Returns false where 16 bits do not suffice. For RDMs without ties.
inline bool walk(const Ranked& rdm, const Layout& layout, const Lines& where,
                 const std::uint16_t* weights, const std::int32_t* start, Narrow* lines,
                 std::int32_t* bases) {
    typedef Narrow Sixteen __attribute__((vector_size(lanes * sizeof(Narrow))));
    constexpr std::size_t stretch = 256;
    auto cursors = where.cursors(lines);
    Narrow** const cursor = cursors.data();
    const std::uint16_t* const bucket_of = layout.bucket_of.data();
    const char* const table = reinterpret_cast<const char*>(weights);
    std::int32_t total[lanes];
    std::copy(start, start + lanes, total);
    for (std::size_t t = 0; t < rdm.count; bases += lanes) {
        Sixteen running;
        for (int l = 0; l < lanes; ++l) {
            const std::int32_t rest = (total[l] - start[l]) % base_step;
            bases[l] = total[l] - rest;
            running[l] = static_cast<Narrow>(rest / 2);
        }
        const std::size_t chunk = std::min(rdm.count, t + (std::size_t{1} << chunk_bits));
        while (t < chunk) {
            for (const std::size_t end = std::min(chunk, t + stretch); t < end; ++t) {
                const std::uint32_t pair = rdm.order[t];
                const std::size_t first = pair & 0xffffu, second = pair >> 16;
                Sixteen weight, other;
                std::memcpy(&weight, table + 8 * first, sizeof weight);
                std::memcpy(&other, table + 8 * second, sizeof other);
                weight *= other;
                const Sixteen next = running + weight, twice = running + next;
                running = next;
                Narrow*& filled = cursor[bucket_of[first / 4]];
                Narrow* const to = filled;
                filled += lanes;  // before the line, which for all the compiler knows is `filled`
                std::memcpy(to, &twice, sizeof twice);
                __builtin_prefetch(to + 4 * lanes, 1);
            }
            Narrow reached[lanes];
            std::memcpy(reached, &running, sizeof running);
            if (*std::max_element(reached, reached + lanes) > 0x7fff) return false;
        }
        for (int l = 0; l < lanes; ++l) total[l] = bases[l] + 2 * running[l];
    }
    return true;
}

inline Words::type weights_of(const std::uint16_t* at) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    // GCC would widen the halves one by one, and join them.
    return Words::type(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
#else
    typedef std::uint16_t Half __attribute__((vector_size(vector_bytes / 2)));
    Half v;
    std::memcpy(&v, at, sizeof v);
    return __builtin_convertvector(v, Words::type);
#endif
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
        } while (rdm.tied && !(rdm.order[end++] & last_of_ties));
        end += !rdm.tied;
        // `running` is the start and twice the weight below: the ties' own weight leads half-way.
        for (int part = 0; part < word_parts; ++part) {
            twice[part] = next[part];
            next[part] += next[part] - running[part];
            running[part] = next[part];
        }
        for (; t < end; ++t) {
            Wide*& filled = cursor[bucket_of[row_of(rdm.order[t])]];
            Wide* const to = filled;
            filled += lanes;
            for (int part = 0; part < word_parts; ++part)
                Words::store(to + part * Words::width, twice[part]);
            __builtin_prefetch(to + 2 * lanes, 1);
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

// What is read some buckets later, to the L2 cache meanwhile.
template <class Line>
const char* fetched_ahead(const Line* line) {
    return reinterpret_cast<const char*>(line + 2048 * lanes);
}

inline void fetch(const char* from, std::size_t bytes) {
    for (std::size_t k = 0; k < bytes; k += 64) __builtin_prefetch(from + k, 0, 2);
}

// One line of a panel past the caches, which it would only empty for others.
inline void stream(std::int32_t* to, const std::int32_t* from) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
#elif defined(__AVX2__)
    for (int half = 0; half < lanes; half += 8)
        _mm256_stream_si256(
            reinterpret_cast<__m256i*>(to + half),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + half)));
#else
    std::copy_n(from, lanes, to);
#endif
}

// Where the thinned pairs of one RDM go: those of resample l to panel + l * stride, row by row.
// Large panels are written in whole lines, so that rows and panel start on one.
class Sink {
   public:
    Sink(const Layout& layout, std::int32_t* panel, std::size_t stride, bool streamed)
        : streamed_(streamed), row_(streamed ? layout.blocks * block + 2 * line : 0) {
        for (int l = 0; l < lanes; ++l) to_[l] = panel + l * stride;
    }
    std::int32_t* begin(int l) {
        if (!streamed_) return to_[l];
        std::copy_n(rest_[l], line, row_.data());
        return row_.data() + filled_[l];
    }
    void end(int l, std::int32_t* end) {
        if (!streamed_) {
            to_[l] = end;
            return;
        }
        const std::int32_t* from = row_.data();
        for (; from + line <= end; from += line, to_[l] += line) stream(to_[l], from);
        std::copy_n(from, line, rest_[l]);
        filled_[l] = static_cast<int>(end - from);
    }
    void finish() {
        if (!streamed_) return;
        for (int l = 0; l < lanes; ++l) std::copy_n(rest_[l], line, to_[l]);
    }

   private:
    static constexpr int line = 16;
    bool streamed_;
    std::vector<std::int32_t> row_;
    std::int32_t* to_[lanes];
    int filled_[lanes] = {};
    std::int32_t rest_[lanes][line] = {};
};

// `row` is room for one row of the matrix in every resample.
template <class Line>
void unpack(const Ranked& rdm, const Layout& layout, const Lines& where,
            const std::vector<Thinned>& thinned, const Line* lines, const std::int32_t* bases,
            std::int32_t* row, Sink& sink) {
    constexpr std::size_t w = Words::width;
    const std::size_t row_stride = static_cast<std::size_t>(layout.blocks) * block;
    for (int i = 0; i < layout.n; ++i) {
        const std::size_t from = layout.start[i], count = layout.start[i + 1] - from;
        const Line* const bucket = lines + where.begin[layout.bucket_of[i]] * lanes;
        const char* ahead = fetched_ahead(lines + from * lanes);
        for (std::size_t q = 0; q < count; q += w) {
            for (int part = 0; part < word_parts; ++part) {
                Words::type cells[w];
                for (std::size_t k = 0; k < w; ++k) {
                    const std::size_t at = from + place(q + k);
                    cells[k] = line_part(bucket + rdm.slot[at] * lanes + part * w,
                                         bases + rdm.chunk[at] * lanes + part * w);
                }
                transpose(cells);
                for (std::size_t l = 0; l < w; ++l)
                    Words::store(row + (part * w + l) * row_stride + q, cells[l]);
            }
            fetch(ahead, w * lanes * sizeof(Line));
            ahead += w * lanes * sizeof(Line);
        }
        for (int l = 0; l < lanes; ++l)
            if (thinned[l].holds(i))
                sink.end(l, thinned[l].append_row(layout, i, row + l * row_stride, sink.begin(l)));
    }
    sink.finish();
}

#if defined(__AVX512BW__)

inline constexpr std::size_t looked_up = 64;       // chunks whose bases two registers hold
inline constexpr std::int64_t short_base = 500000;  // pairs up to which bases / 16 are 16 bits

// The bases of every lane as multiples of `base_step` from its start.
inline void tabulate(const std::int32_t* bases, std::size_t chunks, const std::int32_t* start,
                     std::int16_t* table) {
    for (int l = 0; l < lanes; ++l)
        for (std::size_t c = 0; c < chunks; ++c)
            table[l * looked_up + c] =
                static_cast<std::int16_t>((bases[c * lanes + l] - start[l]) / base_step);
}

inline void transpose(__m256i (&r)[lanes]) {
    __m256i s[lanes];
    for (int k = 0; k < lanes; k += 8) {
        for (int h = 0; h < 8; h += 2) {
            s[k + h] = _mm256_unpacklo_epi16(r[k + h], r[k + h + 1]);
            s[k + h + 1] = _mm256_unpackhi_epi16(r[k + h], r[k + h + 1]);
        }
        // s[0], s[2], s[4], s[6]: low words of rows 01, 23, 45, 67.
        for (int high = 0; high < 2; ++high) {
            const auto a = _mm256_unpacklo_epi32(s[k + high], s[k + 2 + high]);
            const auto b = _mm256_unpackhi_epi32(s[k + high], s[k + 2 + high]);
            const auto c = _mm256_unpacklo_epi32(s[k + 4 + high], s[k + 6 + high]);
            const auto d = _mm256_unpackhi_epi32(s[k + 4 + high], s[k + 6 + high]);
            r[k + 4 * high] = _mm256_unpacklo_epi64(a, c);
            r[k + 4 * high + 1] = _mm256_unpackhi_epi64(a, c);
            r[k + 4 * high + 2] = _mm256_unpacklo_epi64(b, d);
            r[k + 4 * high + 3] = _mm256_unpackhi_epi64(b, d);
        }
    }
    // r[q] and r[8 + q] hold rows 0-7 and 8-15 of the columns q and 8 + q.
    for (int q = 0; q < 8; ++q) {
        const auto a = r[q], b = r[8 + q];
        r[q] = _mm256_permute2x128_si256(a, b, 0x20);
        r[8 + q] = _mm256_permute2x128_si256(a, b, 0x31);
    }
}

// `unpack` of narrow lines in up to 64 chunks: transposed as 16 bits, the bases looked up after that,
// for the rows that a resample holds only.
inline void unpack(const Ranked& rdm, const Layout& layout, const Lines& where,
                   const std::vector<Thinned>& thinned, const Narrow* lines,
                   const std::int16_t* table, const std::int32_t* start, std::uint16_t* row,
                   Sink& sink) {
    const std::size_t row_stride = static_cast<std::size_t>(layout.blocks) * block;
    const __m512i flip = _mm512_set1_epi16(-0x8000);
    const __m512i scale = _mm512_set1_epi32(base_step << 16 | 1);
    for (int i = 0; i < layout.n; ++i) {
        const std::size_t from = layout.start[i], count = layout.start[i + 1] - from;
        const Narrow* const bucket = lines + where.begin[layout.bucket_of[i]] * lanes;
        const char* ahead = fetched_ahead(lines + from * lanes);
        for (std::size_t q = 0; q < count; q += lanes) {
            __m256i cells[lanes];
            for (int k = 0; k < lanes; ++k)
                cells[k] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(
                    bucket + std::size_t{rdm.slot[from + q + k]} * lanes));
            transpose(cells);
            for (int l = 0; l < lanes; ++l)
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + l * row_stride + q), cells[l]);
            fetch(ahead, lanes * sizeof cells[0]);
            ahead += lanes * sizeof cells[0];
        }
        const int first = layout.first(i);
        for (int l = 0; l < lanes; ++l) {
            const Thinned& thin = thinned[l];
            if (!thin.holds(i)) continue;
            const __m512i low = _mm512_loadu_si512(table + l * looked_up);
            const __m512i high = _mm512_loadu_si512(table + l * looked_up + looked_up / 2);
            const __m512i offset = _mm512_set1_epi32(start[l] + 0x8000);
            std::int32_t* to = sink.begin(l);
            for (int b = first; b < layout.blocks; b += 2) {
                const std::size_t q = static_cast<std::size_t>(b - first) * block;
                const auto words = _mm512_xor_si512(
                    _mm512_loadu_si512(row + l * row_stride + q), flip);
                const auto base = _mm512_permutex2var_epi16(
                    low, _mm512_loadu_si512(rdm.chunk + from + q), high);
                const auto one = _mm512_madd_epi16(_mm512_unpacklo_epi16(words, base), scale);
                const auto two = _mm512_madd_epi16(_mm512_unpackhi_epi16(words, base), scale);
                const unsigned first_mask = b == first ? thin.after(i, b) : thin.mask[b];
                const unsigned second_mask = b == first ? thin.after(i, b + 1) : thin.mask[b + 1];
                to = append(_mm512_add_epi32(one, offset), first_mask, to);
                to = append(_mm512_add_epi32(two, offset), second_mask, to);
            }
            sink.end(l, to);
        }
    }
    sink.finish();
}

#endif

}  // namespace rsafast::resample
