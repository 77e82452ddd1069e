// Real series to spectra and back, `2 * width` of them in every complex transform.
#pragma once

#include <vector>

#include "fft.hpp"

namespace rsafast::orbit {

// Real and imaginary parts and scratch of one transform. They start at different places modulo
// 4096 bytes: powers of two would otherwise meet in the same few lines of the L1 cache.
template <class T>
struct Work {
    std::vector<T> data;
    T *re, *im, *scratch_re, *scratch_im;

    explicit Work(const fft::Plan<T>& plan) {
        constexpr std::size_t w = Simd<T>::width, apart = 576 / sizeof(T);
        const std::size_t size = plan.size() * w + apart, scratch = plan.scratch() * w + apart;
        data.resize(2 * (size + scratch));
        re = data.data();
        im = re + size;
        scratch_re = im + size;
        scratch_im = scratch_re + scratch;
    }
};

// Spectra of the series in work.re (a) and work.im (b), one a lane: put(k, a re, a im, b re, b im).
template <class T, class Put>
void forward_pair(const fft::Plan<T>& plan, const Work<T>& work, Put put) {
    using S = Simd<T>;
    constexpr std::size_t w = S::width;
    const int n = plan.size();
    T *re = work.re, *im = work.im;
    plan.forward(re, im, work.scratch_re, work.scratch_im);
    for (int k = 0; k <= n / 2; ++k) {
        const int mirror = k ? n - k : 0;
        const auto ar = S::load(re + k * w), ai = S::load(im + k * w);
        const auto br = S::load(re + mirror * w), bi = S::load(im + mirror * w);
        put(k, (ar + br) * T(0.5), (ai - bi) * T(0.5), (ai + bi) * T(0.5), (br - ar) * T(0.5));
    }
}

// Two groups of lanes (real series) as one complex inverse transform, into work.re and work.im.
template <class T>
void inverse(const fft::Plan<T>& plan, const T* first, const T* second,
             std::size_t frequency_stride, std::size_t im_offset, const Work<T>& work) {
    using S = Simd<T>;
    constexpr std::size_t w = S::width;
    const int n = plan.size();
    T *re = work.re, *im = work.im;
    for (int k = 0; k <= n / 2; ++k) {
        const T *p = first + k * frequency_stride, *q = second + k * frequency_stride;
        const auto pr = S::load(p), qr = S::load(q);
        if (k == 0 || 2 * k == n) {
            S::store(re + k * w, pr);
            S::store(im + k * w, qr);
            continue;
        }
        const auto pi = S::load(p + im_offset), qi = S::load(q + im_offset);
        S::store(re + k * w, pr - qi);
        S::store(im + k * w, pi + qr);
        S::store(re + (n - k) * w, pr + qi);
        S::store(im + (n - k) * w, qr - pi);
    }
    plan.forward(im, re, work.scratch_im, work.scratch_re);
}

template <class T>
void scatter(const T* lanes, int n, std::size_t used, T* out) {
    constexpr std::size_t w = Simd<T>::width;
    if (used == w) {
        for (int s = 0; s < n; ++s)
            for (std::size_t lane = 0; lane < w; ++lane) out[lane * n + s] = lanes[s * w + lane];
        return;
    }
    for (int s = 0; s < n; ++s)
        for (std::size_t lane = 0; lane < used; ++lane) out[lane * n + s] = lanes[s * w + lane];
}

}  // namespace rsafast::orbit
