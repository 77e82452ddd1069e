// Native-width vectors through the GCC/Clang vector extension: one source for SSE2, AVX2, AVX-512
// and NEON. The width is that of the instruction set the file is compiled for.
#pragma once

#include <cstddef>
#include <cstring>

namespace rsafast {

#if defined(__AVX512F__)
inline constexpr std::size_t vector_bytes = 64;
#elif defined(__AVX2__)
inline constexpr std::size_t vector_bytes = 32;
#else
inline constexpr std::size_t vector_bytes = 16;
#endif

constexpr std::size_t round_up(std::size_t value, std::size_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

template <class T>
struct Simd {
    static constexpr std::size_t width = vector_bytes / sizeof(T);
    typedef T type __attribute__((vector_size(vector_bytes)));

    static type load(const T* p) {
        type v;
        std::memcpy(&v, p, sizeof v);
        return v;
    }
    static void store(T* p, type v) { std::memcpy(p, &v, sizeof v); }
    static type zero() { return type{}; }
    // out[i] = sum of the lanes of v[i], each in the same pairwise order.
    template <std::size_t count>
    static void sums(const type (&v)[count], T* out) {
        std::size_t i = 0;
        if constexpr (width >= 4)
            for (; i + 4 <= count; i += 4) {
                const auto a = fold(v[i]), b = fold(v[i + 1]), c = fold(v[i + 2]), d = fold(v[i + 3]);
                const auto ab = __builtin_shufflevector(a, b, 0, 4, 2, 6) +
                                __builtin_shufflevector(a, b, 1, 5, 3, 7);
                const auto cd = __builtin_shufflevector(c, d, 0, 4, 2, 6) +
                                __builtin_shufflevector(c, d, 1, 5, 3, 7);
                const auto total = __builtin_shufflevector(ab, cd, 0, 1, 4, 5) +
                                   __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
                std::memcpy(out + i, &total, 4 * sizeof(T));
            }
        if constexpr (width < 4 || count % 4 != 0)
            for (; i < count; ++i) out[i] = sum(v[i]);
    }

    static T sum(type v) {
        if constexpr (width >= 4) {
            const auto q = fold(v);
            return (q[0] + q[1]) + (q[2] + q[3]);
        } else {
            return v[0] + v[1];
        }
    }

   private:
    typedef T Four __attribute__((vector_size(4 * sizeof(T))));

    // Upper half onto lower half until four lanes are left.
    static Four fold(type v) {
        T lanes[width];
        std::memcpy(lanes, &v, sizeof v);
        if constexpr (width == 4) {
            return v;
        } else if constexpr (width == 8) {
            Four lo, hi;
            std::memcpy(&lo, lanes, sizeof lo);
            std::memcpy(&hi, lanes + 4, sizeof hi);
            return lo + hi;
        } else {
            Four part[4];
            std::memcpy(part, lanes, sizeof part);
            return (part[0] + part[2]) + (part[1] + part[3]);
        }
    }
};

}  // namespace rsafast
