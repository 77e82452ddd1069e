"""Published data sets, each read as it lies on disk into one common object, `Responses`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsafast.datasets.algonauts import (
        read_algonauts_2019,
        read_algonauts_2019_meg,
        read_algonauts_2023,
    )
    from rsafast.datasets.folders import read_rdm_folder, read_response_folder
    from rsafast.datasets.nsd import nsd_design, read_nsd
    from rsafast.datasets.responses import Responses
    from rsafast.datasets.things_eeg import read_things_eeg
    from rsafast.datasets.things_fmri import read_things_fmri, things_fmri_trials

# Imported on first use, so that `rsafast data list` need not wait for SciPy and pandas.
_HOME = {
    "Responses": "rsafast.datasets.responses",
    "nsd_design": "rsafast.datasets.nsd",
    "read_algonauts_2019": "rsafast.datasets.algonauts",
    "read_algonauts_2019_meg": "rsafast.datasets.algonauts",
    "read_algonauts_2023": "rsafast.datasets.algonauts",
    "read_nsd": "rsafast.datasets.nsd",
    "read_rdm_folder": "rsafast.datasets.folders",
    "read_response_folder": "rsafast.datasets.folders",
    "read_things_eeg": "rsafast.datasets.things_eeg",
    "read_things_fmri": "rsafast.datasets.things_fmri",
    "things_fmri_trials": "rsafast.datasets.things_fmri",
}

__all__ = [
    "Responses",
    "nsd_design",
    "read_algonauts_2019",
    "read_algonauts_2019_meg",
    "read_algonauts_2023",
    "read_nsd",
    "read_rdm_folder",
    "read_response_folder",
    "read_things_eeg",
    "read_things_fmri",
    "things_fmri_trials",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rsafast.datasets' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
