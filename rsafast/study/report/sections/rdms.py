"""RDMs as squares, and a map of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from scipy.stats import rankdata

from rsafast.plotting import MAX_SHOWN_STIMULI
from rsafast.study.networks import CONTROL
from rsafast.study.report import drawing
from rsafast.study.report.parts import Block, Section
from rsafast.study.report.sections.shared import Drawn, on_size
from rsafast.study.report.tables import Study
from rsafast.study.report.words import listed, number


def section(study: Study, draw: Drawn) -> Section:
    """RDMs and map, by resolution."""
    return Section(
        "rdms", "RDMs, and a map of them",
        "Each square holds the dissimilarity of every two stimuli as a percentile (violet: similar,"
        " yellow: dissimilar), regions averaged over subjects and networks over seeds; on the map,"
        " RDMs that lie close are alike, and its axes have no meaning.",
        [_block(study, size, draw) for size in study.sizes],
    )  # fmt: skip


def _block(study: Study, size: int, draw: Drawn) -> Block:
    regions, networks = study.mean_rdms(size)
    rules, layers = networks.descriptors["rule"], networks.descriptors["layer"]
    rows = [("brain", list(zip(regions.names, regions.vectors, strict=True)))]
    for layer in dict.fromkeys(layers.tolist()):
        own = [(str(r), v) for r, of, v in zip(rules, layers, networks.vectors, strict=True)
               if of == layer and not r.endswith(CONTROL)]  # fmt: skip
        rows.append((str(layer), own))
    n = regions.n_stimuli
    shown = f"{n:,} stimuli"
    if n > MAX_SHOWN_STIMULI:
        shown = f"{MAX_SHOWN_STIMULI} of {n:,} stimuli, evenly spaced"
    squares = draw(
        f"rdms-{size}",
        f"RDMs of {shown}{on_size(study, size)}: {listed(list(study.pairs))} of the brain, and"
        f" {listed([name for name, _ in rows[-1][1]])} on"
        f" {listed([heading for heading, _ in rows[1:]])}.",
        f"{shown} in the order of the brain's RDMs. Controls are on the map"
        " only.",
        partial(drawing.draw_rdms, rows, n),
    )  # fmt: skip
    vectors = np.concatenate([regions.vectors, networks.vectors])
    points, share, similar = map_of(vectors, study.counted_pairs())
    stars = dict(zip(study.pairs, points, strict=False))
    placed: dict[str, dict[str, Any]] = {}
    nearest = []
    for k, (rule, layer) in enumerate(zip(rules.tolist(), layers.tolist(), strict=True)):
        placed.setdefault(str(layer), {})[str(rule)] = points[len(stars) + k]
    for k, region in enumerate(study.pairs):
        best = int(np.argmax(similar[k, len(stars) :]))
        nearest.append(f"{region} is most similar to {rules[best]} {layers[best]}"
                       f" ({number(similar[k, len(stars) + best])})")  # fmt: skip
    plane = draw(
        f"map-{size}",
        f"Map of {len(vectors)} RDMs{on_size(study, size)}, two dimensions with"
        f" {100 * share:.0f} % of the squared distances: {'; '.join(nearest)}.",
        "Classical multidimensional scaling of 1 − Spearman correlation between RDMs. Stars:"
        " regions. One panel a layer, all other networks as dots. Two dimensions hold"
        f" {100 * share:.0f} % of the positive eigenvalues.",
        partial(drawing.draw_map, stars, placed, study.conditions),
    )  # fmt: skip
    return Block(size, [], [squares, plane])


def map_of(vectors: Any, counted_pairs: Any = None) -> tuple[Any, float, Any]:
    """Classical multidimensional scaling of 1 − Spearman between RDMs.

    Parameters
    ----------
    vectors : (k, pairs) dissimilarities; pairs missing in any RDM are left out.
    counted_pairs : (pairs,) bool, or None for all.

    Returns
    -------
    points : (k, 2), the largest coordinate of each axis positive.
    share : of the two dimensions in the positive eigenvalues, 0 to 1.
    similar : (k, k) Spearman correlations.
    """
    keep = np.isfinite(vectors).all(axis=0)
    if counted_pairs is not None:
        keep &= counted_pairs
    ranks = np.stack([rankdata(vector) for vector in vectors[:, keep]])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.sqrt((ranks**2).sum(axis=1))
    ranks /= np.where(norms > 0, norms, 1.0)[:, None]  # a constant RDM is similar to none
    similar = ranks @ ranks.T
    distance = 1 - similar
    np.fill_diagonal(distance, 0.0)
    centring = np.eye(len(vectors)) - 1 / len(vectors)
    values, axes = np.linalg.eigh(-0.5 * centring @ distance**2 @ centring)
    values, axes = np.maximum(values[::-1], 0), axes[:, ::-1]
    points = axes[:, :2] * np.sqrt(values[:2])
    signs = np.sign(points[np.abs(points).argmax(axis=0), [0, 1]])
    share = float(values[:2].sum() / values.sum()) if values.sum() > 0 else 1.0
    return points * np.where(signs == 0, 1, signs), share, similar
