// The parts of a batched RDM around the matrix product, and city-block distances.
//
// `pairwise_rows` reads each row once and writes what the product needs (centred, normalised);
// `pairwise_finish` turns a tile of products into condensed distances. Where
// k_i + k_j - c g_ij cancels, the pair is computed again, directly, in float64 from the rows
// themselves, so that near-duplicates are as accurate as any other pair.
#include "registry.hpp"
#include "simd.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

namespace nb = nanobind;
using rsafast::Array;
using rsafast::Simd;
using Index = std::int64_t;

constexpr Index lanes = 16;

// Sum of f(0..n-1) in an order fixed by `lanes` alone; the lanes become vector registers.
template <class F>
inline double sum_of(Index n, F f) {
    double acc[lanes] = {};
    Index i = 0;
    for (; i + lanes <= n; i += lanes)
        for (Index l = 0; l < lanes; ++l) acc[l] += f(i + l);
    for (Index l = 0; i < n; ++i, ++l) acc[l] += f(i);
    for (Index half = lanes / 2; half > 0; half /= 2)
        for (Index l = 0; l < half; ++l) acc[l] += acc[l + half];
    return acc[0];
}

template <class T>
inline T largest_magnitude(const T* x, Index p) {
    T acc[lanes] = {};
    Index i = 0;
    for (; i + lanes <= p; i += lanes)
        for (Index l = 0; l < lanes; ++l) {
            const T a = std::fabs(x[i + l]);
            acc[l] = a > acc[l] ? a : acc[l];
        }
    for (Index l = 0; i < p; ++i, ++l) acc[l] = std::max(acc[l], std::fabs(x[i]));
    return *std::max_element(acc, acc + lanes);
}

// A power of two near 1 / magnitude: scaling by it is exact and keeps squares in range.
inline double inverse_power(double magnitude) {
    int exponent = 0;
    std::frexp(magnitude, &exponent);
    return magnitude > 0 ? std::ldexp(1.0, std::max(-1000, std::min(1000, -exponent))) : 1.0;
}

// Rows as unit vectors, after subtracting their mean if `centre`: z = (x * pre - shift) * scale.
// pre, shift and scale (float64) let the near pairs be computed again from x. Rows that are
// constant (centre) or zero get scale 0.
template <class T>
void unit_rows(Array<const T> x, Array<T> z, Array<double> pre, Array<double> shift,
               Array<double> scale, bool centre, int threads) {
    const Index n = static_cast<Index>(x.shape(0)), p = static_cast<Index>(x.shape(1));
    const T* in = x.data();
    T* out = z.data();
    double *pres = pre.data(), *shifts = shift.data(), *scales = scale.data();
    nb::gil_scoped_release release;
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(static) if (n * p > 32768)
#endif
    for (Index i = 0; i < n; ++i) {
        const T* row = in + i * p;
        const double s = inverse_power(static_cast<double>(largest_magnitude(row, p)));
        double mean = 0;
        bool flat = false;
        if (centre) {
            // The second pass removes what rounding left in the first mean.
            mean = sum_of(p, [=](Index k) { return row[k] * s; }) / static_cast<double>(p);
            mean += sum_of(p, [=](Index k) { return row[k] * s - mean; }) / static_cast<double>(p);
            flat = std::all_of(row, row + p, [=](T v) { return v == row[0]; });
        }
        const double square = sum_of(p, [=](Index k) {
            const double v = row[k] * s - mean;
            return v * v;
        });
        const double unit = square > 0 && !flat ? 1.0 / std::sqrt(square) : 0.0;
        pres[i] = s;
        shifts[i] = mean;
        scales[i] = unit;
        for (Index k = 0; k < p; ++k)
            out[i * p + k] = static_cast<T>((row[k] * s - mean) * unit);
    }
}

