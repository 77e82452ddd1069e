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
#include <bit>
#include <cstdint>
#include <cstring>
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
    std::vector<std::uint16_t> columns;
    std::vector<std::int32_t> row;
    std::vector<float> value;
};

// One time step of the trace of the past: z = past * state + now * spikes.
void step_past(const float* __restrict spikes, float* __restrict state, float* __restrict z,
               Index width, const Trace trace) {
    for (Index i = 0; i < width; ++i) {
        const float seen = state[i] * trace.past_decay;
        z[i] = trace.past * seen + trace.now * spikes[i];
        state[i] = seen + spikes[i];
    }
}

// The same with only the last spike in mind; one at this very step is seen where `now` counts.
void step_nearest(const float* __restrict spikes, float* __restrict state, float* __restrict z,
                  Index width, const Trace trace) {
    const bool tie = trace.now != 0.0f;
    for (Index i = 0; i < width; ++i) {
        const float seen = state[i] * trace.past_decay, s = spikes[i];
        z[i] = tie && s != 0.0f ? trace.now * s : trace.past * seen;
        state[i] = s != 0.0f ? s : seen;
    }
}

void step_future(const float* __restrict spikes, float* __restrict state, float* __restrict z,
                 Index width, const Trace trace) {
    for (Index i = 0; i < width; ++i) {
        const float seen = state[i] * trace.future_decay;
        z[i] += trace.future * seen;
        state[i] = seen + spikes[i];
    }
}

typedef float Four __attribute__((vector_size(16)));

void transpose4(const float* from, Index from_stride, float* to, Index to_stride) {
    Four a, b, c, d;
    std::memcpy(&a, from, sizeof a);
    std::memcpy(&b, from + from_stride, sizeof b);
    std::memcpy(&c, from + 2 * from_stride, sizeof c);
    std::memcpy(&d, from + 3 * from_stride, sizeof d);
    const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    const Four cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const Four ef = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const Four gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    const Four out[4] = {
        __builtin_shufflevector(ab, cd, 0, 1, 4, 5), __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
        __builtin_shufflevector(ef, gh, 0, 1, 4, 5), __builtin_shufflevector(ef, gh, 2, 3, 6, 7)};
    for (int p = 0; p < 4; ++p) std::memcpy(to + p * to_stride, &out[p], sizeof out[p]);
}

// to[(position, channel)] = from[(channel, position)], `count` positions of one tile. Each channel is
// one cache line, far from the last: those `ahead` are asked for early (into the second level, since
// a power of two between them fills but few sets of the first).
void transpose(const float* from, Index from_stride, float* to, Index to_stride, Index channels,
               Index count, const float* ahead) {
    for (Index c = 0; c < channels; ++c) __builtin_prefetch(ahead + c * from_stride, 0, 2);
    const Index whole = count == tile ? channels / 4 * 4 : 0;
    for (Index c = 0; c < whole; c += 4)
        for (Index p = 0; p < tile; p += 4)
            transpose4(from + c * from_stride + p, from_stride, to + p * to_stride + c, to_stride);
    for (Index c = whole; c < channels; ++c)
        for (Index p = 0; p < count; ++p) to[p * to_stride + c] = from[c * from_stride + p];
}

// z[(t, position, channel)] for one sample of one group: from (T, N, C, P) to channels last.
void filter(const float* train, const Layer& l, const Trace& trace, Index sample, Index group,
            float* z, Scratch& scratch) {
    const Index step = l.samples * l.groups * l.other * l.other_size, row = l.stride;
    const float* first = train + (sample * l.groups + group) * l.other * l.other_size;
    scratch.raw.resize(l.steps * tile * row);  // lanes beyond the channels stay zero
    scratch.state.resize(tile * row);
    float *raw = scratch.raw.data(), *state = scratch.state.data();
    for (Index p = 0; p < l.other_size; p += tile) {
        const Index count = std::min(tile, l.other_size - p), width = count * row;
        const auto out = [&](Index t) { return z + (t * l.other_size + p) * row; };
        std::fill_n(state, width, 0.0f);
        for (Index t = 0; t < l.steps; ++t) {
            float* spikes = raw + t * tile * row;
            const float* from = first + t * step + p;
            const float* ahead = t + 1 < l.steps ? from + step : first + p + tile;
            transpose(from, l.other_size, spikes, row, l.other, count, ahead);
            (trace.nearest ? step_nearest : step_past)(spikes, state, out(t), width, trace);
        }
        if (trace.future == 0.0f) continue;
        std::fill_n(state, width, 0.0f);
        for (Index t = l.steps; t-- > 0;)
            step_future(raw + t * tile * row, state, out(t), width, trace);
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

// Whether a value is neither 0 nor -0; in integers, since NaN makes comparing floats slow.
bool is_spike(float value) { return (std::bit_cast<std::uint32_t>(value) << 1) != 0; }

// List the events of one channel in samples [first, last) and steps [t0, t1).
void list_events(const float* train, const Layer& l, Index first, Index last, Index t0, Index t1,
                 Index channel, Scratch& scratch) {
    scratch.events.clear();
    scratch.columns.resize(l.width + 1);  // a candidate that turns out to be no spike is written, too
    std::uint16_t* columns = scratch.columns.data();
    for (Index n = first; n < last; ++n)
        for (Index t = t0; t < t1; ++t) {
            const float* map =
                train + ((t * l.samples + n) * l.groups * l.walked + channel) * l.height * l.width;
            const auto step = static_cast<std::int32_t>(((n - first) * l.steps + t) * l.other_size);
            for (Index y = 0; y < l.height; ++y, map += l.width) {
                Index count = 0;
                for (Index x = 0; x < l.width; ++x) {
                    columns[count] = static_cast<std::uint16_t>(x);
                    count += is_spike(map[x]);
                }
                for (Index i = 0; i < count; ++i)
                    scratch.events.push_back(
                        {step, static_cast<std::uint16_t>(y), columns[i], map[columns[i]]});
            }
        }
}

// Add the rows of z that the listed events meet to sums[(offset, channel)].
void walk(const float* z, const Layer& l, float* sums, Scratch& scratch) {
    const Index events = static_cast<Index>(scratch.events.size());
    if (static_cast<Index>(scratch.row.size()) <= events) {
        scratch.row.resize(2 * events + 1);
        scratch.value.resize(2 * events + 1);
    }
    std::int32_t* row = scratch.row.data();
    float* value = scratch.value.data();
    for (Index a = 0; a < l.kh; ++a)
        for (Index b = 0; b < l.kw; ++b, sums += l.stride) {
            const std::int32_t *rows = l.rows + a * l.height, *columns = l.columns + b * l.width;
            const Event* event = scratch.events.data();
            Index count = 0;
            for (Index i = 0; i < events; ++i) {
                const std::int32_t r = rows[event[i].row], c = columns[event[i].column];
                row[count] = event[i].step + r + c;
                value[count] = event[i].value;
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
