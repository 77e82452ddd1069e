"""The inference of a whole study of learning rules over training, on simulated RDMs.

5 rules × 5 seeds × 8 checkpoints × 4 layers against 6 regions × 3 subjects, 720 stimuli: a joint
permutation test of all 14,400 pairs, and trajectories with a bootstrap over stimuli and seeds.
Usage: ``python benchmarks/trajectory_study.py [--small] [--json]``
"""

import argparse
import itertools
import json
import resource
import sys
import time

import numpy as np

import rsafast as rf

RULES = ("untrained", "BP", "FA", "PC", "STDP")
EPOCHS = (0, 1, 2, 5, 10, 20, 30, 40)
LAYERS = ("conv1", "conv2", "conv3", "fc1")
REGIONS = ("V1", "V2", "V3", "hV4", "LOC", "IT")


def simulate(n: int, seeds: int) -> tuple[rf.RDMs, rf.RDMs]:
    """RDMs of networks that learn a common feature space, and of brains that hold it."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((n, 12)).astype(np.float32)
    rows = list(itertools.product(range(len(RULES)), range(seeds), EPOCHS, range(len(LAYERS))))
    vectors = np.empty((len(rows), n * (n - 1) // 2))
    for vector, (rule, _, epoch, layer) in zip(vectors, rows, strict=True):
        learnt = 0.0 if rule == 0 else 1 - np.exp(-epoch / (4 + 2 * rule))
        own = rng.standard_normal((n, 12)).astype(np.float32)
        mixed = latent * (0.3 + 0.1 * layer * learnt) + own
        vector[:] = rf.compute_rdms(mixed, "correlation").vectors[0]
    models = rf.RDMs.from_vectors(
        vectors,
        names=[f"{RULES[r]} seed {s} epoch {e} {LAYERS[k]}" for r, s, e, k in rows],
        descriptors={
            "rule": [RULES[r] for r, *_ in rows],
            "seed": [s for _, s, *_ in rows],
            "epoch": [e for *_, e, _ in rows],
            "layer": [LAYERS[k] for *_, k in rows],
        },
    )
    cells = list(itertools.product(REGIONS, range(3)))
    noise = rng.standard_normal((len(cells), n, 12)).astype(np.float32)
    patterns = rf.compute_rdms(0.4 * latent + noise, "correlation")
    brain = rf.RDMs.from_vectors(
        patterns.vectors,
        names=[f"{region} subject {subject}" for region, subject in cells],
        descriptors={"region": [r for r, _ in cells], "subject": [s for _, s in cells]},
    )
    return models, brain


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Simulate, test, resample; print seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="60 stimuli, few resamples: a check")
    parser.add_argument("--json", action="store_true", help="print only the figures, as JSON")
    parser.add_argument("--method", default="spearman")
    options = parser.parse_args()
    n, shuffles, resamples = (60, 1_000, 200) if options.small else (720, 100_000, 10_000)
    models, brain = simulate(n, 5)
    started = time.perf_counter()
    test = rf.permutation_test(
        models, brain, method=options.method, n_permutations=shuffles, memory_budget="2.6GB",
        progress=not options.json,
    )  # fmt: skip
    tested = time.perf_counter()
    curves = rf.trajectory(
        models, brain, method=options.method, rules="rule", seeds="seed", epochs="epoch",
        layers="layer", regions="region", subjects="subject", resample=("stimuli", "seeds"),
        n_resamples=resamples, progress=not options.json,
    )  # fmt: skip
    ended = time.perf_counter()
    figures = {
        "shuffles": test.n_permutations,
        "resamples": resamples,
        "seconds_shuffles": tested - started,
        "seconds_bootstrap": ended - tested,
        "peak_bytes": peak_bytes(),
    }
    if options.json:
        print(json.dumps(figures))
        return
    print(test.summary(), curves.summary(), json.dumps(figures, indent=1), sep="\n\n")


if __name__ == "__main__":
    sys.exit(main())
