#include "registry.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

// Whether this processor runs the instructions that module `name` was compiled for.
bool supports([[maybe_unused]] const char* isa) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const std::string wanted(isa);
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi2");
    if (wanted == "cpu_avx2") return avx2;
    if (wanted == "cpu_avx512")
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
#endif
    return std::string(isa) == "cpu";
}

int default_threads() {
#if defined(_OPENMP)
    return omp_get_max_threads();
#else
    return 1;
#endif
}

}  // namespace

NB_MODULE(RSAFAST_MODULE, m) {
    m.def("supports", &supports);
    m.def("default_threads", &default_threads);
    for (auto bind : rsafast::binders()) bind(m);
}
