"""Warnings where a practice would have misled, each computed from the study itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from rsafast.study.networks import CONTROL, UNTRAINED
from rsafast.study.recipe import Nsd, RdmFiles, RdmFolder, SimulatedBrain, ThingsFmri
from rsafast.study.report.findings import against_untrained
from rsafast.study.report.practices import evaluation, evidence, faithful
from rsafast.study.report.tables import Study
from rsafast.study.report.words import counted, listed, number, p_text, pixels, seen_as

_HARDLY = 0.01  # weight drift below which a layer has hardly learned
_EXACT = {
    "seeds-paired": "sign flips over matched seeds",
    "seeds": "relabelling of seeds",
    "subjects": "sign flips over subjects",
    "labels": "relabelling of stimuli",
}


def cautions(study: Study) -> list[tuple[str, str]]:
    """Return (heading, text) of all that applies to this study."""
    checks: tuple[Callable[[Study], Iterator[tuple[str, str]]], ...] = (
        _simulated, _few_seeds, _floors, _narrow_tests, _uncorrected, _controls, _regimes,
        _layers, _drift, faithful, evaluation, evidence, _trained_on, _presentations, _same_run,
        _ceilings, _resampling, _sizes, _elsewhere,
    )  # fmt: skip
    return [caution for check in checks for caution in check(study)]


def _simulated(study: Study) -> Iterator[tuple[str, str]]:
    if isinstance(study.recipe.brain, SimulatedBrain):
        yield (
            "Simulated brain",
            (
                "The subjects are simulated. The study shows how an analysis runs, and says nothing"
                " about brains."
            ),
        )


def _few_seeds(study: Study) -> Iterator[tuple[str, str]]:
    seeds = len(study.recipe.networks.seeds)
    if seeds >= 6:
        return
    table = study.table("differences", study.sizes[0])
    table = table[table["p_value"].notna()]
    floors = table[table["rung"].isin(["seeds-paired", "seeds"])].groupby("rung")["floor"].max()
    quoted = [f"{p_text(p)} ({_EXACT[str(rung)]})" for rung, p in floors.dropna().items()]
    said = (
        f"Exact tests over seeds cannot fall below p = {listed(quoted)}."
        if quoted
        else "No exact test over seeds could be made."
    )
    yield (
        "Few seeds",
        (
            f"There {'is' if seeds == 1 else 'are'} {counted(seeds, 'seed')} a rule. {said} Six"
            " matched seeds are the fewest that can reach 0.05 two-sided, before any correction."
        ),
    )


def _floors(study: Study) -> Iterator[tuple[str, str]]:
    """Exact tests that no data could make significant after correction."""
    adjust = study.recipe.inference.adjust
    for size in study.sizes:
        hopeless = []
        for rung, rows in study.table("differences", size).groupby("rung", sort=False):
            tests = int(rows["p_value"].notna().sum())
            floor = float(rows["floor"].min())
            # Under the step-up corrections equal p-values at the floor are not raised at all.
            least = floor * tests if adjust in ("holm", "bonferroni") else floor
            if tests and least > study.alpha:
                hopeless.append(f"{rung} (floor {p_text(floor)}, {counted(tests, 'test')})")
        if hopeless:
            yield (
                f"Tests that could not have found anything{study.at(size)}",
                (
                    f"No p-value can fall below the floor of its test, and correction raises it. At"
                    f" {study.alpha:g} these tests cannot be significant after correction, whatever"
                    f" the data: {'; '.join(hopeless)}. Their large p-values are no evidence of"
                    " equality."
                ),
            )


def _narrow_tests(study: Study) -> Iterator[tuple[str, str]]:
    for size in study.sizes:
        broadest = study.rung(size)
        keys = ["rule_a", "rule_b", "region"]
        table = study.table("differences", size)
        found = table[study.significant(table)]
        kept = set(found.loc[found["rung"] == broadest, keys].itertuples(index=False, name=None))
        counts = []
        for rung, rows in found.groupby("rung", sort=False):
            lost = set(rows[keys].itertuples(index=False, name=None)) - kept
            if lost:
                counts.append(f"“{rung}” {len(lost)}")
        if counts:
            yield (
                f"Narrower tests find more{study.at(size)}",
                (
                    f"Comparisons that are significant after correction on a narrower test, and not"
                    f" on “{broadest}”: {', '.join(counts)}. Such a difference is shown for what"
                    " that test takes as given, and not beyond it."
                ),
            )


def _uncorrected(study: Study) -> Iterator[tuple[str, str]]:
    for size in study.sizes:
        rows = study.differences(size)
        lost = rows[(rows["p_value"] <= study.alpha) & ~study.significant(rows)]
        if len(lost):
            names = [f"{r.rule_a} − {r.rule_b} in {r.region}" for r in lost.itertuples()]
            yield (
                f"Without correction{study.at(size)}",
                (
                    f"{counted(len(lost), 'comparison')} would be called significant without"
                    f" correction and {'is' if len(lost) == 1 else 'are'} not with it:"
                    f" {listed(names)}."
                ),
            )


def _controls(study: Study) -> Iterator[tuple[str, str]]:
    """Where the batch-norm statistics decide what a rule seems to have learned."""
    missing = [rule for rule in study.trained if f"{rule}{CONTROL}" not in study.conditions]
    if missing:
        yield (
            "No matched control",
            (
                f"{listed(missing)} can only be compared with the untrained network, which may"
                " differ in batch normalisation as well as in what was learned. The change from"
                " before training (in the table of trajectories) starts from the same network."
            ),
        )
    for size in study.sizes:
        said = []
        for rule in study.trained:
            for region, rows in against_untrained(study, size, rule).groupby("region", sort=False):
                if len(rows) == 2 and _disagree(study, rows):
                    said.append(_disagreement(study, rule, str(region), rows))
        if said:
            yield (
                f"Batch-norm statistics{study.at(size)}",
                (
                    "The untrained network and the matched control have the same weights, and"
                    " differ in the statistics of batch normalisation alone. The choice between"
                    f" them changes the conclusion: {'; '.join(said)}. The matched control is the"
                    " fair one."
                ),
            )


def _disagree(study: Study, rows: pd.DataFrame) -> bool:
    significant = study.significant(rows)
    opposite = rows["estimate"].gt(0).nunique() == 2
    return bool(significant.nunique() == 2 or (significant.all() and opposite))


def _disagreement(study: Study, rule: str, region: str, rows: pd.DataFrame) -> str:
    of = rows.set_index("rule_b")
    parts = [
        f"{rule} − {name} {number(of.loc[name, 'estimate'])}"
        f" (corrected p = {p_text(of.loc[name, 'p_adjusted'])})"
        for name in (UNTRAINED, f"{rule}{CONTROL}")
    ]
    return f"in {region}, {' but '.join(parts)}"


def _regimes(study: Study) -> Iterator[tuple[str, str]]:
    regimes = study.batch_norm
    own = regimes.get(UNTRAINED)
    other = [f"{rule} ({regimes[rule]})" for rule in study.trained
             if own is not None and regimes.get(rule, own) != own]  # fmt: skip
    if other:
        yield (
            "Different batch normalisation",
            (
                f"The untrained network was made with the regime “{own}”, {listed(other)} with"
                " another. Against the untrained network, these differ in the regime as well as in"
                " what they learned; their change from before training does not."
            ),
        )


def _layers(study: Study) -> Iterator[tuple[str, str]]:
    """What the best layer, chosen after the fact, would have promised."""
    for size in study.sizes:
        table = study.table("alignment", size)
        last = table[table["epoch"] == table.groupby("rule")["epoch"].transform("max")]
        means = last.groupby(["rule", "region", "layer"])["similarity"].mean()
        said = []
        for region, layer in study.pairs.items():
            gains = []
            for rule in study.trained:
                if (rule, region, layer) not in means.index:
                    continue
                own, best = float(means[rule, region, layer]), means[rule, region]
                if float(best.max()) > own:
                    gains.append((float(best.max()) - own, rule, str(best.idxmax()), own))
            if gains:
                gain, rule, best_layer, own = max(gains)
                said.append(
                    f"{rule} in {region}, {number(own + gain)} ({best_layer}) instead of"
                    f" {number(own)} ({layer})"
                )
        if said:
            yield (
                f"The best layer, chosen afterwards{study.at(size)}",
                (
                    "Picking the layer that aligns best raises alignment even where nothing was"
                    f" learned. The largest gains: {'; '.join(said)}. Tests here use the layers"
                    " that the recipe names, and no p-value covers such a choice."
                ),
            )


def _drift(study: Study) -> Iterator[tuple[str, str]]:
    columns = [c for c in study.drift.columns if c.startswith("drift/")]
    for rule in study.trained:
        own = study.drift[study.drift["rule"] == rule]
        own = own[own["epoch"] == own["epoch"].max()]
        if own.empty:
            continue
        mean = own[columns].mean()
        small = [c for c in columns if mean[c] < _HARDLY]
        if not small:
            continue
        where = [f"{c.removeprefix('drift/')} {100 * mean[c]:.2g} %" for c in small]
        accuracy = own["test_accuracy"].mean()
        tested = "not known" if np.isnan(accuracy) else f"{100 * accuracy:.1f} %"
        yield (
            f"{rule} hardly learned",
            (
                f"{'All' if len(small) == len(columns) else 'Some'} layers of {rule} moved by less"
                f" than 1 % from their initial weights: {', '.join(where)} (mean over seeds); test"
                f" accuracy {tested}. What these layers align with is the untrained network's"
                " doing."
            ),
        )


def _trained_on(study: Study) -> Iterator[tuple[str, str]]:
    images, data = study.recipe.stimuli.images, study.recipe.networks.data
    if study.recipe.networks.weights is not None:
        return
    if images == "digits" and data == "digits":
        yield (
            "Stimuli that networks may have been trained on",
            (
                "The stimuli and the training images are digits of one collection, and nothing"
                " keeps them apart. Alignment may rest on images that the networks have seen."
            ),
        )
    elif images == data.partition(":")[2]:
        yield (
            "Stimuli that the networks were trained on",
            ("The stimuli are read from the place of the training images."),
        )


def _presentations(study: Study) -> Iterator[tuple[str, str]]:
    brain = study.recipe.brain
    single = isinstance(brain, ThingsFmri) and brain.trials == "train"
    if single or (isinstance(brain, Nsd) and brain.min_repeats == 1):
        yield (
            "Single presentations",
            (
                "Some or all stimuli were shown to a subject once. Their RDMs hold the noise of"
                " that presentation, which repeats would average out."
            ),
        )


def _same_run(study: Study) -> Iterator[tuple[str, str]]:
    brain = study.recipe.brain
    if study.recipe.comparison.mask == "cross-run":
        return
    if isinstance(brain, ThingsFmri | Nsd):
        yield (
            "No cross-run mask",
            (
                "Pairs of stimuli from one run share the noise of that run, and count here like all"
                " others. comparison.mask = “cross-run” leaves them out."
            ),
        )
    elif isinstance(brain, RdmFiles | RdmFolder):
        yield (
            "Runs are not known",
            (
                "The RDMs were given as files. Whether pairs of stimuli within a run share noise"
                " cannot be told, and no pair was left out."
            ),
        )


def _ceilings(study: Study) -> Iterator[tuple[str, str]]:
    few = sorted({n for n in study.n_subjects.values() if n < 10})
    if few:
        quoted = [
            f"{region}: {number(bounds['upper'])}, of which {number(bounds['unrelated'])} would be"
            " reached by unrelated subjects"
            for region in study.pairs
            if np.isfinite((bounds := study.ceiling(region))["unrelated"])
        ]
        upper = (
            f" Each subject is part of the mean it is compared with, so that the upper bound of"
            f" the noise ceiling is too high ({'; '.join(quoted)})."
            if quoted
            else ""
        )
        yield (
            "Few subjects",
            (
                f"{listed(few)} {'subject' if few == [1] else 'subjects'} say little about others."
                f"{upper}"
            ),
        )
    lost = [f"{region} ({number(study.ceiling(region)['lower'])})" for region in study.pairs
            if study.ceiling(region)["lower"] <= 0]  # fmt: skip
    if lost:
        yield (
            "Subjects who do not agree",
            (
                f"The lower bound of the noise ceiling is at or below zero in {listed(lost)}. No"
                " model can be shown to explain such a region, and finding nothing there says"
                " nothing."
            ),
        )


def _resampling(study: Study) -> Iterator[tuple[str, str]]:
    inference = study.recipe.inference
    fixed = [name for name in ("stimuli", "subjects", "seeds") if name not in inference.resample]
    if fixed:
        yield (
            "What the curves take as given",
            (
                f"The intervals and bands of alignment and trajectories resample"
                f" {listed(inference.resample)}. They hold for these {listed(fixed)} only."
            ),
        )
    if inference.resamples < 1000:
        yield (
            "Few resamples",
            (
                f"{inference.resamples} resamples make intervals and bands that another seed would"
                " visibly change; 10,000 are the default."
            ),
        )
    if inference.permutations < 10_000:
        yield (
            "Few relabellings",
            (
                f"{inference.permutations:,} relabellings: no p-value of that test is below"
                f" {p_text(1 / inference.permutations)}."
            ),
        )


def _sizes(study: Study) -> Iterator[tuple[str, str]]:
    if len(study.sizes) > 1:
        yield (
            "Several resolutions",
            (
                f"Corrections are made within each of the {len(study.sizes)} resolutions and not"
                " over them. To choose the resolution with the clearest result is one more choice."
            ),
        )


def _elsewhere(study: Study) -> Iterator[tuple[str, str]]:
    """What comparisons with published networks cannot show."""
    if study.others is None:
        return
    seen = [f"{name} {seen_as(own['preprocess'])}"
            for name, own in study.published_networks.items()]  # fmt: skip
    own = listed([pixels(size) for size in study.sizes])
    highest = study.others.loc[study.others.groupby("region", sort=False)["estimate"].idxmax()]
    best = [f"{row['region']}: {row['network']} {row['layer']}, {number(row['estimate'])}"
            for row in highest.to_dict("records")]  # fmt: skip
    yield (
        "Published networks",
        (
            "They learned from ImageNet, differ in architecture, and saw other cuts of the images"
            f" ({listed(seen)}) than the networks of this study ({own}): how far they are from"
            " those says nothing about learning rules. The layer that aligns best was found on"
            f" these data, and its estimate is too high for that ({'; '.join(best)})."
        ),
    )
