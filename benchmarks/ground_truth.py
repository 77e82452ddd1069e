"""Practices of published studies beside ours, on simulated studies whose truth is known.

Two tables. False positives: how often a test rejects, at level alpha, a null hypothesis that holds
in the simulation; all tests of one experiment see the same data. Coverage: how often a 95 %
interval of `rf.bootstrap` holds the population value. What is simulated: `rsafast.demo.population`.
Usage: ``python benchmarks/ground_truth.py false-positives coverage report``, any of the three. The
report (tables and figure) is made of the stored results.
"""

import argparse
import csv
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rsafast_kernels import threads
from scipy.stats import binomtest, rankdata

import rsafast as rf
from rsafast.demo.population import Population
from rsafast.inference.bootstrap.api import bootstrap_of
from rsafast.inference.bootstrap.replicates import prepare_study, seeded_draws
from rsafast.plotting import DEFAULT_PALETTE, style_axes

HERE = Path(__file__).parent
TABLE = HERE / "results" / "ground_truth.csv"
REPORT = TABLE.with_suffix(".md")
FIGURE = HERE.parent / "docs" / "images" / "ground-truth.svg"
PAGE = HERE.parent / "docs" / "inference" / "simulations.md"
COLUMNS = (
    "part", "question", "n", "subjects", "method", "resampled", "test", "role", "nominal", "hits",
    "experiments", "rate", "low", "high",
)  # fmt: skip

DESIGN = COLUMNS[: COLUMNS.index("nominal")]

ALPHA, LEVEL = 0.05, 0.95
SUBJECTS, SEEDS, LAYERS, RUNS = 5, 8, 8, 8  # of the experiments on false positives
RESAMPLES = 500
FEW = 100  # shuffles where the smallest p is at stake
SHUFFLES = 200  # of RDM entries, the observed order among them
ROUNDING = 1e-12
CHUNK = 25  # experiments that a process does at a time


# ---------------------------------------------------------------- false positives


def entries(n, seed):
    """One unrelated model: RDM entries or stimuli are shuffled."""
    model, brain = unrelated(n, seed)
    rng = np.random.default_rng([seed, 1])
    return {
        "entries shuffled": entry_p(model, brain, rng),
        "stimuli shuffled": label_p(model, brain),
    }


def zero(n, seed):
    """The same with few shuffles of the stimuli, the observed labelling counted or not."""
    model, brain = unrelated(n, seed)
    null = rf.permutation_test(
        model, brain, n_permutations=FEW, engine="direct", seed=seed, progress=False
    )
    others = null.n_permutations - 1
    without = (null.exceedances[0, 0] - 1) / others
    return {"share of shuffles": without, "observed labelling counted": null.p_value[0, 0]}


def layer(n, seed):
    """Eight layers, none related: the best one is tested as if it had been fixed."""
    population = Population(shares=(0.0,) * LAYERS, common=0.3, noise=1.0)
    rng = np.random.default_rng([n, seed])
    stimuli = population.stimuli(n, rng)
    models = population.model_rdms(stimuli, population.networks(1, rng))
    brain = population.brain_rdms(stimuli, population.subjects(SUBJECTS, rng), rng).mean()
    test = rf.permutation_test(models, brain, n_permutations=shuffles(n), progress=False)
    best = int(np.argmax(test.statistic[:, 0]))
    return {
        "best layer as if fixed": test.p_value[best, 0],
        "max-T over layers": test.p_value_fwer[:, 0].min(),
    }


def runs(n, seed):
    """An unrelated model, whose first feature the order of presentation follows."""
    population = Population(shares=(0.0,), noise=1.0, run_noise=1.0)
    rng = np.random.default_rng([n, seed])
    stimuli = population.stimuli(n, rng)
    order = population.presentation(stimuli, RUNS, rng, confound=0.8)
    model = population.model_rdms(stimuli, population.networks(1, rng))
    brain = population.brain_rdms(stimuli, population.subjects(SUBJECTS, rng), rng, order).mean()
    return by_runs(model, brain, order)


