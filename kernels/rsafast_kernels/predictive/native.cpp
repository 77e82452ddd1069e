// The element-wise passes of predictive-coding relaxation, between the convolutions.
//
// Maps are (N, H, W, C), that is torch's channels_last, so that every loop runs along channels and
// pooling needs no shuffles. One pass reads the pre-activation once and leaves, in its place, the
// gated error that the next transposed convolution takes: nothing of full resolution is allocated.
#include "registry.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#define RSAFAST_SIMD _Pragma("omp simd")
#else
#define RSAFAST_SIMD
#endif

namespace {

namespace nb = nanobind;
using rsafast::Array;
using Index = std::int64_t;

enum class Act { identity, relu, hardtanh, tanh, gelu };

// Cephes' expf without branches: 1 ulp or so between -87 and 88, and clamped beyond.
inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    const float z = x * 1.44269504088896341f;
    const int n = static_cast<int>(z + (z < 0.0f ? -0.5f : 0.5f));
    const float m = static_cast<float>(n);
    const float r = (x - m * 0.693359375f) + m * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return (p * r * r + r + 1.0f) * std::bit_cast<float>((n + 127) << 23);
}

// Cephes' tanhf: a polynomial near 0, exponentials beyond, blended so that the loop has no branch.
inline float hyperbolic_tangent(float x) {
    const float size = x < 0.0f ? -x : x;
    const float small = size < 0.625f ? 1.0f : 0.0f;
    const float y = small * x;
    const float z = y * y;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    const float far = 1.0f - 2.0f / (exponential(2.0f * size) + 1.0f);
    return (p * z * y + y) + (1.0f - small) * (x < 0.0f ? -far : far);
}

// Normal density's bell exp(-x^2/2), and its integral by Abramowitz & Stegun 7.1.26 (1.5e-7).
struct Normal {
    float bell, below;
    explicit Normal(float x) {
        const float size = x < 0.0f ? -x : x;
        bell = exponential(-0.5f * x * x);
        const float t = 1.0f / (1.0f + 0.3275911f * 0.70710678118654752f * size);
        float p = 1.061405429f;
        p = p * t - 1.453152027f;
        p = p * t + 1.421413741f;
        p = p * t - 0.284496736f;
        p = p * t + 0.254829592f;
        const float tail = 0.5f * p * t * bell;
        below = x < 0.0f ? tail : 1.0f - tail;
    }
};

template <Act A>
inline float value_of(float a) {
    if constexpr (A == Act::relu) return a > 0.0f ? a : 0.0f;
    if constexpr (A == Act::hardtanh) return a < -1.0f ? -1.0f : (a > 1.0f ? 1.0f : a);
    if constexpr (A == Act::tanh) return hyperbolic_tangent(a);
    if constexpr (A == Act::gelu) return a * Normal(a).below;
    return a;
}

// Derivative at pre-activation a, whose activation is v.
template <Act A>
inline float slope_of(float a, float v) {
    if constexpr (A == Act::relu) return a > 0.0f ? 1.0f : 0.0f;
    if constexpr (A == Act::hardtanh) return a > -1.0f && a < 1.0f ? 1.0f : 0.0f;
    if constexpr (A == Act::tanh) return 1.0f - v * v;
    if constexpr (A == Act::gelu) {
        const Normal normal(a);
        return normal.below + a * 0.3989422804014327f * normal.bell;
    }
    return 1.0f;
}

// What one pass does at an output element i whose prediction is mu: returns the error to send back.
struct Predict {
    static constexpr bool gates = false;
    float* mu;
    float operator()(Index i, float prediction) const {
        mu[i] = prediction;
        return 0.0f;
    }
};

struct Gate {
    static constexpr bool gates = true;
    const float* error;
    float operator()(Index i, float) const { return error[i]; }
};

