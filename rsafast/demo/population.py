"""Simulated studies whose population is known: stimuli, networks and subjects drawn from it.

Everything is linear in normal latent features of the stimuli, z (n, D): a network's or a subject's
features are z @ weights, a measurement adds normal noise, and RDMs hold squared Euclidean
distances. So dissimilarities of features add up, and the population value of a Pearson
correlation has a closed form (`Population.pearson`): for differences of two independent stimuli the
distances are quadratic forms of a normal vector, whose covariance is a trace (Isserlis).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsafast.features import compute_rdms
from rsafast.rdms import RDMs

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """What the stimuli, networks and subjects of simulated studies are drawn from.

    Attributes
    ----------
    shares : share of each rule's features in the signal of the brain; at most 1 in all. What
        is left are features of the brain alone. All 0: no rule is related to the brain.
    common : share of features that the rules have in common.
    size : latent features of each kind.
    gain_spread : standard deviation over subjects of the logarithm of each rule's gain.
    individual : size of a subject's own features over that of the signal.
    noise : standard deviation of measurement noise in a channel over that of the signal in one.
    run_noise : that of a pattern which all stimuli of one run share, in one subject.
    initial : size of the features that a seed's initial weights bring, the same in every rule.
    drift : size of the features that training adds by chance, other ones in every network.
    """

    shares: tuple[float, ...] = (0.5, 0.5)
    common: float = 0.0
    size: int = 3
    gain_spread: float = 0.0
    individual: float = 0.0
    noise: float = 0.0
    run_noise: float = 0.0
    initial: float = 0.0
    drift: float = 0.0

    @property
    def n_rules(self) -> int:
        """Rules that networks are trained by."""
        return len(self.shares)

    @property
    def n_latents(self) -> int:
        """Latent features: common, one block a rule, of networks, of all brains, of one's own."""
        return self.size * (self.n_rules + 4)

    @property
    def n_channels(self) -> int:
        """Channels (voxels) of a subject."""
        return self.size * (2 * self.n_rules + 2)

    def stimuli(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Draw latent features (n, n_latents) of n stimuli."""
        return rng.standard_normal((n, self.n_latents))

    def networks(self, n_seeds: int, rng: np.random.Generator) -> FloatArray:
        """Weights (n_rules, n_seeds, n_latents, channels) of networks.

        Seed k of every rule starts from the same initial weights.
        """
        d, of_networks = self.size, self.size * (self.n_rules + 2)
        weights = np.zeros((self.n_rules, n_seeds, self.n_latents, 4 * d))
        initial, drift = (
            rng.standard_normal((count, n_seeds, of_networks, d)) * scale / np.sqrt(of_networks)
            for count, scale in ((1, self.initial), (self.n_rules, self.drift))
        )
        weights[:, :, :of_networks, 2 * d : 3 * d] = initial
        weights[:, :, :of_networks, 3 * d :] = drift
        for rule in range(self.n_rules):
            weights[rule, :, :, : 2 * d] = self._rule(rule)
        return weights

    def subjects(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Weights (count, n_latents, n_channels) of subjects."""
        d, rules = self.size, self.n_rules
        weights = np.zeros((count, self.n_latents, self.n_channels))
        gains = np.exp(self.gain_spread * rng.standard_normal((count, rules)))
        for rule, share in enumerate(self.shares):
            place = slice(2 * d * rule, 2 * d * (rule + 1))
            weights[:, :, place] = gains[:, rule, None, None] * np.sqrt(share) * self._rule(rule)
        left = np.sqrt(max(1.0 - sum(self.shares), 0.0))
        brain, own = slice(d * (rules + 2), d * (rules + 3)), slice(d * (rules + 3), None)
        weights[:, brain, 2 * d * rules : 2 * d * rules + d] = left * np.eye(d)
        mix = rng.standard_normal((count, d, d)) / np.sqrt(d)
        weights[:, own, 2 * d * rules + d :] = self.individual * mix
        return weights

    def _rule(self, rule: int) -> FloatArray:
        """Weights (n_latents, 2 size) of a rule's features: the common ones and its own."""
        d = self.size
        weights = np.zeros((self.n_latents, 2 * d))
        weights[:d, :d] = np.sqrt(self.common) * np.eye(d)
        weights[d * (rule + 1) : d * (rule + 2), d:] = np.sqrt(1 - self.common) * np.eye(d)
        return weights

    def model_rdms(self, stimuli: FloatArray, networks: FloatArray) -> RDMs:
        """RDMs of all networks, rules varying slowest; descriptors ``rule`` and ``seed``."""
        rules, seeds = networks.shape[:2]
        rdms = compute_rdms(stimuli @ networks.reshape(-1, *networks.shape[2:]), "sqeuclidean")
        return RDMs.from_vectors(
            rdms.vectors,
            names=[f"rule {r}, seed {s}" for r in range(rules) for s in range(seeds)],
            descriptors={
                "rule": np.repeat([f"rule {r}" for r in range(rules)], seeds),
                "seed": np.tile(np.arange(seeds), rules),
            },
        )

    def responses(
        self,
        stimuli: FloatArray,
        subjects: FloatArray,
        rng: np.random.Generator,
        runs: Sequence[int] | IntArray | None = None,
    ) -> FloatArray:
        """Measured responses (subjects, n, channels).

        Parameters
        ----------
        stimuli, subjects : as drawn by the methods of these names.
        rng : of the noise.
        runs : (n,) or (subjects, n) run in which each stimulus was shown, counted from 0; needed
            for `run_noise`. The same order in all subjects, or an order for each.
        """
        shape = (len(subjects), len(stimuli), self.n_channels)
        measured = stimuli @ subjects + self.noise * rng.standard_normal(shape)
        if runs is not None:
            order = np.broadcast_to(np.asarray(runs), shape[:2])
            patterns = rng.standard_normal((len(subjects), int(order.max()) + 1, self.n_channels))
            measured += self.run_noise * patterns[np.arange(len(subjects))[:, None], order]
        return measured

    def brain_rdms(
        self,
        stimuli: FloatArray,
        subjects: FloatArray,
        rng: np.random.Generator,
        runs: Sequence[int] | IntArray | None = None,
    ) -> RDMs:
        """RDMs of the measured responses, one a subject; descriptor ``subject``."""
        rdms = compute_rdms(self.responses(stimuli, subjects, rng, runs), "sqeuclidean")
        return RDMs.from_vectors(
            rdms.vectors,
            names=[f"subject {s}" for s in range(len(subjects))],
            descriptors={"subject": np.arange(len(subjects))},
        )

    def pearson(self, networks: FloatArray, subjects: FloatArray) -> FloatArray:
        """Pearson correlation (networks, subjects) over all pairs of the population's stimuli.

        It is that of a network's RDM with the *measured* RDM of a subject, without run noise:
        what measurements of ever more stimuli of these subjects tend to.
        """
        flat = networks.reshape(-1, *networks.shape[-2:])
        models, brains = (np.einsum("kic,kjc->kij", w, w) for w in (flat, subjects))
        inner = np.einsum("kij,sij->ks", models, brains)
        spread = np.einsum("kij,kij->k", models, models)
        channels = np.einsum("sic,sid->scd", subjects, subjects)
        channels += self.noise**2 * np.eye(self.n_channels)
        return inner / np.sqrt(np.outer(spread, np.einsum("scd,scd->s", channels, channels)))

    def presentation(
        self, stimuli: FloatArray, n_runs: int, rng: np.random.Generator, *, confound: float = 0.0
    ) -> IntArray:
        """Run (n,) in which each stimulus is shown, in runs of nearly equal length.

        Parameters
        ----------
        stimuli : latent features (n, n_latents).
        n_runs : runs.
        confound : correlation of a stimulus's place in the order with the first feature of the
            first rule: 0 is a random order, 1 one sorted by what that rule sees.
        """
        n = len(stimuli)
        chance = np.sqrt(1 - confound**2) * rng.standard_normal(n)
        runs = np.empty(n, np.int64)
        runs[np.argsort(confound * stimuli[:, self.size] + chance)] = np.arange(n) * n_runs // n
        return runs
