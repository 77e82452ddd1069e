// Orbit sampling, n relabellings for the price of one FFT: see __init__.py for the mathematics.
//
// A panel holds the spectra of one side as [frequency][chunk of diagonals][row][re | im], row =
// relabelling x matrices + matrix, so that the sum over circulant diagonals d is a dot product of
// contiguous memory on both sides, and what one pass of the product reads is one stretch of memory. Every sum is taken in one fixed order, whatever the number of threads. Two
// rows share each inverse transform, so results depend on which rows a call is given, by rounding
// only: whoever counts must compare with a tolerance.
#include <algorithm>
#include <type_traits>
#include <utility>

#include "registry.hpp"
#include "streaming.hpp"
#include "transform.hpp"

namespace {

using rsafast::Array;
using rsafast::Simd;
using rsafast::orbit::Work;
using rsafast::orbit::forward_pair;
using rsafast::orbit::inverse;
using rsafast::orbit::scatter;
namespace nb = nanobind;

constexpr std::size_t panel_lanes = 8;  // as in __init__.py

struct Panel {
    std::size_t chunks, rows, chunk;  // diagonals in `chunks` times `chunk`
    std::size_t padded() const { return chunks * chunk; }
    std::size_t frequency() const { return chunks * rows * 2 * chunk; }
    // Real part of row `row`, diagonal d, frequency 0; the imaginary part is `chunk` further.
    std::size_t at(std::size_t row, std::size_t d) const {
        return (d / chunk * rows + row) * 2 * chunk + d % chunk;
    }
};

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
                   const Panel& shape, std::size_t row, T* panel, const Work<T>& work) {
    using S = Simd<T>;
    constexpr std::size_t w = S::width;
    const int n = plan.size();
    T *re = work.re, *im = work.im;
    // Two blocks of diagonals are the real and imaginary part of one complex transform.
    for (std::size_t d = 0; d < shape.padded(); d += 2 * w) {
        for (int x = 0; x < n; ++x) {
            const T* from = gathered.data.data() + x * gathered.stride + d;
            S::store(re + x * w, S::load(from));
            S::store(im + x * w, S::load(from + w));
        }
        const bool second = d + w < shape.padded();
        T *first = panel + shape.at(row, d), *next = panel + shape.at(row, d + w);
        forward_pair(plan, work, [&](int k, auto ar, auto ai, auto br, auto bi) {
            const std::size_t at = k * shape.frequency();
            S::store(first + at, ar);
            S::store(first + at + shape.chunk, ai);
            if (second) {
                S::store(next + at, br);
                S::store(next + at + shape.chunk, bi);
            }
        });
    }
}

template <class T>
void spectra(const T* stack, std::size_t matrices, const std::int32_t* relabelings,
             std::size_t count, int n, bool weighted, const Panel& shape, T* panel, int threads) {
    const int half = n / 2;
    const auto shared = rsafast::fft::shared_plan<T>(n);
    const rsafast::fft::Plan<T>& plan = *shared;
    const std::size_t rows = count * matrices;
    const std::size_t stride = rsafast::round_up(shape.padded(), 2 * Simd<T>::width);
    // One side carries the inverse transform's 1/n and the weight 1/2 of the diagonal met twice.
    const T scale = weighted ? T(1) / n : T(1);
    const T last = weighted && n % 2 == 0 ? T(0.5) : T(1);
#pragma omp parallel num_threads(threads)
    {
        Gathered<T> gathered(n, half, stride);
        const Work<T> work(plan);
#pragma omp for schedule(dynamic)
        for (std::ptrdiff_t row = 0; row < static_cast<std::ptrdiff_t>(rows); ++row) {
            const std::size_t relabeling = row / matrices, matrix = row % matrices;
            gathered.fill(stack + matrix * n * n, relabelings + relabeling * n, n, half, scale, last);
            write_spectra(gathered, plan, shape, row, panel, work);
        }
    }
}

// ---------------------------------------------------------------- products over the diagonals

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int tile_a = 4, tile_b = 3;  // 32 vector registers
#else
constexpr int tile_a = 3, tile_b = 2;  // 16 vector registers
#endif
constexpr int block_a = 12;  // rows of one pass: with a chunk of 128 diagonals 24 kB, within L1

