"""Files: RDMs and features of many formats in, HDF5 out (docs/format.md)."""

from rsafast_kernels.atomic import check_writable

from rsafast.io.provenance import array_hash, provenance
from rsafast.io.readers import Features, read_descriptors, read_features, read_rdms

__all__ = [
    "Features",
    "array_hash",
    "check_writable",
    "provenance",
    "read_descriptors",
    "read_features",
    "read_rdms",
]
