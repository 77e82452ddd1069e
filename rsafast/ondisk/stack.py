"""RDMs that are read in rows, as far as grouping them by rule, region and the like asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsafast.ondisk.rdm import StoredRDM
from rsafast.ondisk.rows import Rows


@dataclass(frozen=True, slots=True)
class Stack:
    """RDMs that are read in rows, by their names and the descriptors that all of them have."""

    rdms: Sequence[Rows]

    @property
    def n_rdms(self) -> int:
        """Number of RDMs."""
        return len(self.rdms)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every RDM; where two are called the same, after the name of its file."""
        names = tuple(rdm.name for rdm in self.rdms)
        if len(set(names)) == len(names):
            return names
        return tuple(
            f"{rdm.path.stem}: {rdm.name}" if isinstance(rdm, StoredRDM) else rdm.name
            for rdm in self.rdms
        )

    @property
    def descriptors(self) -> Mapping[str, NDArray[Any]]:
        """Values of every descriptor, one an RDM."""
        each = [rdm.descriptors if isinstance(rdm, StoredRDM) else {} for rdm in self.rdms]
        shared = [key for key in each[0] if all(key in known for known in each)]
        return {key: np.array([known[key] for known in each]) for key in shared}
