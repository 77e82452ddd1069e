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
    static T sum(type v) {
        T lanes[width];
        std::memcpy(lanes, &v, sizeof v);
        // Pairwise, in the same order whatever the compiler does.
        for (std::size_t half = width / 2; half > 0; half /= 2)
            for (std::size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
        return lanes[0];
    }
};

}  // namespace rsafast
