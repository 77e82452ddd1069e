// Orbit sampling of matrices that are never whole in memory: see streaming.py.
//
// Circulant diagonals are filled from rows of the matrix in any order (`fill`), transformed some at
// a time (`transform`), and multiplied into sums over all of them (`accumulate`), from which the
// statistics come by one inverse transform (`invert`). Every sum is taken in one fixed order,
// whatever the number of threads.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "registry.hpp"
#include "transform.hpp"

namespace rsafast::orbit {

using Index = std::ptrdiff_t;

// ---------------------------------------------------------------- rows to diagonals

// values: the pairs of rows first..last with all stimuli after them. out[h][x] = the value of pair
// (g(x), g(x + d)) with d = diagonals[h], where place is the inverse of g.
template <class T>
void fill_diagonals(const T* values, Index first, Index last, Index n, const std::int32_t* g,
                    const std::int32_t* place, const std::int32_t* diagonals, Index held, T* out,
                    int threads) {
    const Index begin = first * n - first * (first + 1) / 2;
    std::vector<std::int32_t> twice(2 * n);  // so that no index is reduced modulo n
    std::copy(g, g + n, twice.begin());
    std::copy(g, g + n, twice.begin() + n);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic, 1)
        for (Index i = first; i < last; ++i) {
            const T* row = values + (i * n - i * (i + 1) / 2 - begin);
            const Index p = place[i];
            for (Index h = 0; h < held; ++h) {
                const Index d = diagonals[h], back = p < d ? p - d + n : p - d;
                T* to = out + h * n;
                // Stimuli before i have this pair in a row of their own.
                const std::int32_t after = twice[p + d], before = twice[back];
                if (after > i) to[p] = row[after - i - 1];
                if (before > i) to[back] = row[before - i - 1];
            }
        }
    }
}

// ---------------------------------------------------------------- diagonals to spectra

// One group of lanes: slot `s` of the panel is diagonal source[s], read from x = start[s] on.
template <class T, class Value>
void load_lanes(const Value* diagonals, int n, const std::int32_t* source,
                const std::int32_t* start, int used, T scale, T centre, T* lanes) {
    constexpr std::size_t w = Simd<T>::width;
    for (int lane = 0; lane < static_cast<int>(w); ++lane) {
        T* to = lanes + lane;
        if (lane >= used) {
            for (int x = 0; x < n; ++x) to[x * w] = T(0);
            continue;
        }
        const Value* from = diagonals + static_cast<Index>(source[lane]) * n;
        const int turn = start[lane];
        for (int x = 0; x < n - turn; ++x)
            to[x * w] = (static_cast<T>(from[x + turn]) - centre) * scale;
        for (int x = n - turn; x < n; ++x)
            to[x * w] = (static_cast<T>(from[x + turn - n]) - centre) * scale;
    }
}

// panel[frequency][row][re | im][slot]; rows of one call: diagonals (rows, held, n).
template <class T, class Value>
void transform(const Value* diagonals, Index held, int n, const std::int32_t* source,
               const std::int32_t* start, int slots, int stride, const T* scale, const T* centre,
               T* panel, Index rows, int threads) {
    using S = Simd<T>;
    constexpr int w = static_cast<int>(S::width);
    const auto shared = fft::shared_plan<T>(n);
    const fft::Plan<T>& plan = *shared;
    const Index groups = (slots + 2 * w - 1) / (2 * w);
#pragma omp parallel num_threads(threads)
    {
        const Work<T> work(plan);
#pragma omp for schedule(dynamic, 1)
        for (Index task = 0; task < rows * groups; ++task) {
            const Index row = task / groups;
            const int slot = static_cast<int>(task % groups) * 2 * w;
            const Value* from = diagonals + row * held * n;
            load_lanes(from, n, source + slot, start + slot, std::min(w, slots - slot), scale[row],
                       centre[row], work.re);
            load_lanes(from, n, source + slot + w, start + slot + w, slots - slot - w, scale[row],
                       centre[row], work.im);
            T* to = panel + row * 2 * stride + slot;
            forward_pair(plan, work, [&](int k, auto ar, auto ai, auto br, auto bi) {
                T* at = to + static_cast<std::size_t>(k) * rows * 2 * stride;
                S::store(at, ar);
                S::store(at + w, br);
                S::store(at + stride, ai);
                S::store(at + stride + w, bi);
            });
        }
    }
}

// ---------------------------------------------------------------- products over the diagonals

struct Segments {  // the slots of a panel: `count` stretches of `length`, permuted by each unit
    Index count, length, stride;
    const std::int32_t* moves;  // of one unit: where a stretch of the fixed side meets the other
};

