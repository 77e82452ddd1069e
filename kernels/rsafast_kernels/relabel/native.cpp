// Random relabellings from a counter: see __init__.py.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "registry.hpp"

namespace {

using rsafast::Array;
namespace nb = nanobind;

struct Block {
    std::uint64_t word[4];
};

// Philox4x64-10 (Salmon et al. 2011), the bit generator of numpy.random.Philox.
Block philox(std::uint64_t c0, std::uint64_t c1, std::uint64_t k0, std::uint64_t k1) {
    constexpr std::uint64_t m0 = 0xD2E7470EE14C6C93, m1 = 0xCA5A826395121157;
    constexpr std::uint64_t w0 = 0x9E3779B97F4A7C15, w1 = 0xBB67AE8584CAA73B;
    std::uint64_t c2 = 0, c3 = 0;
    for (int round = 0; round < 10; ++round) {
        const auto p0 = static_cast<unsigned __int128>(m0) * c0;
        const auto p1 = static_cast<unsigned __int128>(m1) * c2;
        c0 = static_cast<std::uint64_t>(p1 >> 64) ^ c1 ^ k0;
        c2 = static_cast<std::uint64_t>(p0 >> 64) ^ c3 ^ k1;
        c1 = static_cast<std::uint64_t>(p1);
        c3 = static_cast<std::uint64_t>(p0);
        k0 += w0, k1 += w1;
    }
    return {{c0, c1, c2, c3}};
}

struct Item {
    std::int32_t group;
    std::int32_t index;
    std::uint64_t word;
    bool operator<(const Item& other) const {
        if (group != other.group) return group < other.group;
        if (word != other.word) return word < other.word;
        return index < other.index;
    }
};

void relabelings(std::uint64_t seed, std::uint64_t stream, std::uint64_t start,
                 Array<const std::int32_t> groups, Array<const std::int32_t> slots,
                 Array<std::int32_t> out, int threads) {
    nb::gil_scoped_release release;
    const std::ptrdiff_t count = out.shape(0), n = out.shape(1);
#pragma omp parallel num_threads(threads)
    {
        std::vector<Item> items(n);
#pragma omp for schedule(static)
        for (std::ptrdiff_t p = 0; p < count; ++p) {
            for (std::ptrdiff_t x = 0; x < n; x += 4) {
                const Block block = philox(x / 4 + 1, start + p, seed, stream);
                for (std::ptrdiff_t y = x; y < std::min(n, x + 4); ++y)
                    items[y] = {groups.data()[y], static_cast<std::int32_t>(y), block.word[y - x]};
            }
            std::sort(items.begin(), items.end());
            std::int32_t* relabeling = out.data() + p * n;
            for (std::ptrdiff_t x = 0; x < n; ++x) relabeling[slots.data()[x]] = items[x].index;
        }
    }
}

}  // namespace

RSAFAST_KERNEL(relabel) { m.def("relabelings", &relabelings); }
