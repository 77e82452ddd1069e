"""Warnings about what was published: the networks of the faithful profile, and the practices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rsafast.study.networks import CONTROL, UNTRAINED
from rsafast.study.report.tables import Study
from rsafast.study.report.words import counted, listed, number

Caution = tuple[str, str]
# What a rule of the faithful profile does in place of its name, by the setting that says so.
_DEPARTURES = {
    ("fa", "true_fc_gradients"): "linear layers pass errors back through their own weights",
    ("fa", "kaiming_init"): "convolutions start from other weights than the untrained network's",
    ("pc", "dc_updates"): "a kernel changes by one number for all its weights, so that no spatial"
    " pattern can be learned",
    ("pc", "clamp_updates"): "changes are cut to at most 1e-6 a step",
    ("pc", "freeze_conv3"): "conv3 never changes",
    ("pc", "untrained_feedback"): "the weights that predict are never trained",
    ("stdp", "reversed_window"): "the window has the opposite sign: input before output weakens",
    ("stdp", "gap_rates"): "a neuron is the mean of a channel, so that no spatial pattern can be"
    " learned",
    ("stdp", "silent_as_late"): "no spike counts as a late one",
    ("stdp", "train_batch_norm"): "backpropagation trains scale and shift of batch normalisation",
    ("stdp", "kaiming_init"): "convolutions start from other weights than the untrained network's",
}


def faithful(study: Study) -> Iterator[Caution]:
    """What the names of the rules do not say, where they are trained as published."""
    if study.recipe.networks.profile != "faithful":
        return
    for rule in study.trained:
        said = [text for (of, key), text in _DEPARTURES.items()
                if of == rule and study.settings(rule).get(key)]  # fmt: skip
        if said:
            yield (f"{rule} is not what its name says", f"As published, {'; '.join(said)}.")


def evaluation(study: Study) -> Iterator[Caution]:
    """Alignment of networks before learning, by the statistics they are evaluated with."""
    by_stimuli = [rule for rule in study.trained
                  if study.settings(rule).get("batch_statistics_at_evaluation")]  # fmt: skip
    if not by_stimuli:
        return
    for size in study.sizes:
        means = study.table("alignment", size).groupby(
            ["region", "layer", "rule", "epoch"]
        )["similarity"].mean()  # fmt: skip
        said = []
        for region, layer in study.pairs.items():
            own = means[region, layer]
            values = [f"untrained, mean 0 and variance 1: {number(own[UNTRAINED, 0])}"]
            values += [f"{rule}, those of the stimuli themselves: {number(own[rule, 0])}"
                       for rule in by_stimuli]  # fmt: skip
            for rule in study.trained:
                control = f"{rule}{CONTROL}"
                if rule not in by_stimuli and control in own.index:
                    values.append(f"{control}, those of augmented training images:"
                                  f" {number(own[control].iloc[-1])}")  # fmt: skip
            said.append(f"{region} ({layer}): {', '.join(values)}")
        yield (
            f"Batch norm in another mode{study.at(size)}",
            (
                f"{listed(by_stimuli)} {'was' if len(by_stimuli) == 1 else 'were'} evaluated in"
                " training mode: features depend on the other stimuli of the batch. Alignment of"
                f" networks that have learned nothing, by their statistics: {'; '.join(said)}."
            ),
        )


def evidence(study: Study) -> Iterator[Caution]:
    """How far the published practices are from the tests of this report, in numbers."""
    if not study.recipe.inference.published:
        return
    for size in study.sizes:
        p = study.entry_tests(size)["p_adjusted"].to_numpy(float)
        ours = study.differences(size)
        found = int((ours["p_adjusted"] <= study.alpha).sum())
        yield (
            f"Entries shuffled{study.at(size)}",
            (
                f"Shuffled RDM entries call {int((p <= study.alpha).sum())} of"
                f" {counted(len(p), 'difference')} significant after Benjamini–Hochberg correction,"
                f" {int((p == 0).sum())} of them with p = 0; “{study.rung(size)}” after correction"
                f" finds {found} of {len(ours)} (controls among them)."
            ),
        )
        yield from _narrow(study, size)


def _narrow(study: Study, size: int) -> Iterator[Caution]:
    """Intervals over entries and scores with the mean RDM, beside those of this report."""
    table = study.table("published", size)
    pairs = table[table["practice"] == "entries bootstrapped"]
    widths, raised = [], []
    for row in pairs.to_dict("records"):
        ours = study.alignment(size, row["rule_a"], row["region"])
        if not (ours.estimate > 0 and row["estimate"] > 0):
            continue
        raised.append(row["estimate"] / ours.estimate)
        if np.isfinite(ours.low):
            widths.append((ours.high - ours.low) / (row["high"] - row["low"]) * raised[-1])
    if widths:
        yield (
            f"Entries bootstrapped{study.at(size)}",
            (
                "Relative to the score, intervals here are"
                f" {np.median(widths):.2g} times as wide as those from RDM entries drawn with"
                f" replacement (median of {len(widths)} positive scores; {min(widths):.2g} to"
                f" {max(widths):.2g})."
            ),
        )
    if raised:
        yield (
            f"Scores with the mean RDM{study.at(size)}",
            (
                "The score with the mean RDM of the subjects is"
                f" {np.median(raised):.2g} times the mean score of the subjects (median of"
                f" {len(raised)} positive ones): noise averaged away, not alignment gained."
            ),
        )