// Rows less the mean row, times `factor`, with their squared norms: z = x * factor - mean. The mean is
// accumulated in float64, one column by one thread, so that no result depends on threads.
template <class S, class T>
void centred_rows(Array<const S> x, Array<T> z, Array<double> norms, double factor, int threads) {
    const Index n = static_cast<Index>(x.shape(0)), p = static_cast<Index>(x.shape(1));
    const S* in = x.data();
    T* out = z.data();
    double* squares = norms.data();
    std::vector<double> means(p, 0.0);
    double* mean = means.data();
    nb::gil_scoped_release release;
    constexpr Index strip = 64;
    const Index strips = (p + strip - 1) / strip;
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads) if (n * p > 32768)
#endif
    {
#if defined(_OPENMP)
#pragma omp for schedule(static)
#endif
        for (Index b = 0; b < strips; ++b) {
            const Index end = std::min(p, (b + 1) * strip);
            for (Index i = 0; i < n; ++i)
                for (Index k = b * strip; k < end; ++k) mean[k] += in[i * p + k] * factor;
            for (Index k = b * strip; k < end; ++k) mean[k] /= static_cast<double>(n);
        }
#if defined(_OPENMP)
#pragma omp for schedule(static)
#endif
        for (Index i = 0; i < n; ++i) {
            const S* row = in + i * p;
            T* to = out + i * p;
            for (Index k = 0; k < p; ++k) to[k] = static_cast<T>(row[k] * factor - mean[k]);
            squares[i] = sum_of(p, [=](Index k) {
                return static_cast<double>(to[k]) * static_cast<double>(to[k]);
            });
        }
    }
}

// Where the pairs of row i start in squareform order.
inline Index row_start(Index i, Index n) { return i * n - i * (i + 1) / 2; }

enum Form { squares, products, folds };

// The distance of two source rows from their differences, in float64.
//   squares   sum_k d_k^2
//   products  sum_k d_k d_{k+w/2}                      (poisson: rates, then log rates)
//   folds     sum_k (sum_m d_mk)^2 - sum_m d_mk^2      (crossnobis: `parts` folds side by side)
template <class D>
inline double direct(Form form, Index width, Index parts, D difference) {
    if (form == squares)
        return sum_of(width, [=](Index k) {
            const double d = difference(k);
            return d * d;
        });
    const Index p = width / parts;
    if (form == products)
        return sum_of(p, [=](Index k) { return difference(k) * difference(k + p); });
    return sum_of(p, [=](Index k) {
        double total = 0, own = 0;
        for (Index m = 0; m < parts; ++m) {
            const double d = difference(m * p + k);
            total += d;
            own += d * d;
        }
        return total * total - own;
    });
}

