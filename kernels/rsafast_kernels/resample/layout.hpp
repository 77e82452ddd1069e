// The pairs of n stimuli row by row, in blocks of 16 columns, and how a resample thins them out.
//
// Row i starts with the pair of blocks that holds column i + 1, so that block b is the same 16 stimuli
// in every row, and one mask a block says which of them a resample holds.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "simd.hpp"

namespace rsafast::resample {

inline constexpr int block = 16, group = 2 * block;
inline constexpr std::size_t bucket_target = 2048;  // padded pairs of a bucket, one row at least

struct Layout {
    int n, blocks;
    std::vector<std::size_t> start;       // of row i among the padded pairs; start[n] = all of them
    std::vector<int> bucket_rows;         // first row of every bucket; the last is n
    std::vector<std::uint16_t> bucket_of;  // of row i

    explicit Layout(int n) : n(n), blocks(2 * ((n + group - 1) / group)), start(n + 1), bucket_of(n) {
        std::size_t next = 0, bucket_begin = 0;
        for (int i = 0; i < n; ++i) {
            start[i] = next;
            const std::size_t end = next + static_cast<std::size_t>(blocks - first(i)) * block;
            if (i == 0 || end - bucket_begin > bucket_target) {
                bucket_rows.push_back(i);
                bucket_begin = next;
            }
            bucket_of[i] = static_cast<std::uint16_t>(bucket_rows.size() - 1);
            next = end;
        }
        start[n] = next;
        bucket_rows.push_back(n);
    }
    int first(int i) const { return 2 * ((i + 1) / group); }
    std::size_t at(int i, int j) const { return start[i] + j - first(i) * block; }
    std::size_t buckets() const { return bucket_rows.size() - 1; }
    std::size_t pairs() const { return static_cast<std::size_t>(n) * (n - 1) / 2; }
};

// Memory on large pages where the system has them: the walks below touch lines all over it.
template <class T>
class Buffer {
   public:
    explicit Buffer(std::size_t size) : data_(allocate(size * sizeof(T))) {}
    T* data() const { return data_.get(); }

   private:
    struct Free {
        void operator()(T* p) const { std::free(p); }
    };
    static T* allocate(std::size_t bytes) {
        constexpr std::size_t page = std::size_t{2} << 20;
        const std::size_t alignment = bytes >= page ? page : 64;
        bytes = round_up(std::max<std::size_t>(bytes, 1), alignment);
        void* p = std::aligned_alloc(alignment, bytes);
        if (p == nullptr) throw std::bad_alloc();
#if defined(__linux__)
        if (alignment == page) madvise(p, bytes, MADV_HUGEPAGE);
#endif
        return static_cast<T*>(p);
    }
    std::unique_ptr<T[], Free> data_;
};

#if defined(__AVX2__) && !defined(__AVX512F__)
// Which lanes a mask keeps, in order: what AVX-512 has as one instruction.
struct Kept {
    alignas(32) std::array<std::array<std::uint32_t, 8>, 256> words{};
    alignas(32) std::array<std::array<std::uint32_t, 8>, 16> pairs_of_words{};
    constexpr Kept() {
        for (unsigned mask = 0; mask < 256; ++mask)
            for (unsigned lane = 0, next = 0; lane < 8; ++lane)
                if (mask >> lane & 1) words[mask][next++] = lane;
        for (unsigned mask = 0; mask < 16; ++mask)
            for (unsigned lane = 0, next = 0; lane < 4; ++lane)
                if (mask >> lane & 1) {
                    pairs_of_words[mask][next++] = 2 * lane;
                    pairs_of_words[mask][next++] = 2 * lane + 1;
                }
    }
};
inline constexpr Kept kept;
#endif

// Append the values of one block that `mask` keeps; up to 16 values behind them are overwritten.
#if defined(__AVX512F__)
inline std::int32_t* append(__m512i values, unsigned mask, std::int32_t* to) {
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), values));
    return to + __builtin_popcount(mask);
}
#endif

inline std::int32_t* append(const std::int32_t* from, unsigned mask, std::int32_t* to) {
#if defined(__AVX512F__)
    return append(_mm512_loadu_si512(from), mask, to);
#elif defined(__AVX2__)
    for (int half = 0; half < 2; ++half, from += 8, mask >>= 8) {
        const auto order =
            _mm256_load_si256(reinterpret_cast<const __m256i*>(kept.words[mask & 255].data()));
        const auto v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(v, order));
        to += __builtin_popcount(mask & 255);
    }
    return to;
#else
    for (int k = 0; k < block; ++k, mask >>= 1) {
        *to = from[k];
        to += mask & 1;
    }
    return to;
#endif
}

inline double* append(const double* from, unsigned mask, double* to) {
#if defined(__AVX512F__)
    for (int half = 0; half < 2; ++half, from += 8, mask >>= 8) {
        _mm512_storeu_pd(to, _mm512_maskz_compress_pd(static_cast<__mmask8>(mask),
                                                      _mm512_loadu_pd(from)));
        to += __builtin_popcount(mask & 255);
    }
    return to;
#elif defined(__AVX2__)
    for (int quarter = 0; quarter < 4; ++quarter, from += 4, mask >>= 4) {
        const auto order = _mm256_load_si256(
            reinterpret_cast<const __m256i*>(kept.pairs_of_words[mask & 15].data()));
        const auto v = _mm256_castpd_ps(_mm256_loadu_pd(from));
        _mm256_storeu_ps(reinterpret_cast<float*>(to), _mm256_permutevar8x32_ps(v, order));
        to += __builtin_popcount(mask & 15);
    }
    return to;
#else
    for (int k = 0; k < block; ++k, mask >>= 1) {
        *to = from[k];
        to += mask & 1;
    }
    return to;
#endif
}

// The stimuli of one resample.
struct Thinned {
    std::vector<std::uint16_t> mask;   // of every block of columns
    std::vector<std::int32_t> weight;  // of the stimuli it holds, in order, then 16 zeros
    std::vector<int> before;           // stimuli held among the first i

    Thinned(const Layout& layout, const std::int32_t* w)
        : mask(layout.blocks, 0), before(layout.n + 1, 0) {
        for (int i = 0; i < layout.n; ++i) {
            before[i + 1] = before[i] + (w[i] > 0);
            if (w[i] == 0) continue;
            mask[i / block] |= static_cast<std::uint16_t>(1u << i % block);
            weight.push_back(w[i]);
        }
        weight.resize(weight.size() + block, 0);
    }
    bool holds(int i) const { return before[i + 1] > before[i]; }
    int held() const { return before.back(); }
    int row(int i) const { return held() - before[i + 1]; }  // pairs of row i
    std::size_t pairs() const { return static_cast<std::size_t>(held()) * (held() - 1) / 2; }
    // The stimuli of block b that come after i.
    unsigned after(int i, int b) const {
        const int gone = i + 1 - b * block;
        return gone <= 0 ? mask[b] : gone >= block ? 0u : mask[b] >> gone << gone;
    }
    // The pairs of row i, from columns laid out in blocks (the row's own first block at `columns`).
    template <class T>
    T* append_row(const Layout& layout, int i, const T* columns, T* to) const {
        const int first = layout.first(i);
        for (int b = first; b < layout.blocks; ++b)
            to = append(columns + (b - first) * block, after(i, b), to);
        return to;
    }
};

}  // namespace rsafast::resample
