// Direct products under given permutations on a GPU: see __init__.py.

#include "../block.cuh"

namespace {

constexpr int threads = 128, warps = threads / 32;
constexpr int most_staged = 5760;  // values of rows in shared memory: 45 kB

// out[m, k, p] = sum over x < y of a[m, pi_p(x), pi_p(y)] b[k, x, y].
//
// A block of threads takes P permutations of model m = blockIdx.y and the brain RDMs from
// B * blockIdx.z. Rows pi(x) of the model are read along their length into shared memory, and
// permuted there; a row of a brain RDM is read once for all P.
template <int P, int B>
__device__ void staged(const double* __restrict__ a, const double* __restrict__ b,
                       const int* __restrict__ permutations, double* __restrict__ out, int n, int brains,
                       long long count, double* rows, double* shared) {
    const long long first = static_cast<long long>(blockIdx.x) * P, m = blockIdx.y;
    const int k0 = blockIdx.z * B;
    const double* model = a + m * n * n;
    double sums[P][B] = {};
    for (int x = 0; x < n - 1; ++x) {
        __syncthreads();  // the rows before have been read
        for (int p = 0; p < P; ++p) {
            if (first + p >= count) break;
            const long long row = permutations[(first + p) * n + x];
            for (int y = threadIdx.x; y < n; y += threads) rows[p * n + y] = model[row * n + y];
        }
        __syncthreads();
        for (int y = x + 1 + threadIdx.x; y < n; y += threads) {
            double fixed[B];
            for (int k = 0; k < B; ++k)
                fixed[k] = k0 + k < brains ? b[(static_cast<long long>(k0 + k) * n + x) * n + y] : 0.0;
            for (int p = 0; p < P; ++p) {
                if (first + p >= count) break;
                const double moved = rows[p * n + permutations[(first + p) * n + y]];
                for (int k = 0; k < B; ++k) sums[p][k] += moved * fixed[k];
            }
        }
    }
    for (int p = 0; p < P; ++p)
        for (int k = 0; k < B; ++k) {
            const double sum = over_block<warps>(sums[p][k], shared);
            if (threadIdx.x == 0 && first + p < count && k0 + k < brains)
                out[(m * brains + k0 + k) * count + first + p] = sum;
        }
}

}  // namespace

// For n up to 1440, 5760 and any n.
extern "C" __global__ void __launch_bounds__(128)
gather_products_4(const double* a, const double* b, const int* permutations, double* out, int n,
                  int brains, long long count) {
    __shared__ double rows[most_staged], shared[warps];
    staged<4, 4>(a, b, permutations, out, n, brains, count, rows, shared);
}

extern "C" __global__ void __launch_bounds__(128)
gather_products_1(const double* a, const double* b, const int* permutations, double* out, int n,
                  int brains, long long count) {
    __shared__ double rows[most_staged], shared[warps];
    staged<1, 4>(a, b, permutations, out, n, brains, count, rows, shared);
}

extern "C" __global__ void __launch_bounds__(128)
gather_products_any(const double* a, const double* b, const int* permutations, double* out, int n,
                    int brains, long long count) {
    __shared__ double shared[warps];
    const long long p = blockIdx.x, m = blockIdx.y, k = blockIdx.z;
    const int* pi = permutations + p * n;
    double sum = 0;
    for (int x = 0; x < n - 1; ++x) {
        const double* row = a + (m * n + pi[x]) * n;
        const double* fixed = b + (k * n + x) * n;
        for (int y = x + 1 + threadIdx.x; y < n; y += threads) sum += row[pi[y]] * fixed[y];
    }
    sum = over_block<warps>(sum, shared);
    if (threadIdx.x == 0) out[(m * brains + k) * count + p] = sum;
}
