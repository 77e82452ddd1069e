// STDP of sparse spike trains. One side is walked event by event; each event adds, for every kernel
// offset, the filtered train of the other side at the position that the offset connects it to:
//
//     out[g, s, k, :] += value(event) * z[t, n, position(k), g, :]
//
// 1. A block of samples is filtered along time into z, channels last, a tile of positions at a time.
// 2. The events of one channel are listed once for the block.
// 3. For each kernel offset the list is turned into rows of z, and those are summed in registers.
// A block is small enough for z to stay in the second-level cache; a sample too long for that is
// walked in pieces of time.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "registry.hpp"
#include "simd.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

namespace nb = nanobind;
using rsafast::Array;
using V = rsafast::Simd<float>;
using Index = std::ptrdiff_t;

constexpr Index cache_floats = 64 * 1024;  // 256 kB of a second-level cache of 512 kB
constexpr Index tile = 16;                 // positions filtered together: one cache line of a map

struct Trace {
    float past, past_decay, now, future, future_decay;
    bool nearest;
};

struct Event {
    std::int32_t step;  // row of z at position 0 of this sample and time step
    std::uint16_t row, column;
    float value;
};

struct Layer {
    Index steps, samples, groups, walked, other;  // channels a group
    Index height, width;                          // of the walked map
    Index other_size;                             // positions of the other map
    Index kh, kw, stride;                         // stride: floats of one row of z
    const std::int32_t *rows, *columns;           // (kh, height), (kw, width) -> the part of the
                                                  // other position, negative where there is none
    Index offsets() const { return kh * kw; }
    Index sums() const { return walked * offsets() * stride; }
};

struct Scratch {
    std::vector<float> z, raw, state;
    std::vector<Event> events;
    std::vector<std::int32_t> row;
    std::vector<float> value;
};

// z[(t, position, channel)] for one sample of one group: from (T, N, C, P) to channels last.
void filter(const float* train, const Layer& l, const Trace& trace, Index sample, Index group,
            float* z, Scratch& scratch) {
    const Index step = l.samples * l.groups * l.other * l.other_size, row = l.stride;
    const float* first = train + (sample * l.groups + group) * l.other * l.other_size;
    scratch.raw.assign(l.steps * tile * row, 0.0f);
    for (Index p0 = 0; p0 < l.other_size; p0 += tile) {
        const Index count = std::min(tile, l.other_size - p0), width = count * row;
        for (Index t = 0; t < l.steps; ++t)
            for (Index c = 0; c < l.other; ++c) {
                const float* from = first + t * step + c * l.other_size + p0;
                float* to = scratch.raw.data() + t * tile * row + c;
                for (Index p = 0; p < count; ++p) to[p * row] = from[p];
            }
        const auto raw = [&](Index t) { return scratch.raw.data() + t * tile * row; };
        const auto out = [&](Index t) { return z + (t * l.other_size + p0) * row; };
        scratch.state.assign(width, 0.0f);
        float* state = scratch.state.data();
        for (Index t = 0; t < l.steps; ++t) {
            const float* s = raw(t);
            float* o = out(t);
            if (trace.nearest)
                for (Index i = 0; i < width; ++i) {
                    const bool spike = s[i] != 0.0f;
                    const float seen = trace.past * (state[i] * trace.past_decay);
                    o[i] = spike && trace.now != 0.0f ? trace.now * s[i] : seen;
                    state[i] = spike ? s[i] : state[i] * trace.past_decay;
                }
            else
                for (Index i = 0; i < width; ++i) {
                    state[i] *= trace.past_decay;
                    o[i] = trace.past * state[i] + trace.now * s[i];
                    state[i] += s[i];
                }
        }
        if (trace.future == 0.0f) continue;
        std::fill(state, state + width, 0.0f);
        for (Index t = l.steps; t-- > 0;) {
            const float* s = raw(t);
            float* o = out(t);
            for (Index i = 0; i < width; ++i) {
                state[i] *= trace.future_decay;
                o[i] += trace.future * state[i];
                state[i] += s[i];
            }
        }
    }
}

// sum[0 .. vectors) += value[e] * z[row[e]]
template <int vectors>
void gather(const float* z, Index stride, const std::int32_t* row, const float* value, Index count,
            float* sum) {
    typename V::type acc[vectors];
    for (int v = 0; v < vectors; ++v) acc[v] = V::load(sum + v * V::width);
    for (Index e = 0; e < count; ++e) {
        const float* from = z + row[e] * stride;
        for (int v = 0; v < vectors; ++v) acc[v] += value[e] * V::load(from + v * V::width);
    }
    for (int v = 0; v < vectors; ++v) V::store(sum + v * V::width, acc[v]);
}

void gather_row(const float* z, Index stride, const std::int32_t* row, const float* value,
                Index count, float* sum) {
    Index v = 0;
    constexpr Index w = V::width;
    for (; v + 8 * w <= stride; v += 8 * w) gather<8>(z + v, stride, row, value, count, sum + v);
    for (; v + 4 * w <= stride; v += 4 * w) gather<4>(z + v, stride, row, value, count, sum + v);
    for (; v < stride; v += w) gather<1>(z + v, stride, row, value, count, sum + v);
}