// Errors are carried along, never computed as value - mu: far from the output they are smaller than
// the rounding of a value.
template <bool Momentum>
struct Step {
    static constexpr bool gates = true;
    float *mu, *value, *error, *velocity;
    const float* back;
    float rate, momentum;
    // The error after the value has moved, before its prediction does.
    float moved(Index i) const {
        float change = error[i] - back[i];
        if constexpr (Momentum) {
            change = momentum * velocity[i] + change;
            velocity[i] = change;
        }
        return error[i] - rate * change;
    }
    float operator()(Index i, float prediction) const {
        const float renewed = moved(i) - (prediction - mu[i]);
        mu[i] = prediction;
        value[i] = prediction + renewed;
        return error[i] = renewed;
    }
};

struct Shape {
    Index images, height, width, channels;
    bool pooled;
};

// Calls body(begin, end) for blocks of `size` elements.
template <class Body>
void in_blocks(Index size, [[maybe_unused]] int threads, Body body) {
    constexpr Index block = 4096;
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
#endif
    for (Index begin = 0; begin < size; begin += block)
        body(begin, std::min(size, begin + block));
}

template <Act A, class Pass>
void flat(float* a, Index begin, Index end, Pass pass) {
    RSAFAST_SIMD
    for (Index i = begin; i < end; ++i) {
        const float v = value_of<A>(a[i]);
        const float error = pass(i, v);
        if constexpr (Pass::gates) a[i] = error * slope_of<A>(a[i], v);
    }
}

// One 2x2 window of all channels: the first of the largest activations wins, as in torch.
template <Act A, class Pass>
inline void window(float* top, float* bottom, Index channels, Index output, Pass pass) {
    RSAFAST_SIMD
    for (Index c = 0; c < channels; ++c) {
        const float a0 = top[c], a1 = top[channels + c];
        const float a2 = bottom[c], a3 = bottom[channels + c];
        float v = value_of<A>(a0), at = a0;
        int winner = 0;
        const float v1 = value_of<A>(a1), v2 = value_of<A>(a2), v3 = value_of<A>(a3);
        winner = v1 > v ? 1 : winner, at = v1 > v ? a1 : at, v = v1 > v ? v1 : v;
        winner = v2 > v ? 2 : winner, at = v2 > v ? a2 : at, v = v2 > v ? v2 : v;
        winner = v3 > v ? 3 : winner, at = v3 > v ? a3 : at, v = v3 > v ? v3 : v;
        const float error = pass(output + c, v);
        if constexpr (Pass::gates) {
            const float gated = error * slope_of<A>(at, v);
            top[c] = winner == 0 ? gated : 0.0f;
            top[channels + c] = winner == 1 ? gated : 0.0f;
            bottom[c] = winner == 2 ? gated : 0.0f;
            bottom[channels + c] = winner == 3 ? gated : 0.0f;
        }
    }
}

template <Act A, class Pass>
void pooled_row(float* a, const Shape& s, Index row, Pass pass) {
    const Index rows = s.height / 2, columns = s.width / 2, line = s.width * s.channels;
    const Index y = row % rows;
    float* top = a + (row / rows * s.height + 2 * y) * line;
    for (Index x = 0; x < columns; ++x)
        window<A>(top + 2 * x * s.channels, top + line + 2 * x * s.channels, s.channels,
                  (row * columns + x) * s.channels, pass);
    if constexpr (Pass::gates) {
        // What no window covers sends nothing back.
        if (s.width % 2)
            for (float* edge : {top + line - s.channels, top + 2 * line - s.channels})
                std::fill(edge, edge + s.channels, 0.0f);
        if (s.height % 2 && y == rows - 1) std::fill(top + 2 * line, top + 3 * line, 0.0f);
    }
}

template <Act A, class Pass>
void sweep(float* a, const Shape& s, Pass pass, [[maybe_unused]] int threads) {
    if (s.pooled) {
        const Index rows = s.images * (s.height / 2);
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
#endif
        for (Index row = 0; row < rows; ++row) pooled_row<A>(a, s, row, pass);
        return;
    }
    in_blocks(s.images * s.height * s.width * s.channels, threads,
              [=](Index begin, Index end) { flat<A>(a, begin, end, pass); });
}

