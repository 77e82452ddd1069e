// Every native.cpp registers its functions here, so that a new kernel is a new folder and nothing
// else: RSAFAST_KERNEL(rank) { m.def("average_ranks", ...); }
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <vector>

namespace rsafast {

namespace nb = nanobind;

using Binder = void (*)(nb::module_&);

inline std::vector<Binder>& binders() {
    static std::vector<Binder> list;
    return list;
}

struct Registration {
    explicit Registration(Binder bind) { binders().push_back(bind); }
};

template <class T>
using Array = nb::ndarray<T, nb::numpy, nb::c_contig, nb::device::cpu>;

}  // namespace rsafast

#define RSAFAST_KERNEL(name)                                           \
    static void bind_##name(nanobind::module_& m);                     \
    static const rsafast::Registration registration_##name(bind_##name); \
    static void bind_##name([[maybe_unused]] nanobind::module_& m)
