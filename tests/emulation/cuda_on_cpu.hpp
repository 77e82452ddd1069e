// Enough of CUDA's language to run the kernels of this project on a CPU, to test them without a GPU.
//
// One block runs at a time; its threads are fibers that give way at barriers and warp operations.
// Between two barriers they run in a random order, so that a missing barrier shows as a wrong
// answer; shared memory starts as NaN, so that reading it unwritten does too. Compiled with
// -fsanitize=address, reads and writes outside an array stop the program.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("cuda_shared")))

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct float2 {
    float x, y;
};
struct double2 {
    double x, y;
};

static dim3 gridDim, blockDim, blockIdx, threadIdx;
constexpr int warpSize = 32;

extern "C" {
extern char __start_cuda_shared[] __attribute__((weak));
extern char __stop_cuda_shared[] __attribute__((weak));
}

namespace emulation {

enum class State { ready, at_barrier, at_warp, done };

struct Fiber {
    ucontext_t context;  // to start with
    jmp_buf place;       // to go on with: far quicker, as no signal mask is kept
    std::vector<char> stack;
    bool started = false;
    State state = State::ready;
    unsigned slot[2][2];  // [operation, alternating][half of a 64-bit value]
    unsigned operations = 0;
};

inline std::vector<Fiber> fibers;
inline std::size_t current = 0;
inline ucontext_t unused;
inline jmp_buf scheduler;
inline std::function<void()> body;
inline std::mt19937 order{12345};

inline void place(std::size_t thread) {
    current = thread;
    threadIdx = {unsigned(thread % blockDim.x), unsigned(thread / blockDim.x % blockDim.y),
                 unsigned(thread / blockDim.x / blockDim.y)};
}

inline void give_way(State state) {
    const std::size_t self = current;
    fibers[self].state = state;
    if (!_setjmp(fibers[self].place)) _longjmp(scheduler, 1);
    place(self);
}

inline void fiber_main() {
    body();
    fibers[current].state = State::done;
    _longjmp(scheduler, 1);
}

inline void go_on(Fiber& fiber) {
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    swapcontext(&unused, &fiber.context);
}

// Lets threads go on that wait for each other: the lanes of a warp, or all threads of the block.
inline bool release() {
    bool any = false;
    for (std::size_t first = 0; first < fibers.size(); first += warpSize) {
        const std::size_t last = std::min(fibers.size(), first + warpSize);
        bool waiting = false, ready = true;
        for (std::size_t t = first; t < last; ++t) {
            waiting |= fibers[t].state == State::at_warp;
            ready &= fibers[t].state == State::at_warp || fibers[t].state == State::done;
        }
        if (!waiting || !ready) continue;
        for (std::size_t t = first; t < last; ++t)
            if (fibers[t].state == State::at_warp) fibers[t].state = State::ready;
        any = true;
    }
    if (any) return true;
    for (const Fiber& fiber : fibers)
        if (fiber.state == State::at_warp) {
            std::fprintf(stderr, "threads of a warp wait at different places\n");
            std::abort();
        }
    for (Fiber& fiber : fibers)
        if (fiber.state == State::at_barrier) fiber.state = State::ready, any = true;
    return any;
}

inline void run_block() {
    if (__start_cuda_shared) std::memset(__start_cuda_shared, 0xff, __stop_cuda_shared - __start_cuda_shared);
    for (Fiber& fiber : fibers) {
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        fiber.state = State::ready;
        fiber.started = false;
        fiber.operations = 0;
        makecontext(&fiber.context, fiber_main, 0);
    }
    std::vector<std::size_t> turns(fibers.size());
    for (std::size_t t = 0; t < turns.size(); ++t) turns[t] = t;
    do {
        std::shuffle(turns.begin(), turns.end(), order);
        for (std::size_t t : turns)
            if (fibers[t].state == State::ready) {
                place(t);
                go_on(fibers[t]);
            }
    } while (release());
}

template <class... A, std::size_t... I>
void launch(void (*kernel)(A...), dim3 grid, dim3 block, void** arguments, std::index_sequence<I...>) {
    gridDim = grid, blockDim = block;
    fibers.resize(std::size_t(block.x) * block.y * block.z);
    for (Fiber& fiber : fibers) fiber.stack.resize(1 << 16);
    body = [=] { kernel(*static_cast<std::decay_t<A>*>(arguments[I])...); };
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) run_block();
}

template <class... A>
void launch(void (*kernel)(A...), dim3 grid, dim3 block, void** arguments) {
    launch(kernel, grid, block, arguments, std::index_sequence_for<A...>());
}

// What a kernel takes: for a pointer minus the size of what it points to, else the size.
template <class T>
int describe() {
    if constexpr (std::is_pointer_v<T>)
        return -int(sizeof(std::remove_pointer_t<T>));
    else
        return int(sizeof(T));
}

template <class... A>
int describe(void (*)(A...), int* out) {
    const int found[] = {describe<A>()...};
    std::copy(found, found + sizeof...(A), out);
    return sizeof...(A);
}

// Every lane leaves its value where the others of its warp find it once all have.
template <class T>
T exchange(T value, int lane) {
    static_assert(sizeof(T) <= 8);
    Fiber& self = fibers[current];
    const unsigned which = self.operations++ % 2;
    std::memcpy(self.slot[which], &value, sizeof(T));
    const std::size_t warp = current / warpSize * warpSize;
    give_way(State::at_warp);
    const std::size_t from = warp + lane;
    if (lane < 0 || lane >= warpSize || from >= fibers.size()) return value;
    T found;
    std::memcpy(&found, fibers[from].slot[which], sizeof(T));
    return found;
}

inline int lane() { return int(current % warpSize); }

}  // namespace emulation

inline void __syncthreads() { emulation::give_way(emulation::State::at_barrier); }
inline void __syncwarp(unsigned = ~0u) { emulation::give_way(emulation::State::at_warp); }

template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
    return emulation::exchange(value, emulation::lane() + int(delta));
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned delta) {
    return emulation::exchange(value, emulation::lane() - int(delta));
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulation::exchange(value, emulation::lane() ^ mask);
}
template <class T>
T __shfl_sync(unsigned, T value, int source) {
    return emulation::exchange(value, source);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
    using namespace emulation;
    Fiber& self = fibers[current];
    const unsigned which = self.operations++ % 2;
    self.slot[which][0] = predicate != 0;
    const std::size_t warp = current / warpSize * warpSize;
    give_way(State::at_warp);
    unsigned found = 0;
    for (std::size_t k = 0; k < warpSize && warp + k < fibers.size(); ++k)
        if (fibers[warp + k].operations >= self.operations)  // else it had ended before
            found |= (fibers[warp + k].slot[which][0] & 1u) << k;
    return found;
}

template <class T, class U>
T atomicAdd(T* to, U value) {
    const T before = *to;
    *to += T(value);
    return before;
}
template <class T>
T atomicMax(T* to, T value) {
    const T before = *to;
    *to = std::max(before, value);
    return before;
}
template <class T>
T __ldg(const T* from) {
    return *from;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
using std::max;
using std::min;