template <class Pass>
void dispatch(int activation, float* a, const Shape& s, Pass pass, int threads) {
    nb::gil_scoped_release release;
    switch (static_cast<Act>(activation)) {
        case Act::identity: return sweep<Act::identity>(a, s, pass, threads);
        case Act::relu: return sweep<Act::relu>(a, s, pass, threads);
        case Act::hardtanh: return sweep<Act::hardtanh>(a, s, pass, threads);
        case Act::tanh: return sweep<Act::tanh>(a, s, pass, threads);
        case Act::gelu: return sweep<Act::gelu>(a, s, pass, threads);
    }
}

Shape shape_of(const Array<float>& a, bool pooled) {
    return {static_cast<Index>(a.shape(0)), static_cast<Index>(a.shape(1)),
            static_cast<Index>(a.shape(2)), static_cast<Index>(a.shape(3)), pooled};
}

void predict(Array<float> a, Array<float> mu, int activation, bool pooled, int threads) {
    dispatch(activation, a.data(), shape_of(a, pooled), Predict{mu.data()}, threads);
}

void gate(Array<float> a, Array<const float> error, int activation, bool pooled, int threads) {
    dispatch(activation, a.data(), shape_of(a, pooled), Gate{error.data()}, threads);
}

template <bool Momentum>
Step<Momentum> stepper(Array<float>& mu, Array<float>& value, Array<float>& error,
                       const Array<const float>& back, Array<float>& velocity, float rate,
                       float momentum) {
    return {mu.data(), value.data(), error.data(), velocity.data(), back.data(), rate, momentum};
}

// With momentum 0 `velocity` is not touched: any array does.
void step(Array<float> a, Array<float> mu, Array<float> value, Array<float> error,
          Array<const float> back, Array<float> velocity, float rate, float momentum,
          int activation, bool pooled, int threads) {
    const Shape s = shape_of(a, pooled);
    if (momentum == 0.0f)
        dispatch(activation, a.data(), s,
                 stepper<false>(mu, value, error, back, velocity, rate, momentum), threads);
    else
        dispatch(activation, a.data(), s,
                 stepper<true>(mu, value, error, back, velocity, rate, momentum), threads);
}

template <bool Momentum>
void advance_block(Index begin, Index end, Step<Momentum> step) {
    RSAFAST_SIMD
    for (Index i = begin; i < end; ++i) {
        const float error = step.moved(i);
        step.error[i] = error;
        step.value[i] = step.mu[i] + error;
    }
}

template <bool Momentum>
void advance_all(Index size, Step<Momentum> step, int threads) {
    nb::gil_scoped_release release;
    in_blocks(size, threads, [=](Index begin, Index end) { advance_block(begin, end, step); });
}

void advance(Array<float> mu, Array<float> value, Array<float> error, Array<const float> back,
             Array<float> velocity, float rate, float momentum, int threads) {
    const Index size = static_cast<Index>(mu.size());
    if (momentum == 0.0f)
        advance_all(size, stepper<false>(mu, value, error, back, velocity, rate, momentum),
                    threads);
    else
        advance_all(size, stepper<true>(mu, value, error, back, velocity, rate, momentum),
                    threads);
}

}  // namespace

RSAFAST_KERNEL(predictive) {
    m.def("predictive_predict", &predict, nb::arg("a").noconvert(), nb::arg("mu").noconvert(),
          nb::arg("activation"), nb::arg("pooled"), nb::arg("threads"));
    m.def("predictive_gate", &gate, nb::arg("a").noconvert(), nb::arg("error").noconvert(),
          nb::arg("activation"), nb::arg("pooled"), nb::arg("threads"));
    m.def("predictive_step", &step, nb::arg("a").noconvert(), nb::arg("mu").noconvert(),
          nb::arg("value").noconvert(),
          nb::arg("error").noconvert(), nb::arg("back").noconvert(),
          nb::arg("velocity").noconvert(), nb::arg("rate"), nb::arg("momentum"),
          nb::arg("activation"), nb::arg("pooled"), nb::arg("threads"));
    m.def("predictive_advance", &advance, nb::arg("mu").noconvert(), nb::arg("value").noconvert(),
          nb::arg("error").noconvert(), nb::arg("back").noconvert(),
          nb::arg("velocity").noconvert(), nb::arg("rate"), nb::arg("momentum"),
          nb::arg("threads"));
}
