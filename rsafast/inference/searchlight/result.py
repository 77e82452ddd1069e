"""What a searchlight returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rsafast.errors import InvalidInputError
from rsafast.inference.searchlight.neighbourhoods import FloatArray, IntArray
from rsafast.io.results import load_result, save_result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from rsafast.io.hdf5 import Kind

KIND: Kind = "searchlight_result"

Map = Literal["statistic", "z", "p_value", "p_value_fwer", "n_voxels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchlightResult:
    """Result of :func:`rsafast.searchlight`: M models, C centres.

    Attributes
    ----------
    statistic : (M, C) similarity of each model with the RDM around each centre.
    p_value : (M, C) share of relabellings that reach it; exact, never 0. None without a test, as
        are the next four.
    p_value_fwer : (M, C) family-wise p over all models and centres (single-step max-T).
    null_mean, null_std : (M, C) exact moments of the statistic over all relabellings.
    null_max : (n_permutations,) largest standardised statistic anywhere under each relabelling.
    centres : (C, 3) indices of the centres in the volume, in the order of the voxels given.
    n_voxels : (C,) voxels around each centre, itself included.
    shape : (3,) of the volume; the smallest that holds the voxels, where only indices were given.
    affine : (4, 4) from indices to millimetres, if it was given.
    radius : in voxels, or in millimetres where the size of the voxels was given.
    min_voxels : voxels that a neighbourhood needs.
    n_too_small : centres left out for having fewer.
    n_flat : voxels left out because they respond alike to all stimuli.
    n_permutations : relabellings evaluated, the identity among them; 0 without a test.
    engine : "orbit", "exact" (all relabellings), or "none".
    parameters, provenance : arguments that shape the result; versions, input hashes, seconds.
    """

    statistic: FloatArray
    p_value: FloatArray | None
    p_value_fwer: FloatArray | None
    null_mean: FloatArray | None
    null_std: FloatArray | None
    null_max: FloatArray | None
    centres: IntArray
    n_voxels: IntArray
    shape: IntArray
    affine: FloatArray | None
    radius: float
    min_voxels: int
    n_too_small: int
    n_flat: int
    n_stimuli: int
    n_permutations: int
    engine: str
    alternative: str
    metric: str
    method: str
    seed: int
    model_names: tuple[str, ...]
    subject: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def n_centres(self) -> int:
        """Number of centres."""
        return len(self.centres)

    @property
    def z(self) -> FloatArray | None:
        """Statistic in null standard deviations from the null mean, (M, C); None without a test.

        NaN where the null has no spread. A description, not a test: the null need not be normal.
        """
        if self.null_mean is None or self.null_std is None:
            return None
        spread = np.where(self.null_std > 0, self.null_std, np.nan)
        return (self.statistic - self.null_mean) / spread

    def to_volume(
        self,
        which: Map = "statistic",
        model: int | str = 0,
        *,
        shape: tuple[int, int, int] | None = None,
    ) -> FloatArray:
        """Map of one model as a volume (X, Y, Z), NaN where there is no centre.

        Parameters
        ----------
        which : {"statistic", "z", "p_value", "p_value_fwer", "n_voxels"}
        model : place or name.
        shape : of the volume, where the result knows only the indices of the voxels.

        Raises
        ------
        InvalidInputError
            Unknown names, p-values that were not asked for, a shape that lacks centres.
        """
        values = self._values(which)
        if values.ndim == 2:
            values = values[self._place(model)]
        size = tuple(self.shape.tolist()) if shape is None else tuple(shape)
        if len(size) != 3 or (self.centres.max(axis=0) >= size).any():
            raise InvalidInputError(
                f"shape must be three numbers that hold all centres, up to voxel"
                f" {tuple(self.centres.max(axis=0).tolist())}, got {size}"
            )
        volume = np.full(size, np.nan)
        volume[tuple(self.centres.T)] = values
        return volume

    def to_nifti(
        self,
        path: str | Path,
        which: Map = "statistic",
        model: int | str = 0,
        *,
        affine: Any | None = None,
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        """Write a map to a NIfTI file (.nii or .nii.gz), float32, NaN where there is no centre.

        Parameters
        ----------
        which, model, shape : see :meth:`to_volume`.
        affine : (4, 4) from indices to millimetres; by default the one given to `searchlight`.

        Raises
        ------
        InvalidInputError
            No affine, another ending, and what :meth:`to_volume` refuses.
        BackendUnavailableError
            Where nibabel is not installed.
        """
        from rsafast_kernels.atomic import replacing

        from rsafast.io.images import nibabel_package

        nibabel = nibabel_package()
        matrix = self.affine if affine is None else np.asarray(affine)
        if matrix is None or matrix.shape != (4, 4):
            raise InvalidInputError(
                "affine= must be the (4, 4) matrix of the volume that the responses came from, "
                "such as nibabel.load(file).affine: without it the map lies in the wrong place"
            )
        name = Path(path).name
        if not name.endswith((".nii", ".nii.gz")):
            raise InvalidInputError(f"{path}: a map is saved as .nii or .nii.gz")
        volume = self.to_volume(which, model, shape=shape).astype(np.float32)
        content = nibabel.Nifti1Image(volume, matrix).to_bytes()
        if name.endswith(".gz"):
            import gzip

            content = gzip.compress(content, mtime=0)
        with replacing(path) as temporary:
            temporary.write_bytes(content)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a model and centre.

        The columns are model, i, j, k (indices of the centre), n_voxels, statistic, and with a test
        z, p_value and p_value_fwer.
        """
        import pandas as pd

        m = len(self.model_names)
        columns: dict[str, Any] = {
            "model": np.repeat(np.array(self.model_names, dtype=object), self.n_centres)
        }
        columns |= {axis: np.tile(self.centres[:, d], m) for d, axis in enumerate("ijk")}
        columns["n_voxels"] = np.tile(self.n_voxels, m)
        for name in ("statistic", "z", "p_value", "p_value_fwer"):
            values = getattr(self, name)
            if values is not None:
                columns[name] = values.ravel()
        return pd.DataFrame(columns)

    def save(self, path: str | Path) -> None:
        """Write the result: everything to .h5 or .hdf5, the table to .csv.

        Raises
        ------
        InvalidInputError
            The ending of `path` is none of these, or the folder cannot be written.
        """
        save_result(self, path, KIND)

    @classmethod
    def load(cls, path: str | Path) -> SearchlightResult:
        """Read a result that :meth:`save` wrote to .h5; every array comes back bit for bit.

        Raises
        ------
        InvalidInputError
            The file is missing, no HDF5 file, or holds something else than a searchlight.
        """
        return load_result(cls, path, KIND)

    def plot(self, ax: Axes | None = None, model: int | str = 0, alpha: float = 0.05) -> Axes:
        """Draw slices of a model's statistic, centres of family-wise p <= `alpha` outlined.

        Parameters
        ----------
        ax : where to draw; by default a new pyplot figure.
        model : place or name.
        alpha : largest family-wise p inside the outline.
        """
        from rsafast.inference.searchlight.plot import draw_slices
        from rsafast.plotting import given_or_new

        ax = given_or_new(ax)
        draw_slices(ax, self, self._place(model), alpha)
        return ax

    def summary(self) -> str:
        """Say what was tested, what came out, and to whom it generalises."""
        m, c = self.statistic.shape
        unit = "voxels" if self.parameters.get("voxel_size") is None else "mm"
        lines = [
            f"{m} model{'s' * (m > 1)} × {c:,} centres"
            f"{'' if self.subject is None else f' of {self.subject}'}, {self.n_stimuli} stimuli, "
            f"radius {self.radius:g} {unit} ({self.n_voxels.min()} to {self.n_voxels.max()} voxels "
            f"around a centre), {self.metric} RDMs, comparator {self.method}.",
            f"Left out: {self.n_too_small:,} centres with fewer than {self.min_voxels} voxels "
            f"around them, {self.n_flat:,} voxels that respond alike to all stimuli.",
        ]
        if self.p_value is None or self.p_value_fwer is None:
            return "\n".join([*lines, "Nothing was tested (n_permutations=0)."])
        how = f"{self.n_permutations:,} relabellings, the observed among them, seed {self.seed}"
        if self.engine == "exact":
            how = f"All {self.n_permutations:,} relabellings"
        lines += [
            f"Null hypothesis (alternative {self.alternative!r}): no model is related to the RDM "
            f"around any centre, so that the {self.n_stimuli} stimuli are exchangeable.",
            "It speaks for this subject and these stimuli only, and never says whether two models "
            "are equal.",
            f"{how}, the same for all centres. Smallest attainable p: "
            f"{1 / self.n_permutations:.3g}. Family-wise p (max-T) over all {m * c:,} models × "
            "centres.",
        ]
        extremeness = np.abs(np.asarray(self.z))
        for k, name in enumerate(self.model_names):
            best = int(np.lexsort((-extremeness[k], self.p_value_fwer[k]))[0])
            found = int((self.p_value_fwer[k] <= 0.05).sum())
            lines.append(
                f"  {name}: {found:,} centres with a family-wise p of at most 0.05; smallest "
                f"{self.p_value_fwer[k, best]:.3g} at voxel {tuple(self.centres[best].tolist())}, "
                f"statistic {self.statistic[k, best]:.4g}"
            )
        lines.append(
            "A centre stands for its neighbourhood: the effect lies somewhere within the radius, "
            "not at the centre itself (Etzel et al. 2013)."
        )
        return "\n".join(lines)

    def _values(self, which: str) -> NDArray[Any]:
        if which not in get_args(Map):
            raise InvalidInputError(
                f"which must be one of {', '.join(get_args(Map))}, got {which!r}"
            )
        values = getattr(self, which)
        if values is None:
            raise InvalidInputError(f"{which} needs a test: run searchlight with n_permutations")
        return values

    def _place(self, model: int | str) -> int:
        names = self.model_names
        place = names.index(model) if isinstance(model, str) and model in names else model
        if not isinstance(place, int | np.integer) or not 0 <= place < len(names):
            raise InvalidInputError(
                f"model must be a place below {len(names)} or one of {', '.join(names)}, got"
                f" {model!r}"
            )
        return int(place)