// re + i im of the sum over all slots of a[moved] conj(b), for MA x MB rows; `sign` -1: b as it is.
template <class T, int MA, int MB>
void product_of_segments(const T* a, const T* b, const Segments& s, T sign, T (*out)[MB][2]) {
    using S = Simd<T>;
    constexpr Index w = static_cast<Index>(S::width);
    const Index row = 2 * s.stride;
    typename S::type re[MA][MB] = {}, im[MA][MB] = {};
    T rest[MA][MB][2] = {};
    for (Index k = 0; k < s.count; ++k) {
        const T *pa = a + s.moves[k] * s.length, *pb = b + k * s.length;
        Index d = 0;
        for (; d + w <= s.length; d += w)
            for (int j = 0; j < MB; ++j) {
                const auto br = S::load(pb + j * row + d);
                const auto bi = S::load(pb + j * row + s.stride + d) * sign;
                for (int i = 0; i < MA; ++i) {
                    const auto ar = S::load(pa + i * row + d);
                    const auto ai = S::load(pa + i * row + s.stride + d);
                    re[i][j] += ar * br;
                    re[i][j] += ai * bi;
                    im[i][j] += ai * br;
                    im[i][j] -= ar * bi;
                }
            }
        for (; d < s.length; ++d)
            for (int j = 0; j < MB; ++j) {
                const T br = pb[j * row + d], bi = pb[j * row + s.stride + d] * sign;
                for (int i = 0; i < MA; ++i) {
                    const T ar = pa[i * row + d], ai = pa[i * row + s.stride + d];
                    rest[i][j][0] += ar * br + ai * bi;
                    rest[i][j][1] += ai * br - ar * bi;
                }
            }
    }
    for (int i = 0; i < MA; ++i)
        for (int j = 0; j < MB; ++j) {
            out[i][j][0] = S::sum(re[i][j]) + rest[i][j][0];
            out[i][j][1] = S::sum(im[i][j]) + rest[i][j][1];
        }
}

struct Sums {  // sums[frequency][re | im][series], series = (row of a, row of b, unit)
    Index rows_a, rows_b, units, stride;
    Index series(Index i, Index j, Index u) const { return (i * rows_b + j) * units + u; }
};

template <class T, int MA, int MB>
void add_products(const T* a, const T* b, const Segments& segments, T sign, T weight, Index i,
                  Index j, Index u, const Sums& shape, T* sums) {
    T found[MA][MB][2];
    product_of_segments<T, MA, MB>(a + i * 2 * segments.stride, b + j * 2 * segments.stride,
                                   segments, sign, found);
    for (int x = 0; x < MA; ++x)
        for (int y = 0; y < MB; ++y) {
            T* at = sums + shape.series(i + x, j + y, u);
            at[0] += weight * found[x][y][0];
            at[shape.stride] += weight * found[x][y][1];
        }
}

// order: the frequencies 0..n / 2 so that those which units carry into each other come together.
template <class T>
void accumulate(const T* a, const T* b, int n, const Segments& segments, const std::int32_t* moves,
                const std::int64_t* units, const std::int32_t* order, T weight, const Sums& shape,
                T* sums, int threads) {
    const Index frequencies = n / 2 + 1, row = 2 * segments.stride;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index place = 0; place < frequencies; ++place) {
        const Index k = order[place];
        T* to = sums + k * 2 * shape.stride;
        for (Index u = 0; u < shape.units; ++u) {
            Segments moved = segments;
            moved.moves = moves + u * segments.count;
            Index met = units[u] * k % n;  // the fixed side's frequency
            const T sign = 2 * met > n ? T(-1) : T(1);
            met = 2 * met > n ? n - met : met;
            const T *from_a = a + k * shape.rows_a * row, *from_b = b + met * shape.rows_b * row;
            Index i = 0;
            for (; i + 2 <= shape.rows_a; i += 2) {
                Index j = 0;
                for (; j + 2 <= shape.rows_b; j += 2)
                    add_products<T, 2, 2>(from_a, from_b, moved, sign, weight, i, j, u, shape, to);
                if (j < shape.rows_b)
                    add_products<T, 2, 1>(from_a, from_b, moved, sign, weight, i, j, u, shape, to);
            }
            if (i < shape.rows_a) {
                Index j = 0;
                for (; j + 2 <= shape.rows_b; j += 2)
                    add_products<T, 1, 2>(from_a, from_b, moved, sign, weight, i, j, u, shape, to);
                if (j < shape.rows_b)
                    add_products<T, 1, 1>(from_a, from_b, moved, sign, weight, i, j, u, shape, to);
            }
        }
    }
}

