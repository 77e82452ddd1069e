"""Scores of models by subject, and of the mean RDM, side by side.

Two conventions are in use for "the similarity of a model with a region": the mean over subjects of
each subject's similarity, and the similarity with the mean RDM of the subjects. Averaging RDMs
removes noise, so the second is larger, by more the noisier the subjects are. They answer different
questions and are never to be mixed in one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.rank import average_ranks

from rsafast.comparators import get_comparator
from rsafast.comparison import compare
from rsafast.inference.layout import study_layout
from rsafast.mask import as_pair_mask, check_complete
from rsafast.rdms import RDMs, align, as_rdms

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
Grouping = str | Sequence[Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectScores:
    """Similarity of models with regions, subject by subject: see :func:`subject_scores`.

    M models, R regions, S subjects.

    Attributes
    ----------
    scores : (M, R, S) similarity with each subject's RDM; NaN where a subject lacks the region.
    mean : (M, R) mean over the subjects of a region: the subject-level score.
    standard_error : (M, R) standard error of that mean over subjects; NaN for one subject.
    mean_rdm : (M, R) similarity with the mean of the subjects' RDMs.
    rank_mean_rdm : (M, R) similarity with the mean of their ranks.
    n_subjects : (R,) subjects behind each region.
    lacking : (region, subject) pairs without an RDM.
    n_pairs : pairs of stimuli that counted.
    """

    scores: FloatArray
    mean: FloatArray
    standard_error: FloatArray
    mean_rdm: FloatArray
    rank_mean_rdm: FloatArray
    n_subjects: NDArray[np.int64]
    lacking: tuple[tuple[str, str], ...]
    model_names: tuple[str, ...]
    regions: tuple[str, ...]
    subjects: tuple[str, ...]
    method: str
    n_pairs: int

    @property
    def ratio(self) -> FloatArray:
        """Score with the mean RDM over the subject-level score, (M, R); NaN unless both are > 0."""
        both = (self.mean > 0) & (self.mean_rdm > 0)
        return np.divide(self.mean_rdm, self.mean, out=np.full(self.mean.shape, np.nan), where=both)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a model, region and subject that has the region.

        Columns: model, region, subject, similarity, then what is the same for all subjects of a
        row: n_subjects, subject_mean, standard_error, mean_rdm, rank_mean_rdm.
        """
        import pandas as pd

        m, r, s = np.nonzero(~np.isnan(self.scores))
        return pd.DataFrame(
            {
                "model": np.array(self.model_names, dtype=object)[m],
                "region": np.array(self.regions, dtype=object)[r],
                "subject": np.array(self.subjects, dtype=object)[s],
                "similarity": self.scores[m, r, s],
                "n_subjects": self.n_subjects[r],
                "subject_mean": self.mean[m, r],
                "standard_error": self.standard_error[m, r],
                "mean_rdm": self.mean_rdm[m, r],
                "rank_mean_rdm": self.rank_mean_rdm[m, r],
            }
        )

    def summary(self) -> str:
        """Say what was scored, who is lacking, and how far the two conventions are apart."""
        low, high = int(self.n_subjects.min()), int(self.n_subjects.max())
        n = f"{low}" if low == high else f"{low} to {high}"
        lines = [
            f"{len(self.model_names)} models × {len(self.regions)} regions, {n} subjects a region, "
            f"comparator {self.method}, {self.n_pairs:,} pairs of stimuli.",
        ]
        if self.lacking:
            shown = ", ".join(f"{subject} in {region}" for region, subject in self.lacking[:5])
            more = f" and {len(self.lacking) - 5} more" if len(self.lacking) > 5 else ""
            lines.append(
                f"Unbalanced: no RDM of {shown}{more}. Means of these regions are over fewer "
                "subjects, so differences between regions mix in differences between subjects."
            )
        if high > 1:
            lines.append(
                "Two conventions, never to be mixed: subject_mean is the mean of the subjects' own "
                "similarities; mean_rdm is the similarity with their mean RDM, which holds less "
                f"noise and so is larger{self._how_much()}. Compare models within one of them, "
                "and say which."
            )
        lines.append("Descriptions, not tests: nothing here says what generalises to whom.")
        return "\n".join(lines)

    def _how_much(self) -> str:
        ratio = self.ratio[:, self.n_subjects > 1]
        if not np.isfinite(ratio).any():
            return " as a rule"
        return f" (here {np.nanmedian(ratio):.2f} times, in the median)"


