// Complex FFTs of any length n, several at once: element x of every transform lies side by side in
// `width` lanes, so each butterfly is a vector operation whatever n is. Mixed radix (Stockham, no
// bit reversal), Bluestein's algorithm where a large prime factor makes that dearer.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <mutex>
#include <numbers>
#include <vector>

#include "simd.hpp"

namespace rsafast::fft {

// cos and sin of 2*pi*k/n, accurate for large k*n because the angle is reduced first.
template <class T>
void root(std::int64_t k, std::int64_t n, T& c, T& s) {
    k %= n;
    const long double angle = 2.0L * std::numbers::pi_v<long double> * k / n;
    c = static_cast<T>(std::cos(angle));
    s = static_cast<T>(std::sin(angle));
}

inline std::vector<int> factors(int n) {
    std::vector<int> list;
    while (n % 4 == 0) list.push_back(4), n /= 4;
    for (int p = 2; p * p <= n; ++p)
        while (n % p == 0) list.push_back(p), n /= p;
    if (n > 1) list.push_back(n);
    return list;
}

// Time per element in floating-point operations of the small radices; 1.7 p measured for odd ones
// (AVX2, p = 23 to 211). For choosing between mixed radix and Bluestein.
inline double cost(int n) {
    double total = 0;
    for (int p : factors(n))
        total += p == 2 ? 5.0 : p == 3 ? 8.0 : p == 4 ? 9.0 : p == 5 ? 11.0 : 1.7 * p;
    return total;
}

inline bool smooth(int n) {
    for (int p : {2, 3, 5})
        while (n % p == 0) n /= p;
    return n == 1;
}

inline int smooth_at_least(int n) {
    int best = 0;
    double best_cost = 0;
    for (int m = n; m < 2 * n + 8; ++m) {
        if (!smooth(m)) continue;
        const double c = cost(m) * m;
        if (!best || c < best_cost) best = m, best_cost = c;
        if (m > 1.25 * n && best) break;
    }
    return best;
}

template <class T>
class Plan {
   public:
    using S = Simd<T>;
    using V = typename S::type;
    static constexpr std::size_t width = S::width;

    explicit Plan(int n) : n_(n), factors_(factors(n)) {
        if (n > 1) {
            const int padded = smooth_at_least(2 * n - 1);
            if (cost(n) > 2.1 * cost(padded) * padded / n + 40) {
                inner_ = std::make_unique<Plan>(padded);
                make_chirp();
                return;
            }
        }
        make_twiddles();
    }

    int size() const { return n_; }
    // Lanes-vectors of scratch that `forward` needs for each of the real and imaginary parts.
    std::size_t scratch() const { return inner_ ? inner_->n_ + inner_->scratch() : n_; }

    // In place: (re, im) holds n vectors each. The inverse (unscaled) is forward with re, im swapped.
    void forward(T* re, T* im, T* scratch_re, T* scratch_im) const {
        if (inner_)
            bluestein(re, im, scratch_re, scratch_im);
        else
            mixed_radix(re, im, scratch_re, scratch_im);
    }

   private:
    int n_;
    std::vector<int> factors_;
    std::vector<T> twiddle_;             // per pass, per q, per u >= 1: (cos, -sin)
    std::unique_ptr<Plan> inner_;        // Bluestein's convolution
    std::vector<T> chirp_re_, chirp_im_, kernel_re_, kernel_im_;
    std::vector<std::vector<T>> cos_, sin_;  // per pass: roots of an odd prime radix

    void make_twiddles() {
        int length = n_;
        for (int p : factors_) {
            const int m = length / p;
            for (int q = 0; q < m; ++q)
                for (int u = 1; u < p; ++u) {
                    T c, s;
                    root<T>(static_cast<std::int64_t>(q) * u, length, c, s);
                    twiddle_.push_back(c);
                    twiddle_.push_back(-s);
                }
            std::vector<T> cosines(p), sines(p);
            for (int k = 0; k < p; ++k) root<T>(k, p, cosines[k], sines[k]);
            cos_.push_back(std::move(cosines));
            sin_.push_back(std::move(sines));
            length = m;
        }
    }

    void mixed_radix(T* re, T* im, T* sre, T* sim) const {
        T *xr = re, *xi = im, *yr = sre, *yi = sim;
        const T* tw = twiddle_.data();
        int length = n_, stride = 1;
        for (std::size_t pass = 0; pass < factors_.size(); ++pass) {
            const int p = factors_[pass];
            switch (p) {
                case 2: radix2(length, stride, xr, xi, yr, yi, tw); break;
                case 3: radix3(length, stride, xr, xi, yr, yi, tw); break;
                case 4: radix4(length, stride, xr, xi, yr, yi, tw); break;
                case 5: radix5(length, stride, xr, xi, yr, yi, tw); break;
                default: radix_odd(p, pass, length, stride, xr, xi, yr, yi, tw);
            }
            tw += 2 * (length / p) * (p - 1);
            length /= p;
            stride *= p;
            std::swap(xr, yr);
            std::swap(xi, yi);
        }
        if (xr != re) {
            std::memcpy(re, xr, sizeof(T) * width * n_);
            std::memcpy(im, xi, sizeof(T) * width * n_);
        }
    }

