#include "registry.hpp"
RSAFAST_KERNEL(rank) {}