def subject_scores(
    models: Any,
    brain: Any,
    *,
    method: str = "spearman",
    regions: Grouping = None,
    subjects: Grouping = None,
    mask: ArrayLike | None = None,
) -> SubjectScores:
    """Similarity of every model with every subject's RDM, and with the mean RDM, side by side.

    Parameters
    ----------
    models : RDMs or array, M of them
    brain : RDMs or array, each of one subject and region
    method : comparator, see :func:`rsafast.compare`
    regions : descriptor of `brain`, or one label an RDM; default: all are one region
    subjects : descriptor of `brain`, or one label an RDM; default, within one region: every RDM is
        its own subject. Needed with several regions.
    mask : (n, n) or (pairs,) bool, optional
        True where a pair counts; see :func:`rsafast.run_mask`.

    Returns
    -------
    SubjectScores

    Raises
    ------
    InvalidInputError
        Several RDMs of one subject in one region (average or split them first), labels of another
        number than the RDMs, and what :func:`rsafast.compare` refuses.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(size=(20, 5))
    >>> brain = rf.compute_rdms(truth + rng.normal(size=(6, 20, 5)))
    >>> found = rf.subject_scores(rf.compute_rdms(truth), brain)
    >>> found.mean.round(2), found.mean_rdm.round(2)
    (array([[0.4]]), array([[0.7]]))
    """
    comparator = get_comparator(method)
    a, b = align(as_rdms(models, "models"), as_rdms(brain, "brain"))
    keep = as_pair_mask(mask, a, b)
    check_complete(a, keep, "models")
    check_complete(b, keep, "brain")
    layout = study_layout(
        a, b, rules=[str(i) for i in range(a.n_rdms)], regions=regions, subjects=subjects,
        match_subjects=True,
    )  # fmt: skip
    place = np.full((len(layout.regions), len(layout.subjects)), -1, np.int64)
    place[layout.region_of, layout.subject_of] = np.arange(b.n_rdms)
    every = compare(a, b, method, mask=keep)
    scores = np.full((a.n_rdms, *place.shape), np.nan)
    here = place >= 0
    scores[:, here] = every[:, place[here]]
    counts = here.sum(axis=1)
    mean = np.nansum(scores, axis=2) / counts
    squares = np.nansum((scores - mean[:, :, None]) ** 2, axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.where(counts > 1, np.sqrt(squares / (counts - 1) / counts), np.nan)
    return SubjectScores(
        scores=scores,
        mean=mean,
        standard_error=error,
        mean_rdm=compare(a, _pooled(b, place, keep, ranks=False), method, mask=keep),
        rank_mean_rdm=compare(a, _pooled(b, place, keep, ranks=True), method, mask=keep),
        n_subjects=counts,
        lacking=tuple((layout.regions[r], layout.subjects[s]) for r, s in np.argwhere(~here)),
        model_names=a.names,
        regions=layout.regions,
        subjects=layout.subjects,
        method=comparator.name,
        n_pairs=int(keep.sum()),
    )


def _pooled(brain: RDMs, place: NDArray[np.int64], keep: NDArray[np.bool_], *, ranks: bool) -> RDMs:
    """One mean RDM a region, of values or of ranks inside the mask."""
    inside = brain.vectors[:, keep]
    values = average_ranks(inside) if ranks else inside
    out = np.full((len(place), len(keep)), np.nan)
    for row, members in zip(out, place, strict=True):
        row[keep] = values[members[members >= 0]].mean(axis=0)
    return RDMs.from_vectors(out, brain.labels, missing="allow")
