// Orbit products on a GPU: circulant diagonals, and the change of order around cuFFT and cuBLAS.
// See gpu.py for the whole of it.

// out[row, d - 1, x] = A_m[g_k(x), g_k(x + d)] of row k * matrices + m on the permuted side, and on the
// fixed side out[d - 1, row, x] = w_d times that, with w = 1, but 1/2 for d = n / 2, a diagonal that is
// met twice: the two orders in which the products over d read them.
template <class T>
__device__ void diagonals(const T* __restrict__ stack, const int* __restrict__ relabelings,
                          T* __restrict__ out, int n, int matrices, int fixed) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    if (x >= n) return;
    const int d = blockIdx.y + 1, half = n / 2;
    const long long row = blockIdx.z;
    const int* g = relabelings + row / matrices * n;
    const T* matrix = stack + row % matrices * n * n;
    const int y = x + d < n ? x + d : x + d - n;
    const T weight = fixed && 2 * d == n ? T(0.5) : T(1);
    const long long to = fixed ? static_cast<long long>(d - 1) * gridDim.z + row : row * half + d - 1;
    out[to * n + x] = weight * matrix[static_cast<long long>(g[x]) * n + g[y]];
}

extern "C" __global__ void orbit_diagonals_f32(const float* stack, const int* relabelings, float* out,
                                               int n, int matrices, int fixed) {
    diagonals(stack, relabelings, out, n, matrices, fixed);
}

extern "C" __global__ void orbit_diagonals_f64(const double* stack, const int* relabelings, double* out,
                                               int n, int matrices, int fixed) {
    diagonals(stack, relabelings, out, n, matrices, fixed);
}

// out[c, r] = in[r, c] for complex values, 32 x 32 at a time, so that both sides are read and written
// along their rows. The tile is a column wider than it need be: no two lanes meet in a bank.
template <class T>
__device__ void transpose(const T* __restrict__ in, T* __restrict__ out, long long rows,
                          long long columns, T (*tile)[33]) {
    const long long r0 = 32LL * blockIdx.x, c0 = 32LL * blockIdx.y;
    for (int k = threadIdx.y; k < 32; k += blockDim.y)
        if (r0 + k < rows && c0 + threadIdx.x < columns)
            tile[k][threadIdx.x] = in[(r0 + k) * columns + c0 + threadIdx.x];
    __syncthreads();
    for (int k = threadIdx.y; k < 32; k += blockDim.y)
        if (c0 + k < columns && r0 + threadIdx.x < rows)
            out[(c0 + k) * rows + r0 + threadIdx.x] = tile[threadIdx.x][k];
}

extern "C" __global__ void orbit_transpose_c64(const float2* in, float2* out, long long rows,
                                               long long columns) {
    __shared__ float2 tile[32][33];
    transpose(in, out, rows, columns, tile);
}

extern "C" __global__ void orbit_transpose_c128(const double2* in, double2* out, long long rows,
                                                long long columns) {
    __shared__ double2 tile[32][33];
    transpose(in, out, rows, columns, tile);
}