    // Every pass: y[j + s(p q + u)] = w^{q u} * sum_t x[j + s(q + m t)] exp(-2 pi i t u / p).
    static void radix2(int length, int s, const T* xr, const T* xi, T* yr, T* yi, const T* tw) {
        const int m = length / 2;
        const std::size_t step = static_cast<std::size_t>(s) * m * width;
        for (int q = 0; q < m; ++q, tw += 2) {
            const T c = tw[0], d = tw[1];
            for (int j = 0; j < s; ++j) {
                const std::size_t in = (static_cast<std::size_t>(s) * q + j) * width;
                const std::size_t out = (static_cast<std::size_t>(s) * 2 * q + j) * width;
                const V ar = S::load(xr + in), ai = S::load(xi + in);
                const V br = S::load(xr + in + step), bi = S::load(xi + in + step);
                const V er = ar - br, ei = ai - bi;
                S::store(yr + out, ar + br);
                S::store(yi + out, ai + bi);
                S::store(yr + out + s * width, er * c - ei * d);
                S::store(yi + out + s * width, er * d + ei * c);
            }
        }
    }

    static void radix3(int length, int s, const T* xr, const T* xi, T* yr, T* yi, const T* tw) {
        const int m = length / 3;
        const std::size_t step = static_cast<std::size_t>(s) * m * width;
        const T half = T(0.5), root3 = static_cast<T>(std::numbers::sqrt3_v<long double> / 2);
        for (int q = 0; q < m; ++q, tw += 4) {
            const T c1 = tw[0], d1 = tw[1], c2 = tw[2], d2 = tw[3];
            for (int j = 0; j < s; ++j) {
                const std::size_t in = (static_cast<std::size_t>(s) * q + j) * width;
                const std::size_t out = (static_cast<std::size_t>(s) * 3 * q + j) * width;
                const V ar = S::load(xr + in), ai = S::load(xi + in);
                const V br = S::load(xr + in + step), bi = S::load(xi + in + step);
                const V cr = S::load(xr + in + 2 * step), ci = S::load(xi + in + 2 * step);
                const V tr = br + cr, ti = bi + ci;
                const V mr = ar - tr * half, mi = ai - ti * half;
                const V kr = (bi - ci) * root3, ki = (cr - br) * root3;
                const V ur = mr + kr, ui = mi + ki, vr = mr - kr, vi = mi - ki;
                S::store(yr + out, ar + tr);
                S::store(yi + out, ai + ti);
                S::store(yr + out + s * width, ur * c1 - ui * d1);
                S::store(yi + out + s * width, ur * d1 + ui * c1);
                S::store(yr + out + 2 * s * width, vr * c2 - vi * d2);
                S::store(yi + out + 2 * s * width, vr * d2 + vi * c2);
            }
        }
    }

    static void radix4(int length, int s, const T* xr, const T* xi, T* yr, T* yi, const T* tw) {
        const int m = length / 4;
        const std::size_t step = static_cast<std::size_t>(s) * m * width;
        for (int q = 0; q < m; ++q, tw += 6) {
            const T c1 = tw[0], d1 = tw[1], c2 = tw[2], d2 = tw[3], c3 = tw[4], d3 = tw[5];
            for (int j = 0; j < s; ++j) {
                const std::size_t in = (static_cast<std::size_t>(s) * q + j) * width;
                const std::size_t out = (static_cast<std::size_t>(s) * 4 * q + j) * width;
                const V ar = S::load(xr + in), ai = S::load(xi + in);
                const V br = S::load(xr + in + step), bi = S::load(xi + in + step);
                const V cr = S::load(xr + in + 2 * step), ci = S::load(xi + in + 2 * step);
                const V dr = S::load(xr + in + 3 * step), di = S::load(xi + in + 3 * step);
                const V acr = ar + cr, aci = ai + ci, amr = ar - cr, ami = ai - ci;
                const V bdr = br + dr, bdi = bi + di;
                const V jr = bi - di, ji = dr - br;  // -i (b - d)
                const V ur = amr + jr, ui = ami + ji, vr = acr - bdr, vi = aci - bdi;
                const V wr = amr - jr, wi = ami - ji;
                S::store(yr + out, acr + bdr);
                S::store(yi + out, aci + bdi);
                S::store(yr + out + s * width, ur * c1 - ui * d1);
                S::store(yi + out + s * width, ur * d1 + ui * c1);
                S::store(yr + out + 2 * s * width, vr * c2 - vi * d2);
                S::store(yi + out + 2 * s * width, vr * d2 + vi * c2);
                S::store(yr + out + 3 * s * width, wr * c3 - wi * d3);
                S::store(yi + out + 3 * s * width, wr * d3 + wi * c3);
            }
        }
    }

