// Orbit sampling, n relabellings for the price of one FFT: see __init__.py for the mathematics.
//
// A panel holds the spectra of one side as [frequency][row][re d=1.. | im d=1..], row = relabelling
// x matrices + matrix, so that the sum over circulant diagonals d is a dot product of contiguous
// memory on both sides. Every sum is taken in one fixed order, whatever the number of threads. Two
// rows share each inverse transform, so results depend on which rows a call is given, by rounding
// only: whoever counts must compare with a tolerance.
#include <algorithm>
#include <type_traits>
#include <utility>

#include "fft.hpp"
#include "registry.hpp"

namespace {

using rsafast::Array;
using rsafast::Simd;
namespace nb = nanobind;

constexpr std::size_t panel_lanes = 8;  // as in __init__.py

// ---------------------------------------------------------------- spectra

template <class T>
struct Gathered {  // diagonals[x][d - 1] = A[g(x), g(x + d)], padded with zeros to `stride`
    std::vector<T> data;
    std::vector<std::int32_t> wrapped;
    std::size_t stride;

    Gathered(int n, int half, std::size_t stride)
        : data(n * stride, T(0)), wrapped(n + half), stride(stride) {}

    void fill(const T* matrix, const std::int32_t* g, int n, int half, T scale, T last) {
        std::copy(g, g + n, wrapped.begin());
        std::copy(g, g + half, wrapped.begin() + n);
        for (int x = 0; x < n; ++x) {
            const T* row = matrix + static_cast<std::size_t>(g[x]) * n;
            const std::int32_t* to = wrapped.data() + x + 1;
            T* out = data.data() + x * stride;
            for (int d = 0; d < half; ++d) out[d] = scale * row[to[d]];
            out[half - 1] *= last;
        }
    }
};

template <class T>
void write_spectra(const Gathered<T>& gathered, const rsafast::fft::Plan<T>& plan,
                   std::size_t padded, std::size_t row, std::size_t rows, T* panel,
                   std::vector<T>& work) {
    using S = Simd<T>;
    constexpr std::size_t w = S::width;
    const int n = plan.size();
    T *re = work.data(), *im = re + n * w;
    T *scratch_re = im + n * w, *scratch_im = scratch_re + plan.scratch() * w;
    // Two blocks of diagonals are the real and imaginary part of one complex transform.
    for (std::size_t d = 0; d < padded; d += 2 * w) {
        for (int x = 0; x < n; ++x) {
            const T* from = gathered.data.data() + x * gathered.stride + d;
            S::store(re + x * w, S::load(from));
            S::store(im + x * w, S::load(from + w));
        }
        plan.forward(re, im, scratch_re, scratch_im);
        const bool second = d + w < padded;
        for (int k = 0; k <= n / 2; ++k) {
            const int mirror = k ? n - k : 0;
            const auto ar = S::load(re + k * w), ai = S::load(im + k * w);
            const auto br = S::load(re + mirror * w), bi = S::load(im + mirror * w);
            T* out = panel + (k * rows + row) * 2 * padded + d;
            S::store(out, (ar + br) * T(0.5));
            S::store(out + padded, (ai - bi) * T(0.5));
            if (second) {
                S::store(out + w, (ai + bi) * T(0.5));
                S::store(out + padded + w, (br - ar) * T(0.5));
            }
        }
    }
}

template <class T>
void spectra(const T* stack, std::size_t matrices, const std::int32_t* relabelings,
             std::size_t count, int n, bool weighted, std::size_t padded, T* panel, int threads) {
    const int half = n / 2;
    const rsafast::fft::Plan<T> plan(n);
    const std::size_t rows = count * matrices, w = Simd<T>::width;
    const std::size_t stride = rsafast::round_up(padded, 2 * w);
    // One side carries the inverse transform's 1/n and the weight 1/2 of the diagonal met twice.
    const T scale = weighted ? T(1) / n : T(1);
    const T last = weighted && n % 2 == 0 ? T(0.5) : T(1);
#pragma omp parallel num_threads(threads)
    {
        Gathered<T> gathered(n, half, stride);
        std::vector<T> work(2 * (n + plan.scratch()) * w);
#pragma omp for schedule(dynamic)
        for (std::ptrdiff_t row = 0; row < static_cast<std::ptrdiff_t>(rows); ++row) {
            const std::size_t relabeling = row / matrices, matrix = row % matrices;
            gathered.fill(stack + matrix * n * n, relabelings + relabeling * n, n, half, scale, last);
            write_spectra(gathered, plan, padded, row, rows, panel, work);
        }
    }
}

// ---------------------------------------------------------------- products over the diagonals

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int tile_a = 4, tile_b = 3;  // 32 vector registers
#else
constexpr int tile_a = 3, tile_b = 2;  // 16 vector registers
#endif
// Diagonals and rows of one pass: a block of `block_a` rows (24 kB in float64) stays in L1 while the
// rows of b stream past it.
constexpr std::size_t chunk = 128;
constexpr int block_a = 12;

// c[i][0 | 1][j] += sum_d a_i[d] conj(b_j[d]) for an MA x MB tile.
template <class T, int MA, int MB>
void product_tile(const T* a, const T* b, std::size_t stride, std::size_t im, std::size_t length,
                  T* c, std::size_t c_row, std::size_t c_im) {
    using S = Simd<T>;
    typename S::type sum[MA][2][MB] = {};
    for (std::size_t d = 0; d < length; d += S::width) {
        for (int i = 0; i < MA; ++i) {
            const auto ar = S::load(a + i * stride + d), ai = S::load(a + i * stride + im + d);
            for (int j = 0; j < MB; ++j) {
                const auto br = S::load(b + j * stride + d), bi = S::load(b + j * stride + im + d);
                sum[i][0][j] += ar * br;
                sum[i][1][j] += ai * br;
                sum[i][0][j] += ai * bi;
                sum[i][1][j] -= ar * bi;
            }
            // Load b again for the next row: kept in registers, it would push two sums to memory.
            asm volatile("" ::: "memory");
        }
    }
    typename S::type flat[MA * 2 * MB];  // a copy, so that `sum` itself never needs an address
    for (int i = 0; i < MA; ++i)
        for (int part = 0; part < 2; ++part)
            for (int j = 0; j < MB; ++j) flat[(2 * i + part) * MB + j] = sum[i][part][j];
    T total[MA][2][MB];
    S::template sums<2 * MA * MB>(flat, &total[0][0][0]);
    for (int i = 0; i < MA; ++i)
        for (int part = 0; part < 2; ++part)
            for (int j = 0; j < MB; ++j) c[i * c_row + part * c_im + j] += total[i][part][j];
}

template <class T, int MA, int MB>
void product_rest(int ma, int mb, const T* a, const T* b, std::size_t stride, std::size_t im,
                  std::size_t length, T* c, std::size_t c_row, std::size_t c_im) {
    if (ma == MA && mb == MB) {
        product_tile<T, MA, MB>(a, b, stride, im, length, c, c_row, c_im);
    } else if constexpr (MA > 1) {
        if (ma < MA) return product_rest<T, MA - 1, MB>(ma, mb, a, b, stride, im, length, c, c_row, c_im);
        if constexpr (MB > 1)
            product_rest<T, MA, MB - 1>(ma, mb, a, b, stride, im, length, c, c_row, c_im);
    } else if constexpr (MB > 1) {
        product_rest<T, MA, MB - 1>(ma, mb, a, b, stride, im, length, c, c_row, c_im);
    }
}

template <class T>
void product(const T* a, const T* b, int rows_a, int rows_b, std::size_t padded, T* c,
             std::size_t lanes) {
    const std::size_t stride = 2 * padded;
    std::fill(c, c + rows_a * 2 * lanes, T(0));
    for (std::size_t d = 0; d < padded; d += chunk) {
        const std::size_t length = std::min(chunk, padded - d);
        for (int block = 0; block < rows_a; block += block_a) {
            const int end = std::min(rows_a, block + block_a);
            for (int j = 0; j < rows_b; j += tile_b)
                for (int i = block; i < end; i += tile_a)
                    product_rest<T, tile_a, tile_b>(
                        std::min(tile_a, end - i), std::min(tile_b, rows_b - j),
                        a + i * stride + d, b + j * stride + d, stride, padded, length,
                        c + i * 2 * lanes + j, 2 * lanes, lanes);
        }
    }
}

// ---------------------------------------------------------------- back to shifts

// Two groups of lanes (real series) as one complex inverse transform; out[lane][shift].
template <class T>
void inverse(const rsafast::fft::Plan<T>& plan, const T* first, const T* second,
             std::size_t frequency_stride, std::size_t im_offset, T* work) {
    using S = Simd<T>;
    constexpr std::size_t w = S::width;
    const int n = plan.size();
    T *re = work, *im = re + n * w, *scratch_re = im + n * w;
    T* scratch_im = scratch_re + plan.scratch() * w;
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
    plan.forward(im, re, scratch_im, scratch_re);
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

template <class T>
void correlate(const T* a, std::size_t a_stride, const T* b, std::size_t b_stride, int rows_a,
               int rows_b, int n, std::size_t padded, T* c, std::size_t lanes, T* out,
               int threads) {
    constexpr std::size_t w = Simd<T>::width;
    const rsafast::fft::Plan<T> plan(n);
    const std::size_t frequency_stride = static_cast<std::size_t>(rows_a) * 2 * lanes;
    const std::size_t groups_b = (rows_b + w - 1) / w, groups = rows_a * groups_b;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int k = 0; k <= n / 2; ++k)
            product(a + k * a_stride, b + k * b_stride, rows_a, rows_b, padded,
                    c + k * frequency_stride, lanes);
        std::vector<T> work(2 * (n + plan.scratch()) * w);
#pragma omp for schedule(static)
        for (std::ptrdiff_t pair = 0; pair < static_cast<std::ptrdiff_t>((groups + 1) / 2); ++pair) {
            const std::size_t one = 2 * pair, two = std::min(one + 1, groups - 1);
            const auto at = [&](std::size_t group) {
                return c + group / groups_b * 2 * lanes + group % groups_b * w;
            };
            inverse(plan, at(one), at(two), frequency_stride, lanes, work.data());
            for (std::size_t half = 0; half < (two > one ? 2 : 1); ++half) {
                const std::size_t group = one + half, first = group % groups_b * w;
                scatter(work.data() + half * n * w, n, std::min(w, rows_b - first),
                        out + (group / groups_b * rows_b + first) * n);
            }
        }
    }
}

// ---------------------------------------------------------------- bindings

template <class T>
void bind(nb::module_& m) {
    m.def("orbit_spectra",
          [](Array<const T> stack, Array<const std::int32_t> relabelings, bool weighted,
             Array<T> panel, int threads) {
              nb::gil_scoped_release release;
              spectra(stack.data(), stack.shape(0), relabelings.data(), relabelings.shape(0),
                      static_cast<int>(stack.shape(1)), weighted, panel.shape(2) / 2, panel.data(),
                      threads);
          });
    m.def("orbit_correlate",
          [](Array<const T> a, int a_first, int rows_a, Array<const T> b, int b_first, int rows_b,
             int n, Array<T> products, Array<T> out, int threads) {
              nb::gil_scoped_release release;
              const std::size_t width = a.shape(2);
              correlate(a.data() + a_first * width, a.shape(1) * width, b.data() + b_first * width,
                        b.shape(1) * width, rows_a, rows_b, n, width / 2, products.data(),
                        rsafast::round_up(rows_b, panel_lanes), out.data(), threads);
          });
}

}  // namespace

RSAFAST_KERNEL(orbit) {
    bind<double>(m);
    bind<float>(m);
}
