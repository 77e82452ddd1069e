// Products of rows along the pairs: c[i][j] += Σ_k a_i[k] b_j[k], in float64 whatever the rows hold.
#pragma once

#include <algorithm>
#include <cstring>

#include "simd.hpp"

namespace rsafast::resample {

using V = Simd<double>;

// Rows end on a multiple of this, filled with zeros on one side at least.
inline constexpr std::size_t row_multiple = 8;

inline V::type load(const double* p) { return V::load(p); }
inline V::type load(const std::int32_t* p) {
    typedef std::int32_t Half __attribute__((vector_size(vector_bytes / 2)));
    Half v;
    std::memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, V::type);
}

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int tile_a = 4, tile_b = 6;  // 32 vector registers
#else
constexpr int tile_a = 2, tile_b = 6;  // 16 vector registers
#endif

template <int MA, int MB, class A, class B>
void product_tile(const A* a, std::size_t stride_a, const B* b, std::size_t stride_b,
                  std::size_t length, double* c, std::size_t stride_c) {
    V::type sum[MA][MB] = {};
    for (std::size_t k = 0; k < length; k += V::width) {
        V::type left[MA];
        for (int i = 0; i < MA; ++i) left[i] = load(a + i * stride_a + k);
        for (int j = 0; j < MB; ++j) {
            const auto right = load(b + j * stride_b + k);
            for (int i = 0; i < MA; ++i) sum[i][j] += left[i] * right;
        }
    }
    V::type flat[MA * MB];  // a copy, so that `sum` itself never needs an address
    for (int i = 0; i < MA; ++i)
        for (int j = 0; j < MB; ++j) flat[i * MB + j] = sum[i][j];
    double total[MA][MB];
    V::sums<MA * MB>(flat, &total[0][0]);
    for (int i = 0; i < MA; ++i)
        for (int j = 0; j < MB; ++j) c[i * stride_c + j] += total[i][j];
}

// The tile of ma x mb rows, ma <= MA and mb <= MB, that the compiler has made for that size.
template <int MA, int MB, class A, class B>
void product_rest(int ma, int mb, const A* a, std::size_t stride_a, const B* b,
                  std::size_t stride_b, std::size_t length, double* c, std::size_t stride_c) {
    if (ma == MA && mb == MB)
        return product_tile<MA, MB>(a, stride_a, b, stride_b, length, c, stride_c);
    if constexpr (MA > 1)
        if (ma < MA)
            return product_rest<MA - 1, MB>(ma, mb, a, stride_a, b, stride_b, length, c, stride_c);
    if constexpr (MB > 1)
        product_rest<MA, MB - 1>(ma, mb, a, stride_a, b, stride_b, length, c, stride_c);
}

// `ahead` is `bytes` long and read after this: fetched meanwhile.
template <class A, class B>
void product(const A* a, std::size_t stride_a, int rows_a, const B* b, std::size_t stride_b,
             int rows_b, std::size_t length, double* c, std::size_t stride_c,
             const void* ahead = nullptr, std::size_t bytes = 0) {
    constexpr std::size_t part = 1024;  // pairs of all rows that stay in the L2 cache together
    const char* next = static_cast<const char*>(ahead);
    const std::size_t tiles = (rows_a + tile_a - 1) / tile_a * ((rows_b + tile_b - 1) / tile_b);
    const std::size_t share = round_up(bytes / std::max<std::size_t>(tiles, 1) + 1, 64);
    for (std::size_t k = 0; k < length; k += part)
        for (int i = 0; i < rows_a; i += tile_a)
            for (int j = 0; j < rows_b; j += tile_b) {
                for (std::size_t line = 0; ahead && line < share; line += 64, next += 64)
                    __builtin_prefetch(next, 0, 2);
                product_rest<tile_a, tile_b>(
                    std::min(tile_a, rows_a - i), std::min(tile_b, rows_b - j),
                    a + i * stride_a + k, stride_a, b + j * stride_b + k, stride_b,
                    std::min(part, length - k), c + i * stride_c + j, stride_c);
            }
}

}  // namespace rsafast::resample