// Condensed distances of one tile, from g[i - first, j - column] = the product of rows i and j; pairs
// that are not j > i are left alone:
//   value = offset_i + offset_j - weight g_ij,
// recomputed from `source` where value < max(tau (bound_i + bound_j), floor). `pre`, `shift` and
// `scale` are per row or empty (raw rows). Then out = factor * min(value, top), rooted if asked.
// `out` starts with the pairs of row `begin`.
template <class S, class T>
void finish(Array<const T> g, Index first, Index column, Array<T> out, Array<const double> offset,
            Array<const double> bound, double weight, double tau, double floor,
            Array<const S> source, Array<const double> pre, Array<const double> shift,
            Array<const double> scale, int form_code, Index parts, double direct_factor,
            double factor, double top, bool root, Index begin) {
    const Index block = static_cast<Index>(g.shape(0)), stride = static_cast<Index>(g.shape(1));
    const Index n = static_cast<Index>(offset.shape(0)), width = static_cast<Index>(source.shape(1));
    const T* products_of = g.data();
    T* condensed = out.data() - row_start(begin, n);
    const double *offsets = offset.data(), *bounds = bound.data();
    const bool normalised = scale.size() > 0;
    const double *pres = pre.data(), *shifts = shift.data(), *scales = scale.data();
    const S* rows = source.data();
    const Form form = static_cast<Form>(form_code);
    nb::gil_scoped_release release;
    for (Index b = 0; b < block; ++b) {
        const Index i = first + b;
        const T* gi = products_of + b * stride - column;
        T* to = condensed + row_start(i, n) - i - 1;
        constexpr Index chunk = 64;
        double value[chunk];
        for (Index j0 = std::max(i + 1, column); j0 < column + stride; j0 += chunk) {
            const Index count = std::min(chunk, column + stride - j0);
            int any_near = 0;
            for (Index l = 0; l < count; ++l) {
                const Index j = j0 + l;
                const double v = offsets[i] + offsets[j] - weight * static_cast<double>(gi[j]);
                const double limit = tau * (bounds[i] + bounds[j]);
                value[l] = v;
                any_near |= !(std::fabs(v) >= (limit > floor ? limit : floor));
            }
            for (Index l = 0; any_near && l < count; ++l) {
                const Index j = j0 + l;
                const double limit = std::max(floor, tau * (bounds[i] + bounds[j]));
                if (std::fabs(value[l]) >= limit) continue;
                const S *x = rows + i * width, *y = rows + j * width;
                // Fused multiply-adds round the two sides differently: equal rows would miss 0.
                if (std::equal(x, x + width, y)) {
                    value[l] = 0.0;
                } else if (normalised) {
                    const double px = pres[i], py = pres[j], mx = shifts[i], my = shifts[j];
                    const double sx = scales[i], sy = scales[j];
                    value[l] = direct_factor * direct(form, width, parts, [=](Index k) {
                        return (x[k] * px - mx) * sx - (y[k] * py - my) * sy;
                    });
                } else {
                    const double s = direct_factor;
                    value[l] = direct(form, width, parts, [=](Index k) {
                        return (static_cast<double>(x[k]) - static_cast<double>(y[k])) * s;
                    });
                }
            }
            if (root)
                for (Index l = 0; l < count; ++l)
                    to[j0 + l] = static_cast<T>(factor * std::sqrt(std::max(value[l], 0.0)));
            else
                for (Index l = 0; l < count; ++l)
                    to[j0 + l] = static_cast<T>(factor * std::min(value[l], top));
        }
    }
}

// Distances of 4 rows with 2, over one strip of features.
template <class T>
inline void cityblock_4x2(const T* const x[4], const T* const y[2], Index count, double sum[4][2]) {
    using V = Simd<T>;
    typename V::type acc[4][2];
    for (auto& a : acc) a[0] = a[1] = V::zero();
    Index k = 0;
    for (; k + static_cast<Index>(V::width) <= count; k += V::width) {
        const auto y0 = V::load(y[0] + k), y1 = V::load(y[1] + k);
        for (int r = 0; r < 4; ++r) {
            const auto v = V::load(x[r] + k);
            const auto d0 = v - y0, d1 = v - y1;
            acc[r][0] += d0 > -d0 ? d0 : -d0;
            acc[r][1] += d1 > -d1 ? d1 : -d1;
        }
    }
    for (int r = 0; r < 4; ++r)
        for (int c = 0; c < 2; ++c) {
            double tail = 0;
            for (Index t = k; t < count; ++t)
                tail += std::fabs(static_cast<double>(x[r][t]) - static_cast<double>(y[c][t]));
            sum[r][c] += static_cast<double>(V::sum(acc[r][c])) + tail;
        }
}

