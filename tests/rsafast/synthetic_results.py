"""PermutationResult objects made from normal nulls, for tests of what is done with a result."""

from typing import Any

import numpy as np
from scipy.stats import false_discovery_control

from rsafast.permutation.result import PermutationResult


def make_result(n_models: int = 3, n_brain: int = 2, n: int = 2_000, **changes: Any) -> Any:
    generator = np.random.default_rng(n_models * 100 + n_brain)
    null = generator.normal(0, 0.03, (n_models, n_brain, n))
    null[..., 0] = generator.normal(0.06, 0.07, (n_models, n_brain))
    null[0, 0, 0] = 0.31
    statistic = null[..., 0].copy()
    exceedances = (null >= statistic[..., None]).sum(-1)
    p = exceedances / n
    maxima = null.max((0, 1))
    fwer = (maxima >= statistic[..., None]).mean(-1)
    low, high = null.min(-1), null.max(-1)
    histogram = np.stack(
        [
            [np.histogram(null[i, j], 40, (low[i, j], high[i, j]))[0] for j in range(n_brain)]
            for i in range(n_models)
        ]
    )
    values: dict[str, Any] = {
        "statistic": statistic,
        "exceedances": exceedances,
        "p_value": p,
        "p_value_fwer": fwer,
        "p_value_stepdown": np.maximum(p, 0.9 * fwer),
        "q_value": false_discovery_control(p.ravel()).reshape(p.shape),
        "p_standard_error": np.sqrt(p * (1 - p) / n),
        "null_mean": null.mean(-1),
        "null_std": null.std(-1),
        "null_skewness": np.full(p.shape, np.nan),
        "histogram": histogram,
        "histogram_range": np.stack([low, high], -1),
        "n_permutations": n,
        "n_stimuli": 20,
        "method": "spearman",
        "alternative": "greater",
        "engine": "orbit",
        "device": "cpu",
        "seed": 3,
        "moments": "sampled",
        "model_names": tuple(f"layer {i}" for i in range(n_models)),
        "brain_names": tuple(f"ROI {j}" for j in range(n_brain)),
        "parameters": {"n_permutations": n, "mask": None},
        "provenance": {"versions": {"numpy": np.__version__}, "seconds": 0.25, "hashes": ["ab"]},
    }
    return PermutationResult(**(values | changes))
