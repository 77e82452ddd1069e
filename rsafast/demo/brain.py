"""Simulated subjects whose ground truth is known: voxels that mix the features of some models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rsafast.comparison import compare
from rsafast.features import compute_rdms
from rsafast.rdms import RDMs

FloatArray = NDArray[np.float64]

N_SUBJECTS = 6
N_VOXELS = 120


@dataclass(frozen=True, slots=True)
class Region:
    """A brain region: the models that generate its responses, and how noisy a voxel is.

    Attributes
    ----------
    name : what tables call it.
    sources : model to its share of the signal variance; empty for a region of pure noise.
    noise : standard deviation of the noise in a voxel over that of its signal.
    """

    name: str
    sources: Mapping[str, float] = field(default_factory=dict)
    noise: float = 1.0

    @property
    def description(self) -> str:
        """What generates the responses, in words."""
        if not self.sources:
            return "noise alone, unrelated to every model"
        mix = " + ".join(self.sources)
        return f"{mix} through random voxel weights, noise {self.noise:g}× the signal"


REGIONS = (
    Region("early", {"Gabor energy": 1.0}, noise=3.0),
    Region("late", {"labels": 0.5, "conv3": 0.5}, noise=3.0),
    Region("faint", {"labels": 1.0}, noise=20.0),
    Region("null"),
)


_CENTRED_UNITS = ("conv3",)


@dataclass(frozen=True, slots=True)
class Brain:
    """Simulated data.

    Attributes
    ----------
    mean : one RDM a region, the mean over subjects; what is tested.
    subjects : one RDM a subject and region, with descriptors ``region`` and ``subject``.
    truth : (models, regions) Spearman of each model with the region's noise-free RDM; 0 for
        a region of pure noise.
    """

    mean: RDMs
    subjects: RDMs
    truth: FloatArray


def simulate(features: Mapping[str, FloatArray], models: RDMs, seed: int) -> Brain:
    """Simulate every region in every subject.

    Parameters
    ----------
    features : (n, channels) of each model that a region names as its source.
    models : RDMs of the models, for the truth.
    seed : of voxel weights and noise; region and subject have streams of their own.
    """
    stacks, means, truth = [], [], np.zeros((models.n_rdms, len(REGIONS)))
    for index, region in enumerate(REGIONS):
        signal = _signal(features, region)
        responses = np.stack(
            [
                _responses(signal, region, len(models.labels or ()), seed, index, subject)
                for subject in range(N_SUBJECTS)
            ]
        )
        rdms = compute_rdms(
            responses,
            labels=models.labels,
            names=[f"{region.name}, subject {s + 1}" for s in range(N_SUBJECTS)],
        )
        stacks.append(rdms)
        means.append(rdms.mean(region.name))
        if signal is not None:
            truth[:, index] = compare(models, compute_rdms(signal, "cosine"))[:, 0]
    return Brain(RDMs.concat(means), _described(RDMs.concat(stacks)), truth)


def _signal(features: Mapping[str, FloatArray], region: Region) -> FloatArray | None:
    """(n, channels) rows of unit length whose products are the sources' similarities, mixed.

    The expected correlation distance of two responses is then the shares' weighted sum of the
    sources' distances, shrunk by the noise: the ground truth is exact.
    """
    parts = []
    for name, share in region.sources.items():
        rows = np.asarray(features[name], dtype=np.float64)
        # What all digits evoke in conv3 would hide what tells them apart, so it is taken out.
        if name in _CENTRED_UNITS:
            rows = rows - rows.mean(axis=0)
        # The categorical RDM is 0 or 1 as it stands; the others are correlation distances.
        if name != "labels":
            rows = rows - rows.mean(axis=1, keepdims=True)
        parts.append(np.sqrt(share) * rows / np.linalg.norm(rows, axis=1, keepdims=True))
    if not parts:
        return None
    # Rotated onto their principal axes, the rows fit into as many voxels without loss of moment.
    left, sizes, _ = np.linalg.svd(np.hstack(parts), full_matrices=False)
    rows = (left * sizes)[:, :N_VOXELS]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _responses(
    signal: FloatArray | None, region: Region, n: int, seed: int, index: int, subject: int
) -> NDArray[np.float32]:
    """(n, voxels) responses: a subject's own voxels see the shared signal, with own noise.

    The random weights are a rotation of the signal into voxel space. It keeps every angle, so no
    subject's voxels favour a feature by chance, and the truth is the same in all of them.
    """
    generator = np.random.default_rng((seed, index, subject))
    scale = region.noise / np.sqrt(N_VOXELS)
    noise = scale * generator.standard_normal((n, N_VOXELS), dtype=np.float32)
    if signal is None:
        return noise
    weights = generator.standard_normal((N_VOXELS, signal.shape[1]))
    return (signal @ np.linalg.qr(weights)[0].T + noise).astype(np.float32)


def _described(rdms: RDMs) -> RDMs:
    return RDMs.from_vectors(
        rdms.vectors,
        labels=rdms.labels,
        names=rdms.names,
        measure=rdms.measure,
        descriptors={
            "region": np.repeat([region.name for region in REGIONS], N_SUBJECTS),
            "subject": np.tile(np.arange(1, N_SUBJECTS + 1), len(REGIONS)),
        },
    )