// Sum of |x_i - x_j|, tiles of rows by strips of features: a strip of a tile stays in L1. For the rows i
// from `begin`, a multiple of 32, to `end`; `out` starts with the pairs of row `begin`.
template <class T>
void cityblock(Array<const T> x, Array<T> out, Index begin, Index end, int threads) {
    const Index n = static_cast<Index>(x.shape(0)), p = static_cast<Index>(x.shape(1));
    const T* rows = x.data();
    T* condensed = out.data() - row_start(begin, n);
    constexpr Index tile = 32;
    const Index strip = 4096 / static_cast<Index>(sizeof(T));
    const Index tiles = (n + tile - 1) / tile;
    nb::gil_scoped_release release;
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (n * n * p > 65536)
#endif
    for (Index pair = begin / tile * tiles; pair < (end + tile - 1) / tile * tiles; ++pair) {
        const Index ti = pair / tiles, tj = pair % tiles;
        if (tj < ti) continue;
        double sums[tile / 4][tile / 2][4][2] = {};
        for (Index k = 0; k < p; k += strip) {
            const Index count = std::min(strip, p - k);
            for (Index a = 0; a < tile / 4; ++a) {
                const T* x4[4];
                // Rows past the end repeat the last one; their sums are not stored.
                for (Index r = 0; r < 4; ++r)
                    x4[r] = rows + std::min(n - 1, ti * tile + a * 4 + r) * p + k;
                if (ti * tile + a * 4 >= n) break;
                for (Index c = 0; c < tile / 2; ++c) {
                    const Index j = tj * tile + c * 2;
                    if (j >= n) break;
                    if (j + 1 <= ti * tile + a * 4) continue;
                    const T* y2[2] = {rows + j * p + k, rows + std::min(n - 1, j + 1) * p + k};
                    cityblock_4x2(x4, y2, count, sums[a][c]);
                }
            }
        }
        for (Index i = ti * tile; i < std::min(end, (ti + 1) * tile); ++i)
            for (Index j = std::max(i + 1, tj * tile); j < std::min(n, (tj + 1) * tile); ++j) {
                const Index r = i - ti * tile, c = j - tj * tile;
                condensed[row_start(i, n) - i - 1 + j] =
                    static_cast<T>(sums[r / 4][c / 2][r % 4][c % 2]);
            }
    }
}

template <class S, class T>
void bind_finish(nb::module_& m) {
    m.def("pairwise_finish", &finish<S, T>, nb::arg("g").noconvert(), nb::arg("first"), nb::arg("column"),
          nb::arg("out").noconvert(), nb::arg("offset").noconvert(), nb::arg("bound").noconvert(),
          nb::arg("weight"), nb::arg("tau"), nb::arg("floor"), nb::arg("source").noconvert(),
          nb::arg("pre").noconvert(), nb::arg("shift").noconvert(), nb::arg("scale").noconvert(),
          nb::arg("form"), nb::arg("parts"), nb::arg("direct_factor"), nb::arg("factor"),
          nb::arg("top"), nb::arg("root"), nb::arg("begin"));
}

template <class T>
void bind_rows(nb::module_& m) {
    m.def("pairwise_unit_rows", &unit_rows<T>, nb::arg("x").noconvert(), nb::arg("z").noconvert(),
          nb::arg("pre").noconvert(), nb::arg("shift").noconvert(), nb::arg("scale").noconvert(),
          nb::arg("centre"), nb::arg("threads"));
    m.def("pairwise_cityblock", &cityblock<T>, nb::arg("x").noconvert(),
          nb::arg("out").noconvert(), nb::arg("begin"), nb::arg("end"), nb::arg("threads"));
}

template <class S, class T>
void bind_centred(nb::module_& m) {
    m.def("pairwise_centred_rows", &centred_rows<S, T>, nb::arg("x").noconvert(),
          nb::arg("z").noconvert(), nb::arg("norms").noconvert(), nb::arg("factor"),
          nb::arg("threads"));
}

}  // namespace

RSAFAST_KERNEL(pairwise) {
    bind_rows<float>(m);
    bind_rows<double>(m);
    bind_centred<float, float>(m);
    bind_centred<double, float>(m);
    bind_centred<double, double>(m);
    bind_finish<float, float>(m);
    bind_finish<double, float>(m);
    bind_finish<double, double>(m);
}