    static void radix5(int length, int s, const T* xr, const T* xi, T* yr, T* yi, const T* tw) {
        const int m = length / 5;
        const std::size_t step = static_cast<std::size_t>(s) * m * width;
        T a1, b1, a2, b2;
        root<T>(1, 5, a1, b1);
        root<T>(2, 5, a2, b2);
        for (int q = 0; q < m; ++q, tw += 8) {
            for (int j = 0; j < s; ++j) {
                const std::size_t in = (static_cast<std::size_t>(s) * q + j) * width;
                const std::size_t out = (static_cast<std::size_t>(s) * 5 * q + j) * width;
                const V x0r = S::load(xr + in), x0i = S::load(xi + in);
                const V x1r = S::load(xr + in + step), x1i = S::load(xi + in + step);
                const V x2r = S::load(xr + in + 2 * step), x2i = S::load(xi + in + 2 * step);
                const V x3r = S::load(xr + in + 3 * step), x3i = S::load(xi + in + 3 * step);
                const V x4r = S::load(xr + in + 4 * step), x4i = S::load(xi + in + 4 * step);
                const V p1r = x1r + x4r, p1i = x1i + x4i, m1r = x1r - x4r, m1i = x1i - x4i;
                const V p2r = x2r + x3r, p2i = x2i + x3i, m2r = x2r - x3r, m2i = x2i - x3i;
                const V e1r = x0r + p1r * a1 + p2r * a2, e1i = x0i + p1i * a1 + p2i * a2;
                const V e2r = x0r + p1r * a2 + p2r * a1, e2i = x0i + p1i * a2 + p2i * a1;
                const V o1r = m1i * b1 + m2i * b2, o1i = -(m1r * b1 + m2r * b2);
                const V o2r = m1i * b2 - m2i * b1, o2i = -(m1r * b2 - m2r * b1);
                S::store(yr + out, x0r + p1r + p2r);
                S::store(yi + out, x0i + p1i + p2i);
                twisted(yr, yi, out + s * width, e1r + o1r, e1i + o1i, tw);
                twisted(yr, yi, out + 2 * s * width, e2r + o2r, e2i + o2i, tw + 2);
                twisted(yr, yi, out + 3 * s * width, e2r - o2r, e2i - o2i, tw + 4);
                twisted(yr, yi, out + 4 * s * width, e1r - o1r, e1i - o1i, tw + 6);
            }
        }
    }

    static void twisted(T* yr, T* yi, std::size_t at, V re, V im, const T* w) {
        S::store(yr + at, re * w[0] - im * w[1]);
        S::store(yi + at, re * w[1] + im * w[0]);
    }

    // Any odd prime p; outputs u and p - u share their cosine and sine sums.
    void radix_odd(int p, std::size_t pass, int length, int s, const T* xr, const T* xi, T* yr,
                   T* yi, const T* tw) const {
        const int m = length / p, half = (p - 1) / 2;
        const std::size_t step = static_cast<std::size_t>(s) * m * width;
        const T *cosines = cos_[pass].data(), *sines = sin_[pass].data();
        std::vector<V> sums(4 * half);
        V *pr = sums.data(), *pi = pr + half, *mr = pi + half, *mi = mr + half;
        for (int q = 0; q < m; ++q, tw += 2 * (p - 1)) {
            for (int j = 0; j < s; ++j) {
                const std::size_t in = (static_cast<std::size_t>(s) * q + j) * width;
                const std::size_t out = (static_cast<std::size_t>(s) * p * q + j) * width;
                const V x0r = S::load(xr + in), x0i = S::load(xi + in);
                V total_r = x0r, total_i = x0i;
                for (int t = 1; t <= half; ++t) {
                    const std::size_t a = in + t * step, b = in + (p - t) * step;
                    const V ar = S::load(xr + a), ai = S::load(xi + a);
                    const V br = S::load(xr + b), bi = S::load(xi + b);
                    pr[t - 1] = ar + br, pi[t - 1] = ai + bi;
                    mr[t - 1] = ar - br, mi[t - 1] = ai - bi;
                    total_r += pr[t - 1], total_i += pi[t - 1];
                }
                S::store(yr + out, total_r);
                S::store(yi + out, total_i);
                int u = 1;
                for (; u + 1 <= half; u += 2)
                    odd_outputs<2>(p, u, half, x0r, x0i, sums.data(), cosines, sines, s, out, yr, yi, tw);
                if (u <= half)
                    odd_outputs<1>(p, u, half, x0r, x0i, sums.data(), cosines, sines, s, out, yr, yi, tw);
            }
        }
    }

