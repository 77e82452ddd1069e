"""What data sets rsafast knows: where they come from, and which files lie where."""

from __future__ import annotations

from rsafast.datasets.catalogue.algonauts import ALGONAUTS_2019, ALGONAUTS_2023
from rsafast.datasets.catalogue.entries import DataSet
from rsafast.datasets.catalogue.images import CIFAR_10, IMAGENET, TINY_IMAGENET
from rsafast.datasets.catalogue.nsd import NSD
from rsafast.datasets.catalogue.things import THINGS_EEG2, THINGS_FMRI
from rsafast.errors import InvalidInputError

CATALOGUE: dict[str, DataSet] = {
    entry.name: entry
    for entry in (
        NSD, THINGS_FMRI, THINGS_EEG2, ALGONAUTS_2019, ALGONAUTS_2023,
        CIFAR_10, TINY_IMAGENET, IMAGENET,
    )
}  # fmt: skip


def data_set(name: str) -> DataSet:
    """Return the entry of a data set.

    Raises
    ------
    InvalidInputError
        A name that is not in the catalogue.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise InvalidInputError(
            f"no data set is called {name!r}; there are: {', '.join(CATALOGUE)}"
        ) from None
