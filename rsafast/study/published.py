"""What published studies did with the same RDMs, so that a report can show what it changes.

Each practice is wrong in a known way, and none is used anywhere else. They are those of arXiv
2604.16875 v2 and 2605.30556 (Leutenegger): scores with the mean RDM, RDM entries shuffled and
drawn with replacement as if they were independent, p-values without the observed labelling, the
best layer of each epoch chosen and tested on the same data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr

from rsafast.comparators import get_comparator, prepare
from rsafast.comparison import compare
from rsafast.errors import InvalidInputError
from rsafast.inference.exact.api import sign_flip_test
from rsafast.rdms import RDMs

FloatArray = NDArray[np.float64]
SHUFFLES, RESAMPLES, LEVEL = 1_000, 500, 0.95
WRONG = {
    "score with the mean RDM": "averages the subjects' noise away: higher than the mean over"
    " subjects, and without their spread",
    "entries bootstrapped": "the n(n-1)/2 entries of an RDM hang together by n stimuli: the"
    " interval is several times too narrow",
    "entries shuffled": "the same; the null distribution is far too narrow, and p can be 0 because"
    " the observed labelling is not counted",
    "best layer, sign flips": "the best layer of every epoch is chosen on the data that test it,"
    " and seeds alone say nothing of other stimuli; p cannot fall below 2 over the sign flips",
    "best layer, asymptotic trend": "a p-value for many points, of a handful; of a perfect order it"
    " is 0",
}


@dataclass(frozen=True)
class _Row:
    """One number as it would have been published."""

    practice: str
    rule_a: str
    region: str
    estimate: float
    rule_b: str = ""
    layer: str = ""
    p_value: float = np.nan
    low: float = np.nan
    high: float = np.nan


def published_table(
    models: RDMs, brain: RDMs, pairs: dict[str, str], compared: list[tuple[str, str]], seed: int
) -> pd.DataFrame:
    """Every practice on every rule.

    Parameters
    ----------
    models, brain : aligned RDMs of all networks and of all subjects, without missing pairs.
    pairs : region to its layer.
    compared : pairs of rules.
    seed : of shuffles and resamples.

    Returns
    -------
    DataFrame
        practice, rule_a, rule_b, region, layer, estimate, p_value, low, high, wrong.
    """
    rows = [*_endpoint(models, brain, pairs, compared, seed), *_best_layers(models, brain)]
    table = pd.DataFrame(rows)
    who = ["practice", "rule_a", "rule_b", "region", "layer"]
    ordered = table[[*who, "estimate", "p_value", "low", "high"]]
    return ordered.assign(wrong=table["practice"].map(WRONG))


def _endpoint(
    models: RDMs, brain: RDMs, pairs: dict[str, str], compared: list[tuple[str, str]], seed: int
) -> Iterator[_Row]:
    """Practices of 2604.16875 v2: seed-averaged RDMs after training, one layer a region."""
    for region, layer in pairs.items():
        ranked = _ranks(brain[{"region": region}].mean())
        last = {}
        for rule in dict.fromkeys(models.descriptors["rule"].tolist()):
            own = models[{"rule": rule, "layer": layer}]
            epoch = own.descriptors["epoch"].max()
            last[rule] = _ranks(own[{"epoch": epoch}].mean())
            low, high = _entry_bootstrap(last[rule], ranked, seed)
            score = float(last[rule] @ ranked)
            yield _Row("score with the mean RDM", rule, region, score, layer=layer)
            yield _Row("entries bootstrapped", rule, region, score, layer=layer, low=low, high=high)
        for a, b in compared:
            difference = last[a] - last[b]
            p = _entry_p(difference, ranked, seed)
            estimate = float(difference @ ranked)
            yield _Row("entries shuffled", a, region, estimate, rule_b=b, layer=layer, p_value=p)


def _ranks(rdm: RDMs) -> FloatArray:
    """Centred ranks of unit length: their products are Spearman correlations."""
    return prepare(get_comparator("spearman"), rdm.vectors, rdm.n_stimuli, rdm.names)[0]


def _entry_p(difference: FloatArray, brain: FloatArray, seed: int) -> float:
    """Share of shuffles of the entries that exceed; 0 where none does."""
    rng = np.random.default_rng([seed, 1])
    null = np.array([difference @ rng.permutation(brain) for _ in range(SHUFFLES)])
    return float((np.abs(null) >= abs(difference @ brain)).mean())


def _entry_bootstrap(model: FloatArray, brain: FloatArray, seed: int) -> tuple[float, float]:
    """Percentile interval over entries drawn with replacement, ranks as they were."""
    rng = np.random.default_rng([seed, 2])
    scores = np.empty(RESAMPLES)
    for r in range(RESAMPLES):
        drawn = rng.integers(0, len(model), len(model))
        scores[r] = np.corrcoef(model[drawn], brain[drawn])[0, 1]
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _best_layers(models: RDMs, brain: RDMs) -> Iterator[_Row]:
    """Practices of 2605.30556: the best layer of every rule, epoch and region."""
    scores = _by_seed(models, brain)
    for (rule, region), own in scores.groupby(["rule", "region"], sort=False):
        means = own.groupby(["epoch", "layer"])["similarity"].mean().unstack("layer")
        best = means.idxmax(axis=1)
        curve = means.max(axis=1)
        if len(curve) < 2:
            continue
        first, last = curve.index[0], curve.index[-1]
        of_seed = own.pivot(index="seed", columns=["epoch", "layer"], values="similarity")
        change = of_seed[last, best[last]] - of_seed[first, best[first]]
        flips = _sign_flips(change.to_numpy(float))
        turns = len(curve) > 2 and curve.nunique() > 1  # some controls are one network throughout
        trend = spearmanr(curve.index, curve).pvalue if turns else np.nan
        where = f"{best[first]} to {best[last]}"
        yield _Row("best layer, sign flips", rule, region, float(change.mean()), layer=where,
                   p_value=flips)  # fmt: skip
        yield _Row("best layer, asymptotic trend", rule, region, float(curve[last] - curve[first]),
                   layer=where, p_value=float(trend))  # fmt: skip


def _by_seed(models: RDMs, brain: RDMs) -> pd.DataFrame:
    """Spearman of every network with every region, mean over subjects."""
    scores = compare(models, brain, "spearman")
    names = ("rule", "seed", "epoch", "layer")
    network = pd.DataFrame({name: models.descriptors[name] for name in names})
    region_of = brain.descriptors["region"]
    return pd.concat(
        [
            network.assign(region=region, similarity=scores[:, region_of == region].mean(axis=1))
            for region in dict.fromkeys(region_of.tolist())
        ],
        ignore_index=True,
    )


def _sign_flips(change: FloatArray) -> float:
    """Two-sided p of a mean change over seeds; NaN for a single one."""
    try:
        result: Any = sign_flip_test(change, alternative="two-sided")
    except InvalidInputError:
        return np.nan
    return float(result.p_value[0])