    // Outputs u .. u + count - 1 and their mirrors; two at a time share the loads of `sums`.
    template <int count>
    static void odd_outputs(int p, int u, int half, V x0r, V x0i, const V* sums, const T* cosines,
                            const T* sines, int s, std::size_t out, T* yr, T* yi, const T* tw) {
        const V *pr = sums, *pi = pr + half, *mr = pi + half, *mi = mr + half;
        V er[count], ei[count], fr[count], fi[count];
        int k[count];
        for (int v = 0; v < count; ++v) {
            er[v] = x0r, ei[v] = x0i, fr[v] = fi[v] = S::zero();
            k[v] = u + v;
        }
        for (int t = 0; t < half; ++t)
            for (int v = 0; v < count; ++v) {
                const T c = cosines[k[v]], d = sines[k[v]];
                er[v] += pr[t] * c, ei[v] += pi[t] * c;
                fr[v] += mi[t] * d, fi[v] -= mr[t] * d;
                k[v] += u + v;
                k[v] -= k[v] >= p ? p : 0;
            }
        for (int v = 0; v < count; ++v) {
            const int at = u + v;
            twisted(yr, yi, out + at * s * width, er[v] + fr[v], ei[v] + fi[v], tw + 2 * (at - 1));
            twisted(yr, yi, out + (p - at) * s * width, er[v] - fr[v], ei[v] - fi[v],
                    tw + 2 * (p - at - 1));
        }
    }

    // X[k] = w[k] sum_x (x[x] w[x]) conj(w)[k - x], w[x] = exp(-i pi x^2 / n).
    void make_chirp() {
        const int padded = inner_->n_;
        chirp_re_.resize(n_), chirp_im_.resize(n_);
        std::vector<T> br(padded * width, T(0)), bi(padded * width, T(0));
        for (std::int64_t x = 0; x < n_; ++x) {
            T c, s;
            root<T>(x * x % (2 * static_cast<std::int64_t>(n_)), 2 * static_cast<std::int64_t>(n_),
                    c, s);
            chirp_re_[x] = c, chirp_im_[x] = -s;
            for (std::size_t lane = 0; lane < width; ++lane) {
                br[x * width + lane] = c / padded, bi[x * width + lane] = s / padded;
                if (x) {
                    br[(padded - x) * width + lane] = c / padded;
                    bi[(padded - x) * width + lane] = s / padded;
                }
            }
        }
        std::vector<T> sr(inner_->scratch() * width), si(inner_->scratch() * width);
        inner_->forward(br.data(), bi.data(), sr.data(), si.data());
        kernel_re_.resize(padded), kernel_im_.resize(padded);
        for (int k = 0; k < padded; ++k) kernel_re_[k] = br[k * width], kernel_im_[k] = bi[k * width];
    }

    void bluestein(T* re, T* im, T* sre, T* sim) const {
        const int padded = inner_->n_;
        T *ar = sre, *ai = sim;
        T *inner_r = sre + padded * width, *inner_i = sim + padded * width;
        multiply(re, im, chirp_re_.data(), chirp_im_.data(), ar, ai, n_);
        std::memset(ar + n_ * width, 0, sizeof(T) * width * (padded - n_));
        std::memset(ai + n_ * width, 0, sizeof(T) * width * (padded - n_));
        inner_->forward(ar, ai, inner_r, inner_i);
        multiply(ar, ai, kernel_re_.data(), kernel_im_.data(), ar, ai, padded);
        inner_->forward(ai, ar, inner_i, inner_r);
        multiply(ar, ai, chirp_re_.data(), chirp_im_.data(), re, im, n_);
    }

    static void multiply(const T* xr, const T* xi, const T* wr, const T* wi, T* yr, T* yi, int n) {
        for (int x = 0; x < n; ++x) {
            const V a = S::load(xr + x * width), b = S::load(xi + x * width);
            S::store(yr + x * width, a * wr[x] - b * wi[x]);
            S::store(yi + x * width, a * wi[x] + b * wr[x]);
        }
    }
};

// The plan of the last length asked for: making one takes as long as some tens of transforms.
template <class T>
std::shared_ptr<const Plan<T>> shared_plan(int n) {
    static std::mutex mutex;
    static std::shared_ptr<const Plan<T>> last;
    const std::lock_guard lock(mutex);
    if (!last || last->size() != n) last = std::make_shared<const Plan<T>>(n);
    return last;
}

}  // namespace rsafast::fft