// c[i][0 | 1][j] += sum_d a_i[d] conj(b_j[d]) for an MA x MB tile.
template <class T, int MA, int MB>
void product_tile(const T* a, const T* b, std::size_t chunk, T* c, std::size_t lanes) {
    using S = Simd<T>;
    const std::size_t stride = 2 * chunk;
    typename S::type sum[MA][2][MB] = {};
    for (std::size_t d = 0; d < chunk; d += S::width) {
        for (int i = 0; i < MA; ++i) {
            const auto ar = S::load(a + i * stride + d), ai = S::load(a + i * stride + chunk + d);
            for (int j = 0; j < MB; ++j) {
                const auto br = S::load(b + j * stride + d), bi = S::load(b + j * stride + chunk + d);
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
            for (int j = 0; j < MB; ++j) c[(2 * i + part) * lanes + j] += total[i][part][j];
}

// The tile of ma x mb rows, ma <= MA and mb <= MB, that the compiler has made for that size.
template <class T, int MA, int MB>
void product_rest(int ma, int mb, const T* a, const T* b, std::size_t chunk, T* c,
                  std::size_t lanes) {
    if (ma == MA && mb == MB) return product_tile<T, MA, MB>(a, b, chunk, c, lanes);
    if constexpr (MA > 1)
        if (ma < MA) return product_rest<T, MA - 1, MB>(ma, mb, a, b, chunk, c, lanes);
    if constexpr (MB > 1) product_rest<T, MA, MB - 1>(ma, mb, a, b, chunk, c, lanes);
}

template <class T>
void fetch(const T* from, std::size_t length) {
    for (std::size_t i = 0; i < length; i += 64 / sizeof(T)) __builtin_prefetch(from + i, 0, 2);
}

// Rows `a` times rows `b` of one frequency; both point to the first row in the first chunk.
template <class T>
void product(const T* a, const Panel& shape_a, int rows_a, const T* b, const Panel& shape_b,
             int rows_b, T* c, std::size_t lanes) {
    const std::size_t chunk = shape_a.chunk, stride = 2 * chunk;
    std::fill(c, c + rows_a * 2 * lanes, T(0));
    for (std::size_t part = 0; part < shape_a.chunks; ++part) {
        const T* first_a = a + part * shape_a.rows * stride;
        const T* first_b = b + part * shape_b.rows * stride;
        for (int block = 0; block < rows_a; block += block_a) {
            const int end = std::min(rows_a, block + block_a);
            // What comes next is fetched meanwhile: the next block of a a part at a time, and, on the
            // first pass, the rows of b two tiles ahead.
            const std::size_t share = block_a * stride * tile_b / std::max(rows_b, tile_b);
            const T* next_a = first_a + (block + block_a) * stride;
            for (int j = 0; j < rows_b; j += tile_b, next_a += share) {
                fetch(next_a, share);
                if (block == 0) fetch(first_b + (j + 2 * tile_b) * stride, tile_b * stride);
                for (int i = block; i < end; i += tile_a)
                    product_rest<T, tile_a, tile_b>(
                        std::min(tile_a, end - i), std::min(tile_b, rows_b - j),
                        first_a + i * stride, first_b + j * stride, chunk, c + i * 2 * lanes + j,
                        lanes);
            }
        }
    }
}

// ---------------------------------------------------------------- back to shifts

template <class T>
void correlate(const T* a, const Panel& shape_a, int rows_a, const T* b, const Panel& shape_b,
               int rows_b, int n, T* c, std::size_t lanes, T* out, int threads) {
    constexpr std::size_t w = Simd<T>::width;
    const auto shared = rsafast::fft::shared_plan<T>(n);
    const rsafast::fft::Plan<T>& plan = *shared;
    const std::size_t frequency_stride = static_cast<std::size_t>(rows_a) * 2 * lanes;
    const std::size_t groups_b = (rows_b + w - 1) / w, groups = rows_a * groups_b;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int k = 0; k <= n / 2; ++k)
            product(a + k * shape_a.frequency(), shape_a, rows_a, b + k * shape_b.frequency(),
                    shape_b, rows_b, c + k * frequency_stride, lanes);
        const Work<T> work(plan);
#pragma omp for schedule(static)
        for (std::ptrdiff_t pair = 0; pair < static_cast<std::ptrdiff_t>((groups + 1) / 2); ++pair) {
            const std::size_t one = 2 * pair, two = std::min(one + 1, groups - 1);
            const auto at = [&](std::size_t group) {
                return c + group / groups_b * 2 * lanes + group % groups_b * w;
            };
            inverse(plan, at(one), at(two), frequency_stride, lanes, work);
            for (std::size_t half = 0; half < (two > one ? 2 : 1); ++half) {
                const std::size_t group = one + half, first = group % groups_b * w;
                scatter(half ? work.im : work.re, n, std::min(w, rows_b - first),
                        out + (group / groups_b * rows_b + first) * n);
            }
        }
    }
}

// ---------------------------------------------------------------- bindings

Panel panel_of(const Array<const double>& panel) {
    return {panel.shape(1), panel.shape(2), panel.shape(3) / 2};
}

void bind_spectra(Array<const double> stack, Array<const std::int32_t> relabelings, bool weighted,
                  Array<double> panel, int threads) {
    nb::gil_scoped_release release;
    const Panel shape{panel.shape(1), panel.shape(2), panel.shape(3) / 2};
    spectra(stack.data(), stack.shape(0), relabelings.data(), relabelings.shape(0),
            static_cast<int>(stack.shape(1)), weighted, shape, panel.data(), threads);
}

void bind_correlate(Array<const double> a, int first_a, int rows_a, Array<const double> b,
                    int first_b, int rows_b, int n, Array<double> products, Array<double> out,
                    int threads) {
    nb::gil_scoped_release release;
    const Panel shape_a = panel_of(a), shape_b = panel_of(b);
    correlate(a.data() + shape_a.at(first_a, 0), shape_a, rows_a, b.data() + shape_b.at(first_b, 0),
              shape_b, rows_b, n, products.data(), rsafast::round_up(rows_b, panel_lanes),
              out.data(), threads);
}

}  // namespace

RSAFAST_KERNEL(orbit) {
    m.def("orbit_spectra", &bind_spectra);
    m.def("orbit_correlate", &bind_correlate);
    rsafast::orbit::bind_streaming(m);
}
