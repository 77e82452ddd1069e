// What CUDA kernels of several operations do with a block of threads.
#pragma once

// Sum over a block of 32 * warps threads, in a fixed order, for every thread; `shared` holds a value
// a warp.
template <int warps, class V>
__device__ V over_block(V value, V* shared) {
    for (int step = 16; step; step /= 2) value += __shfl_down_sync(~0u, value, step);
    __syncthreads();  // what the call before left there has been read
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    V sum = shared[0];
    for (int w = 1; w < warps; ++w) sum += shared[w];
    return sum;
}