// List the events of one channel in samples [first, last) and steps [t0, t1).
void list_events(const float* train, const Layer& l, Index first, Index last, Index t0, Index t1,
                 Index channel, Scratch& scratch) {
    const Index size = l.height * l.width;
    // One more: the candidate that turns out to be no spike is written, too.
    scratch.events.resize((t1 - t0) * (last - first) * size + 1);
    Event* events = scratch.events.data();
    Index count = 0;
    for (Index n = first; n < last; ++n)
        for (Index t = t0; t < t1; ++t) {
            const float* map = train + ((t * l.samples + n) * l.groups * l.walked + channel) * size;
            const auto step = static_cast<std::int32_t>(((n - first) * l.steps + t) * l.other_size);
            for (Index y = 0; y < l.height; ++y, map += l.width)
                for (Index x = 0; x < l.width; ++x) {
                    events[count] = {step, static_cast<std::uint16_t>(y),
                                     static_cast<std::uint16_t>(x), map[x]};
                    count += map[x] != 0.0f;
                }
        }
    scratch.events.resize(count);
}

// Add the rows of z that the listed events meet to sums[(offset, channel)].
void walk(const float* z, const Layer& l, float* sums, Scratch& scratch) {
    scratch.row.resize(scratch.events.size() + 1);
    scratch.value.resize(scratch.events.size() + 1);
    std::int32_t* row = scratch.row.data();
    float* value = scratch.value.data();
    for (Index a = 0; a < l.kh; ++a)
        for (Index b = 0; b < l.kw; ++b, sums += l.stride) {
            const std::int32_t *rows = l.rows + a * l.height, *columns = l.columns + b * l.width;
            Index count = 0;
            for (const Event& e : scratch.events) {
                const std::int32_t r = rows[e.row], c = columns[e.column];
                row[count] = e.step + r + c;
                value[count] = e.value;
                count += (r | c) >= 0;
            }
            gather_row(z, l.stride, row, value, count, sums);
        }
}

void sum_block(const float* events, const float* other, const Layer& l, const Trace& trace,
               Index first, Index last, Index group, float* sums, Scratch& scratch) {
    const Index per_step = l.other_size * l.stride, per_sample = l.steps * per_step;
    scratch.z.resize((last - first) * per_sample);
    for (Index n = first; n < last; ++n)
        filter(other, l, trace, n, group, scratch.z.data() + (n - first) * per_sample, scratch);
    const Index piece = last - first > 1 ? l.steps
                                         : std::clamp(cache_floats / per_step, Index{1}, l.steps);
    for (Index t = 0; t < l.steps; t += piece)
        for (Index c = 0; c < l.walked; ++c) {
            list_events(events, l, first, last, t, std::min(t + piece, l.steps),
                        group * l.walked + c, scratch);
            walk(scratch.z.data(), l, sums + c * l.offsets() * l.stride, scratch);
        }
}

// events (T, N, G * walked, H * W), other (T, N, G * others, P), rows (kh, H), columns (kw, W),
// out (G, walked, kh * kw, others).
void pair_sum(Array<const float> events, Array<const float> other, float past, float past_decay,
              float now, float future, float future_decay, bool nearest,
              Array<const std::int32_t> rows, Array<const std::int32_t> columns, Array<float> out,
              int threads) {
    const auto size = [](const auto& array, int axis) {
        return static_cast<Index>(array.shape(axis));
    };
    const Layer l{size(events, 0), size(events, 1), size(out, 0), size(out, 1), size(out, 3),
                  size(rows, 1), size(columns, 1), size(other, 3), size(rows, 0), size(columns, 0),
                  static_cast<Index>(rsafast::round_up(size(out, 3), V::width)),
                  rows.data(), columns.data()};
    const Trace trace{past, past_decay, now, future, future_decay, nearest};
    nb::gil_scoped_release release;
    const Index workers = std::max(threads, 1);
    const Index share = (l.samples + workers - 1) / workers;
    const Index fitting = cache_floats / std::max(l.steps * l.other_size * l.stride, Index{1});
    const Index block = std::max(std::min(fitting, share), Index{1});
    const Index blocks = (l.samples + block - 1) / block, total = l.groups * l.sums();
    std::vector<std::unique_ptr<float[]>> partial(workers);
#if defined(_OPENMP)
#pragma omp parallel num_threads(workers)
#endif
    {
#if defined(_OPENMP)
        const int me = omp_get_thread_num();
#else
        const int me = 0;
#endif
        Scratch scratch;
#if defined(_OPENMP)
#pragma omp for schedule(static)
#endif
        for (Index task = 0; task < blocks * l.groups; ++task) {
            if (!partial[me]) partial[me].reset(new float[total]());
            const Index group = task / blocks, first = task % blocks * block;
            sum_block(events.data(), other.data(), l, trace, first,
                      std::min(first + block, l.samples), group,
                      partial[me].get() + group * l.sums(), scratch);
        }
        const Index channels = size(out, 3), lines = l.groups * l.walked * l.offsets();
#if defined(_OPENMP)
#pragma omp for schedule(static)
#endif
        for (Index line = 0; line < lines; ++line)
            for (Index c = 0; c < channels; ++c) {
                float sum = 0.0f;
                for (const auto& part : partial)
                    if (part) sum += part[line * l.stride + c];
                out.data()[line * channels + c] = sum;
            }
    }
}

}  // namespace

RSAFAST_KERNEL(stdp) {
    m.def("stdp_pair_sum", &pair_sum, nb::arg("events").noconvert(), nb::arg("other").noconvert(),
          nb::arg("past"), nb::arg("past_decay"), nb::arg("now"), nb::arg("future"),
          nb::arg("future_decay"), nb::arg("nearest"), nb::arg("rows").noconvert(),
          nb::arg("columns").noconvert(), nb::arg("out").noconvert(), nb::arg("threads"));
}
