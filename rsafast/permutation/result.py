"""What a permutation test returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PermutationResult:
    """Result of :func:`rsafast.permutation_test`; every array is (n_models, n_brain).

    Attributes
    ----------
    statistic : observed value of the comparator.
    exceedances : relabelings at least as extreme as the observed labelling, itself counted.
    p_value : ``exceedances / n_permutations``; exact, never 0.
    p_value_fwer : family-wise p over all pairs, single-step max-T (equals p_value for one pair).
    p_value_stepdown : family-wise p over all pairs, step-down max-T; never above p_value_fwer.
    q_value : Benjamini-Hochberg adjusted p_value over all pairs.
    p_standard_error : Monte Carlo standard error of p_value; 0 for the exact engine.
    null_mean, null_std : moments of the statistic over relabelings; exact where `moments` says so.
    null_skewness : third standardised moment, NaN where it is not known.
    tail, p_tail : the approximation asked for ("gpd", "pearson3" or None) and its p.
    histogram : (n_models, n_brain, n_bins) counts of the null; histogram_range (n_models, n_brain, 2).
    null : (n_models, n_brain, n_permutations) with keep_null, else None.
    n_permutations : relabelings evaluated, the identity among them.
    moments : "exact" or "sampled".
    parameters : arguments of the call that shape the result.
    provenance : versions, input hashes, engine details, seconds, machine.
    """

    statistic: FloatArray
    exceedances: NDArray[np.int64]
    p_value: FloatArray
    p_value_fwer: FloatArray
    p_value_stepdown: FloatArray
    q_value: FloatArray
    p_standard_error: FloatArray
    null_mean: FloatArray
    null_std: FloatArray
    null_skewness: FloatArray
    histogram: NDArray[np.int64]
    histogram_range: FloatArray
    n_permutations: int
    n_stimuli: int
    method: str
    alternative: str
    engine: str
    device: str
    seed: int
    moments: str
    model_names: tuple[str, ...]
    brain_names: tuple[str, ...]
    tail: str | None = None
    p_tail: FloatArray | None = None
    null: FloatArray | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