def order(n, seed):
    """Two subjects without anything in common but the order of presentation."""
    population = Population(shares=(0.0,), noise=1.0, run_noise=1.0)
    rng = np.random.default_rng([n, seed])
    shown = rng.permutation(np.arange(n) * RUNS // n)
    one, two = (
        population.brain_rdms(population.stimuli(n, rng), population.subjects(1, rng), rng, shown)
        for _ in range(2)
    )
    return by_runs(one, two, shown)


def by_runs(model, brain, order):
    """P-values with all pairs, with cross-run pairs, and with shuffles inside the runs as well."""
    across = order[:, None] != order[None]
    return {
        "all pairs": label_p(model, brain),
        "cross-run pairs": label_p(model, brain, mask=across),
        "cross-run pairs, shuffled within runs": label_p(model, brain, mask=across, blocks=order),
    }


def pairs(n, seed):
    """Two models, equally related: entries of the RDMs or stimuli are bootstrapped."""
    population = Population(shares=(0.4, 0.4), common=0.3, noise=1.0)
    rng = np.random.default_rng([n, seed])
    stimuli = population.stimuli(n, rng)
    models = population.model_rdms(stimuli, population.networks(1, rng))
    brain = population.brain_rdms(stimuli, population.subjects(SUBJECTS, rng), rng)
    return {
        "entries bootstrapped": entry_bootstrap_p(models, brain, rng),
        "stimuli bootstrapped": difference_p(models, brain, ("stimuli",), seed),
    }


def seeds(n, seed):
    """Networks of two groups that differ in nothing but their seeds."""
    population = Population(
        shares=(1.0, 0.0), common=1.0, size=2, noise=0.3, individual=0.3, initial=1.0, drift=0.3
    )
    rng = np.random.default_rng([n, seed])
    stimuli = population.stimuli(n, rng)
    models = population.model_rdms(stimuli, population.networks(2 * SEEDS, rng))
    brain = population.brain_rdms(stimuli, population.subjects(SUBJECTS, rng), rng)
    first, second = (models.descriptors["rule"] == f"rule {rule}" for rule in (0, 1))
    early = models.descriptors["seed"] < SEEDS
    other, same = models[first & early | second & ~early], models[early]
    scores = rf.compare(same, brain, "pearson").mean(axis=1)
    groups = rf.compare(other, brain, "pearson").mean(axis=1)
    return {
        "other seeds, networks as fixed": difference_p(other, brain, ("stimuli",), seed),
        "other seeds, resampled with the stimuli": difference_p(
            other, brain, ("stimuli", "seeds"), seed
        ),
        "other seeds, labels swapped": swap_p(groups[:SEEDS], groups[SEEDS:]),
        "same seeds, sign flips": rf.sign_flip_test(scores[:SEEDS] - scores[SEEDS:]).p_value[0],
    }


def unrelated(n, seed):
    """RDMs of an unrelated model and of the mean of some subjects."""
    population = Population(shares=(0.0,), noise=1.0)
    rng = np.random.default_rng([n, seed])
    stimuli = population.stimuli(n, rng)
    model = population.model_rdms(stimuli, population.networks(1, rng))
    return model, population.brain_rdms(stimuli, population.subjects(SUBJECTS, rng), rng).mean()


def shuffles(n):
    """Whole orbits of n shuffles, about 1,000, so that alpha times their number is whole."""
    return n * max(20 * round(1000 / n / 20), 10 if n < 200 else 1)


def label_p(model, brain, **options):
    """P-value of our permutation test."""
    count = shuffles(model.n_stimuli)
    test = rf.permutation_test(model, brain, n_permutations=count, progress=False, **options)
    return test.p_value[0, 0]


def entry_p(model, brain, rng):
    """P-value of a Spearman correlation by shuffling the entries of an RDM."""
    a, b = (rankdata(r.vectors[0]) for r in (model, brain))
    a, b = (v - v.mean() for v in (a, b))
    null = np.array([rng.permutation(a) @ b for _ in range(SHUFFLES - 1)])
    return (1 + (null >= a @ b).sum()) / SHUFFLES


def difference_p(models, brain, resample, seed):
    """P-value of "two rules are equally close to the brain" by our bootstrap, Pearson."""
    result = rf.bootstrap(
        models, brain, method="pearson", resample=resample, rules="rule", seeds="seed",
        n_resamples=RESAMPLES, seed=seed, progress=False,
    )  # fmt: skip
    return result.p_pairwise[0, 0, 1]


def swap_p(a, b):
    """P-value of "two groups of networks align equally" by swapping their labels."""
    return rf.swap_test(a, b, paired=False, progress=False).p_value[0]


def entry_bootstrap_p(models, brain, rng):
    """The same by drawing RDM entries with replacement; two-sided share of resamples."""
    a, b = models.vectors, brain.vectors
    total = a.shape[1]
    differences = np.empty(SHUFFLES - 1)
    for r in range(SHUFFLES - 1):
        drawn = rng.integers(0, total, total)
        scores = np.corrcoef(np.vstack([a[:, drawn], b[:, drawn]]))[:2, 2:].mean(axis=1)
        differences[r] = scores[0] - scores[1]
    below, above = (differences <= 0).sum(), (differences >= 0).sum()
    return (2 * min(below, above) + 1) / SHUFFLES


@dataclass(frozen=True)
class Practice:
    """A question to simulated data, and the tests that answer it.

    Attributes
    ----------
    title : what is asked, where nothing is to be found.
    experiment : (n, seed) to the p-value of every test.
    roles : test to "published", "half way" or "ours".
    experiments : how many, for each number of stimuli.
    alpha : level of the tests.
    """

    title: str
    experiment: Callable[[int, int], dict[str, float]]
    roles: dict[str, str]
    experiments: dict[int, int]
    alpha: float = ALPHA


BY_RUNS = {
    "all pairs": "published",
    "cross-run pairs": "half way",
    "cross-run pairs, shuffled within runs": "ours",
}
PRACTICES = {
    "entries": Practice(
        "Is an unrelated model related to the brain?",
        entries,
        {"entries shuffled": "published", "stimuli shuffled": "ours"},
        {92: 2000, 720: 100},
    ),
    "zero": Practice(
        f"The same, {FEW} shuffles, at a level of .001",
        zero,
        {"share of shuffles": "published", "observed labelling counted": "ours"},
        {24: 5000},
        alpha=0.001,
    ),
    "pairs": Practice(
        "Does one of two equal models fit better?",
        pairs,
        {"entries bootstrapped": "published", "stimuli bootstrapped": "ours"},
        {92: 1000},
    ),
    "runs": Practice(
        "Does an unrelated model fit that the order of presentation follows?",
        runs,
        BY_RUNS,
        {92: 1000},
    ),
    "order": Practice(
        "Do two subjects agree who share the order of presentation alone?",
        order,
        BY_RUNS,
        {92: 1000},
    ),
    "layer": Practice(
        "Is any of 8 unrelated layers related?",
        layer,
        {"best layer as if fixed": "published", "max-T over layers": "ours"},
        {92: 2000, 720: 500},
    ),
    "seeds": Practice(
        "Do two groups of networks differ that differ in their seeds alone?",
        seeds,
        {
            "other seeds, networks as fixed": "published",
            "other seeds, resampled with the stimuli": "ours",
            "other seeds, labels swapped": "ours",
            "same seeds, sign flips": "ours",
        },
        {92: 500},
    ),
}


def p_values(key, n, start, stop):
    """P-values of experiments number start to stop: test to list."""
    with threads(1):
        rows = [PRACTICES[key].experiment(n, seed) for seed in range(start, stop)]
    return {test: [row[test] for row in rows] for test in PRACTICES[key].roles}


def false_positives(run, only=("",)):
    """Rows of the table of false positives; `run` maps a function over lists of arguments."""
    for key, practice in PRACTICES.items():
        if not all(word in key for word in only):
            continue
        for n, total in practice.experiments.items():
            parts = run(p_values, *zip(*((key, n, *part) for part in chunks(total)), strict=True))
            p = {test: [] for test in practice.roles}
            for part in parts:
                for test, values in part.items():
                    p[test] += values
            for test, role in practice.roles.items():
                hits = int((np.array(p[test]) <= practice.alpha + ROUNDING).sum())
                yield row("false positives", key, n, test, role, practice.alpha, hits, total)


# ---------------------------------------------------------------- coverage


POPULATIONS = {
    # Mean and spread over subjects are those of human IT with monkey IT (see the page).
    "as measured": Population(
        shares=(0.4, 0.3), common=0.3, gain_spread=0.3, individual=0.5, noise=0.5
    ),
    "moderate noise": Population(
        shares=(0.4, 0.3), common=0.3, gain_spread=0.3, individual=1.0, noise=1.0
    ),
    "strong noise": Population(
        shares=(0.4, 0.3), common=0.3, gain_spread=0.3, individual=0.5, noise=2.0
    ),
    "networks differ": Population(
        shares=(0.4, 0.3), common=0.3, gain_spread=0.3, individual=1.0, noise=1.0, initial=1.0,
        drift=1.0,
    ),
}  # fmt: skip
POOL = 1000  # subjects of a population
INTERVALS = ("percentile", "basic", "bca", "t")
TARGETS = ("estimate", "difference")


@cache
def subjects_of(population):
    """Weights of the subjects of a population, the same in every study."""
    rng = np.random.default_rng(zlib.crc32(population.encode()))
    return POPULATIONS[population].subjects(POOL, rng)


@dataclass(frozen=True)
class Design:
    """Studies whose intervals are tried.

    One simulated study serves several bootstraps: of its first subjects or of all, with some
    factors resampled or others. They share the resamples of the stimuli, which take the time.

    Attributes
    ----------
    population : key of `POPULATIONS`.
    n, seeds : stimuli, and networks of each rule.
    method : comparator.
    resampled : factors that are resampled, once for every bootstrap. Stimuli and networks that
        are in none stay the same in all studies; subjects are always drawn from the pool.
    experiments : how many studies.
    subjects : how many, once for every bootstrap.
    """

    population: str
    n: int
    method: str
    resampled: tuple[tuple[str, ...], ...]
    experiments: int
    subjects: tuple[int, ...] = (10, 20)
    seeds: int = 1

    @property
    def bootstraps(self):
        """Number of subjects and factors of each."""
        return tuple(product(self.subjects, self.resampled))

    @property
    def new(self):
        """What differs from study to study, beside subjects and noise."""
        return set().union(*self.resampled)

    @property
    def key(self):
        """Seed of what the studies have in common."""
        return zlib.crc32(repr((self.population, self.n, sorted(self.new))).encode())

    @property
    def only_subjects(self):
        """Whether studies differ in their subjects alone."""
        return self.new == {"subjects"}

    @property
    def compared(self):
        """How `prepare_study` is to compare."""
        return {"method": self.method, "rules": "rule", "seeds": "seed"}

    def draw(self, rng):
        """Stimuli and networks of a study."""
        population, fixed = POPULATIONS[self.population], np.random.default_rng(self.key)
        stimuli = population.stimuli(self.n, rng if "stimuli" in self.new else fixed)
        networks = population.networks(self.seeds, rng if "seeds" in self.new else fixed)
        return stimuli, networks

    def study(self, people, rng):
        """Model and brain RDMs of a study of the subjects `people` of the pool."""
        stimuli, networks = self.draw(rng)
        population = POPULATIONS[self.population]
        return (
            population.model_rdms(stimuli, networks),
            population.brain_rdms(stimuli, subjects_of(self.population)[people], rng),
        )


def population_values(design, size=1.0):
    """What the intervals of a design should hold: (rules, subjects of the pool) mean scores.

    Pearson over the population of stimuli has a closed form and Spearman is that of many
    independent pairs of stimuli. For whitened comparators, which depend on the number of stimuli,
    only the mean over the pool is found, (rules, 1): that of many studies. Where stimuli and
    networks are fixed, every subject of the pool is measured many times, (rules, measurements):
    studies draw from these.

    Parameters
    ----------
    size : 1, or less for rougher values in less time.
    """
    rng = np.random.default_rng([design.key, 1])
    if "stimuli" in design.new and design.method in ("pearson", "spearman"):
        return values_over_all_stimuli(design, rng, size)
    passes = max(1, round(size * (20 if design.only_subjects else 100)))
    scores = [
        by_rule(rf.compare(*design.study(people, rng), design.method), design)
        for _ in range(passes)
        for people in np.arange(POOL).reshape(-1, 20)
    ]
    return np.hstack(scores) if design.only_subjects else np.mean(scores, axis=(0, 2))[:, None]


def values_over_all_stimuli(design, rng, size):
    population, subjects = POPULATIONS[design.population], subjects_of(design.population)
    value = population.pearson
    if design.method == "spearman":
        value = sampled_spearman(population, rng, round(100_000 * size))
    many = round(1000 * size) if "seeds" in design.new else 1
    networks = [design.draw(rng)[1] for _ in range(many)]
    parts = np.split(subjects, POOL // 20)
    return np.mean(
        [np.hstack([by_rule(value(w, part), design) for part in parts]) for w in networks], axis=0
    )


def sampled_spearman(population, rng, pairs):
    """Function of networks and subjects: Spearman over independent pairs of stimuli."""

    def value(networks, subjects):
        apart = np.sqrt(2) * rng.standard_normal((pairs, population.n_latents))
        models = apart @ networks.reshape(-1, *networks.shape[-2:])
        noise = np.sqrt(2) * population.noise
        brains = apart @ subjects
        brains += noise * rng.standard_normal(brains.shape)
        ranks = [rankdata((f**2).sum(axis=2), axis=1) for f in (models, brains)]
        return np.corrcoef(*ranks)[: len(models), len(models) :]

    return value


def by_rule(scores, design):
    """Mean score (rules, N) over seeds, of scores with the rules varying slowest."""
    return scores.reshape(-1, design.seeds, scores.shape[1]).mean(axis=1)


class SharedScores:
    """Scores on resamples of the stimuli with all subjects, computed once for all bootstraps."""

    def __init__(self, comparison):
        self._comparison, self._known = comparison, {}

    def of_first(self, count):
        """Stands for the comparison with the first subjects alone."""
        return SimpleNamespace(
            scores=lambda weights: self._scores(weights)[..., :count],
            device=self._comparison.device,
        )

    def _scores(self, weights):
        key = weights.tobytes()
        if key not in self._known:
            self._known[key] = self._comparison.scores(weights)
        return self._known[key]


def experiment(design, values, seed):
    """Subjects (most subjects,) of a study, and its intervals (bootstraps, kinds, targets, 2)."""
    rng = np.random.default_rng([design.key, 2, seed])
    people, studies = (subjects_study if design.only_subjects else new_study)(design, values, rng)
    got = []
    for count, factors in design.bootstraps:
        draws = seeded_draws(studies[count], factors, RESAMPLES, seed)
        got.append([interval(kind, studies[count], draws, seed) for kind in INTERVALS])
    return people, np.array(got)


def new_study(design, _, rng):
    """Subjects of the pool, and studies of the first of them by their number."""
    people = rng.integers(0, POOL, max(design.subjects))
    models, brain = design.study(people, rng)
    whole, studies = prepare_study(models, brain, **design.compared), {}
    shared = SharedScores(whole.comparison)
    for count in design.subjects:
        part = whole
        if count < len(people):
            part = prepare_study(models, brain[np.arange(count)], **design.compared)
        studies[count] = replace(part, comparison=shared.of_first(count))
    return people, studies


def subjects_study(design, values, rng):
    """The same of measured subjects, whose scores are all that differs from study to study."""
    people = rng.integers(0, values.shape[1], max(design.subjects))
    return people, {
        count: replace(any_study(design, count), observed=values[:, people[:count]])
        for count in design.subjects
    }


@cache
def any_study(design, count):
    """A study of so many subjects."""
    models, brain = design.study(np.arange(count), np.random.default_rng(0))
    return prepare_study(models, brain, **design.compared)


def interval(kind, study, draws, seed):
    """Intervals (targets, 2) of the first rule, and of its difference from the second."""
    result = bootstrap_of(study, draws, interval_kind=kind, level=LEVEL, seed=seed)
    return np.stack([result.ci[0, 0], result.difference_ci[0, 0, 1]])


def truths(design, values, people):
    """What the intervals of one study should hold, (bootstraps, targets)."""
    wanted = []
    for count, factors in design.bootstraps:
        whose = values if "subjects" in factors else values[:, people[:count]]
        one, two = whose.mean(axis=1)[:2]
        wanted.append([one, one - two])
    return np.array(wanted)


def covered(design, values, start, stop):
    """How often the intervals (bootstraps, kinds, targets) of some experiments hold the truth."""
    hits = np.zeros((len(design.bootstraps), len(INTERVALS), len(TARGETS)), int)
    with threads(1):
        for seed in range(start, stop):
            people, got = experiment(design, values, seed)
            wanted = truths(design, values, people)[:, None]
            hits += (got[..., 0] <= wanted) & (wanted <= got[..., 1])
    return hits


def designs():
    """Every design of the table of coverage."""
    stimuli, subjects, both = ("stimuli",), ("subjects",), ("stimuli", "subjects")
    for population, n, method, experiments in (
        ("as measured", 92, "pearson", 2000),
        ("as measured", 720, "pearson", 2000),
        ("as measured", 720, "spearman", 1600),
        ("moderate noise", 92, "pearson", 2000),
        ("moderate noise", 92, "spearman", 2000),
        ("strong noise", 92, "pearson", 2000),
    ):
        yield Design(population, n, method, (stimuli, both), experiments)
        yield Design(population, n, method, (subjects,), 2000)
    yield Design("moderate noise", 720, "pearson", (subjects,), 2000)
    for population in ("as measured", "moderate noise"):
        yield Design(population, 92, "cosine_cov", (both,), 2000)
    seeds = (("stimuli", "seeds"), ("stimuli", "subjects", "seeds"))
    yield Design("networks differ", 92, "pearson", seeds, 2000, (10,), seeds=10)


def coverage(run, wanted):
    """Rows of the table of coverage."""
    for design in wanted:
        values = population_values(design)
        arguments = ((design, values, *part) for part in chunks(design.experiments))
        hits = sum(run(covered, *zip(*arguments, strict=True)))
        for (b, (count, factors)), (i, kind), (j, target) in product(
            enumerate(design.bootstraps), enumerate(INTERVALS), enumerate(TARGETS)
        ):
            yield row(
                "coverage", design.population, design.n, kind, target, LEVEL, int(hits[b, i, j]),
                design.experiments, count, design.method, "+".join(factors),
            )  # fmt: skip


# ---------------------------------------------------------------- tables


def chunks(total):
    """Parts (start, stop) of 0..total."""
    return [(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK)]


def row(part, question, n, test, role, nominal, hits, total, subjects="", method="", resampled=""):
    """One row of the table, with the exact binomial interval of the rate."""
    low, high = binomtest(hits, total).proportion_ci(method="exact")
    numbers = (f"{value:.4f}" for value in (hits / total, low, high))
    given = (part, question, n, subjects, method, resampled, test, role, nominal, hits, total)
    return dict(zip(COLUMNS, (*map(str, given), *numbers), strict=True))


def stored():
    """Rows of the stored table."""
    if not TABLE.exists():
        return []
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def store(rows):
    """Write rows into the table as they come, in place of older ones of the same design."""
    for new in rows:
        design = [new[name] for name in DESIGN]
        every = [r for r in stored() if [r[name] for name in DESIGN] != design] + [new]
        with TABLE.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(sorted(every, key=place))


def place(r):
    """Where a row belongs in the table; rows of one place stay in the order they came in."""
    questions, roles = [*PRACTICES, *POPULATIONS], ("published", "half way", "ours", *TARGETS)
    kind = INTERVALS.index(r["test"]) if r["test"] in INTERVALS else 0
    return (
        r["part"] == "coverage", questions.index(r["question"]), r["method"], r["resampled"],
        int(r["n"]), int(r["subjects"] or 0), roles.index(r["role"]), kind,
    )  # fmt: skip


def share(r):
    """A rate with its interval, in per cent."""
    rate, low, high = (100 * float(r[name]) for name in ("rate", "low", "high"))
    return f"{rate:.1f} ({low:.1f}–{high:.1f})"


def false_positive_table(rows):
    """Markdown: one line a test."""
    lines = ["| question, and what holds | test | n | α (%) | false positives (%) |", "|---|" * 5]
    lines[1] = "|---|---|---|---|---|"
    for r in rows:
        practice = PRACTICES[r["question"]]
        name = f"**{r['test']}**" if r["role"] == "ours" else r["test"]
        lines.append(
            f"| {practice.title} | {name} | {r['n']} | {100 * float(r['nominal']):g} | {share(r)} |"
        )
    return "\n".join(lines)


def coverage_table(rows):
    """Markdown: one line a design and target, one column a kind of interval."""
    lines = [
        f"| study | comparator | resampled | n | subjects | of | {' | '.join(INTERVALS)} | runs |",
        "|---" * (7 + len(INTERVALS)) + "|",
    ]
    designs = {}
    for r in rows:
        names = ("question", "method", "resampled", "n", "subjects", "role", "experiments")
        designs.setdefault(tuple(r[name] for name in names), {})[r["test"]] = r
    for (*design, total), kinds in designs.items():
        rates = " | ".join(f"{100 * float(kinds[kind]['rate']):.1f}" for kind in INTERVALS)
        lines.append(f"| {' | '.join(design)} | {rates} | {total} |")
    return "\n".join(lines)


def write_report():
    """Write the tables beside the result and into the page, and draw the figure."""
    rows = stored()
    tables = {
        "false-positives": false_positive_table([r for r in rows if r["part"] != "coverage"]),
        "coverage": coverage_table([r for r in rows if r["part"] == "coverage"]),
    }
    REPORT.write_text("\n\n".join(tables.values()) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
        before, rest = page.split(start)
        page = f"{before}{start}\n{table}\n{end}{rest.split(end)[1]}"
    PAGE.write_text(page, encoding="utf-8")
    draw(rows).savefig(FIGURE, metadata={"Date": None})


def draw(rows):
    """False-positive rates of every test at n = 92, and the coverage of every interval."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rsafast", "font.size": 8.5})
    figure = Figure(figsize=(7.6, 7.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(1.55, 1))
    shown = [r for r in rows if r["part"] != "coverage" and r["n"] == "92"]
    draw_false_positives(upper, [r for r in shown if r["question"] != "zero"])
    draw_coverage(lower, [r for r in rows if r["part"] == "coverage"])
    return figure


def draw_false_positives(ax, rows):
    style_axes(ax)
    place, names, titles = 0.0, [], set()
    for r in rows:
        if r["question"] not in titles:
            titles.add(r["question"])
            place -= 1.9
            ax.text(0, place + 0.75, PRACTICES[r["question"]].title, weight="bold", va="center",
                    transform=ax.get_yaxis_transform(), color=DEFAULT_PALETTE.ink)  # fmt: skip
        ours = r["role"] == "ours"
        rate, low, high = (100 * float(r[name]) for name in ("rate", "low", "high"))
        colour = DEFAULT_PALETTE.ink if ours else DEFAULT_PALETTE.accent
        ax.plot([low, high], [place, place], color=colour, linewidth=1.4)
        ax.plot(rate, place, "o" if ours else "s", color=colour, markersize=5)
        names.append((place, r["test"]))
        place -= 1.0
    ax.axvline(100 * ALPHA, color=DEFAULT_PALETTE.edge, linewidth=0.8, linestyle="--")
    ax.set_yticks([p for p, _ in names], [name for _, name in names])
    ax.set(xlim=(0, 100), ylim=(place, 0.2), xlabel="false positives (%), 95 % interval; dashed: α")
    ax.set_title("practices of published studies (squares) and ours (dots)", loc="left", fontsize=9)


def draw_coverage(ax, rows):
    style_axes(ax)
    groups = list(dict.fromkeys(r["resampled"] for r in rows))
    marks = dict(zip(INTERVALS, "osD^", strict=True))
    for g, name in enumerate(groups):
        own = [r for r in rows if r["resampled"] == name]
        spread = np.linspace(-0.4, 0.4, len(own)) if len(own) > 1 else [0.0]
        for x, r in zip(spread, own, strict=True):
            rate, low, high = (100 * float(r[key]) for key in ("rate", "low", "high"))
            colour = DEFAULT_PALETTE.ink if r["n"] == "92" else DEFAULT_PALETTE.accent
            ax.plot([g + x] * 2, [low, high], color=colour, linewidth=0.5, alpha=0.4)
            ax.plot(g + x, rate, marks[r["test"]], color=colour, markersize=2.6)
    ax.axhspan(93, 97, color=DEFAULT_PALETTE.fill, alpha=0.4, linewidth=0)
    ax.axhline(95, color=DEFAULT_PALETTE.edge, linewidth=0.8, linestyle="--")
    ax.set_xticks(range(len(groups)), [name.replace("+", " ×\n") for name in groups])
    ax.set(ylim=(88, 100), xlabel="resampled; band: 2 points", ylabel="coverage of 95 % intervals")
    marks = "dots percentile, squares basic, diamonds BCa, triangles t"
    ax.set_title(f"{marks};\n92 stimuli dark, 720 light", loc="left", fontsize=9)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=("false-positives", "coverage", "report"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--only", nargs="+", default=[""], help="what the experiment or design must be called"
    )
    given = parser.parse_args()
    with ProcessPoolExecutor(given.workers) as pool:
        if "false-positives" in given.parts:
            store(false_positives(pool.map, given.only))
        if "coverage" in given.parts:
            chosen = (d for d in designs() if all(word in str(d) for word in given.only))
            store(coverage(pool.map, chosen))
    if "report" in given.parts:
        write_report()


if __name__ == "__main__":
    main()