// ---------------------------------------------------------------- sums to statistics

// out[series - first][shift] for `count` series from `first` on; loads may reach a vector beyond.
// One group of lanes a transform, so that no series' rounding depends on which others there are.
template <class T>
void invert(const T* sums, Index stride, int n, Index first, Index count, T* out, int threads) {
    using S = Simd<T>;
    constexpr Index w = static_cast<Index>(S::width);
    const auto shared = fft::shared_plan<T>(n);
    const fft::Plan<T>& plan = *shared;
#pragma omp parallel num_threads(threads)
    {
        const Work<T> work(plan);
        T *re = work.re, *im = work.im;
#pragma omp for schedule(static)
        for (Index group = 0; group < (count + w - 1) / w; ++group) {
            const T* from = sums + first + group * w;
            for (int k = 0; k <= n / 2; ++k, from += 2 * stride) {
                const auto real = S::load(from), imaginary = S::load(from + stride);
                const bool own = k == 0 || 2 * k == n;  // its own mirror, and real
                S::store(re + k * w, real);
                S::store(im + k * w, own ? S::zero() : imaginary);
                if (own) continue;
                S::store(re + (n - k) * w, real);
                S::store(im + (n - k) * w, -imaginary);
            }
            plan.forward(im, re, work.scratch_im, work.scratch_re);
            scatter(re, n, std::min(w, count - group * w), out + group * w * n);
        }
    }
}

// ---------------------------------------------------------------- bindings

template <class T>
void bind_fill(Array<const T> values, Index first, Index last, Array<const std::int32_t> g,
               Array<const std::int32_t> place, Array<const std::int32_t> diagonals, Array<T> out,
               int threads) {
    nb::gil_scoped_release release;
    fill_diagonals(values.data(), first, last, static_cast<Index>(g.size()), g.data(), place.data(),
                   diagonals.data(), static_cast<Index>(diagonals.size()), out.data(), threads);
}

template <class Value>
void bind_transform(Array<const Value> diagonals, Array<const std::int32_t> source,
                    Array<const std::int32_t> start, int slots, Array<const double> scale,
                    Array<const double> centre, Array<double> panel, int threads) {
    nb::gil_scoped_release release;
    transform(diagonals.data(), static_cast<Index>(diagonals.shape(1)),
              static_cast<int>(diagonals.shape(2)), source.data(), start.data(), slots,
              static_cast<int>(panel.shape(3)), scale.data(), centre.data(), panel.data(),
              static_cast<Index>(diagonals.shape(0)), threads);
}

inline void bind_accumulate(Array<const double> a, Array<const double> b, int n, Index length,
                            Array<const std::int32_t> moves, Array<const std::int64_t> units,
                            Array<const std::int32_t> order, double weight, Array<double> sums,
                            int threads) {
    nb::gil_scoped_release release;
    const Segments segments{static_cast<Index>(moves.shape(1)), length,
                            static_cast<Index>(a.shape(3)), nullptr};
    const Sums shape{static_cast<Index>(a.shape(1)), static_cast<Index>(b.shape(1)),
                     static_cast<Index>(units.size()), static_cast<Index>(sums.shape(2))};
    accumulate(a.data(), b.data(), n, segments, moves.data(), units.data(), order.data(), weight,
               shape, sums.data(), threads);
}

inline void bind_invert(Array<const double> sums, int n, Index first, Array<double> out,
                        int threads) {
    nb::gil_scoped_release release;
    invert(sums.data(), static_cast<Index>(sums.shape(2)), n, first,
           static_cast<Index>(out.shape(0)), out.data(), threads);
}

inline void bind_streaming(nb::module_& m) {
    const auto bind = [&]<class Value>(Value) {
        m.def("orbit_fill", &bind_fill<Value>, nb::arg("values").noconvert(), nb::arg("first"),
              nb::arg("last"), nb::arg("g"), nb::arg("place"), nb::arg("diagonals"),
              nb::arg("out").noconvert(),
              nb::arg("threads"));
        m.def("orbit_transform", &bind_transform<Value>, nb::arg("diagonals").noconvert(),
              nb::arg("source"), nb::arg("start"), nb::arg("slots"), nb::arg("scale"),
              nb::arg("centre"), nb::arg("panel").noconvert(), nb::arg("threads"));
    };
    bind(float{}), bind(double{}), bind(std::uint16_t{});
    m.def("orbit_accumulate", &bind_accumulate);
    m.def("orbit_invert", &bind_invert);
}

}  // namespace rsafast::orbit
