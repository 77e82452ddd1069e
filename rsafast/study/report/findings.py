"""What was found, in sentences made from the tables and from nothing else."""

from __future__ import annotations

from typing import Any

import pandas as pd

from rsafast.study.networks import CONTROL, UNTRAINED
from rsafast.study.recipe import SimulatedBrain
from rsafast.study.report.tables import Study
from rsafast.study.report.words import (
    CORRECTIONS,
    baseline,
    counted,
    interval,
    listed,
    number,
    p_text,
    pixels,
    speaks_for,
)


def headline(study: Study) -> str:
    """One sentence: which rules differ from what they start from."""
    if not study.trained:
        return "No rule was trained, so that no difference was tested."
    if all(study.rung(size) is None for size in study.sizes):
        return "No test of differences between rules could be made."
    groups: dict[tuple[bool, str], list[str]] = {}
    for rule in study.trained:
        groups.setdefault(_verdict(study, rule), []).append(rule)
    parts = []
    for (shown, what), rules in groups.items():
        verb = "differs" if len(rules) == 1 else "differ"
        if not shown:
            verb = f"{'is' if len(rules) == 1 else 'are'} not shown to differ"
        parts.append(f"{listed(rules)} {verb} from {what}")
    return f"After correction, {'; '.join(parts)}."


def _verdict(study: Study, rule: str) -> tuple[bool, str]:
    """Whether the tests show a rule to differ, and from what."""
    tables = [against_untrained(study, size, rule) for size in study.sizes]
    cells = [rows for table in tables for _, rows in table.groupby("region")]
    baselines = list(dict.fromkeys(name for rows in cells for name in rows["rule_b"]))
    found = [rows for rows in cells if study.significant(rows).any()]
    if not found:
        return False, "any untrained baseline"
    if len(baselines) == 1:
        return True, f"{baseline(baselines[0])} in at least one region"
    # In one region, from both, and in one direction.
    whole = [rows for rows in found if len(rows) == len(baselines)]
    if any(study.significant(r).all() and r["estimate"].gt(0).nunique() == 1 for r in whole):
        return True, "both untrained baselines in at least one region"
    return True, "an untrained baseline, but nowhere from both in one direction"


def against_untrained(study: Study, size: int, rule: str) -> pd.DataFrame:
    """Differences of a rule from its control and from the untrained network."""
    table = study.differences(size)
    return table[(table["rule_a"] == rule) & table["rule_b"].isin([UNTRAINED, f"{rule}{CONTROL}"])]


def summary(study: Study) -> str:
    """Say in a paragraph what was compared, how it was judged, and that brains are simulated."""
    networks, subjects = study.recipe.networks, sorted(set(study.n_subjects.values()))
    rules = f"{counted(len(study.trained), 'learning rule')} ({listed(study.trained)})"
    sentences = [
        f"{rules} with {counted(len(networks.seeds), 'seed')} each were compared"
        f" with {'the region ' if len(study.n_subjects) == 1 else 'the regions '}"
        f"{listed(list(study.n_subjects))} of {' or '.join(map(str, subjects))} subjects."
    ]
    if isinstance(study.recipe.brain, SimulatedBrain):
        sentences.append("The brains are simulated: nothing here says anything about real ones.")
    judged = [_judged(study, size) for size in study.sizes]
    if len(set(judged)) == 1:
        return " ".join([*sentences, judged[0]])
    at = zip(study.sizes, judged, strict=True)
    return " ".join([*sentences, *(f"At {pixels(size)}: {text}" for size, text in at)])


def _judged(study: Study, size: int) -> str:
    rung = study.rung(size)
    if rung is None:
        return "No test of differences could be made."
    rows = study.differences(size)
    tests = int(rows["p_value"].notna().sum())
    first = rows.loc[rows["p_value"].notna()].iloc[0]
    word = CORRECTIONS[str(first["adjusted_by"])]
    left = counted(int(rows["p_value"].isna().sum()), "comparison")
    missing = f" {left} could not be tested in this way." if rows["p_value"].isna().any() else ""
    return (
        f"Differences are judged by the broadest test that could be made, “{rung}”"
        f" ({first['test']}), after {word} over its {counted(tests, 'test')} at a resolution."
        f" {speaks_for(str(first['generalises_to']))}{missing}"
    )


def differences(study: Study, size: int) -> list[str]:
    """One sentence a finding, then one a rule for what was not found."""
    rows = study.differences(size)
    if study.rung(size) is None:
        reasons = study.table("differences", size)["not_run"]
        return [f"No difference was tested: {next((r for r in reasons if r), 'no test ran')}."]
    found = [_found(study, row) for row in rows[study.significant(rows)].to_dict("records")]
    if not found:
        found = ["No difference between any two conditions was found after correction."]
    lost = [_not_found(study, size, rule) for rule in study.trained]
    return [*found, *(sentence for sentence in lost if sentence)]


def _found(study: Study, row: dict[str, Any]) -> str:
    where = "closer to" if row["estimate"] > 0 else "farther from"
    return (
        f"{row['rule_a']} is {where} {row['region']} ({row['layer']}) than"
        f" {baseline(row['rule_b'])}: difference {number(row['estimate'])}"
        f"{_interval(study, row)}, corrected p = {p_text(row['p_adjusted'])}."
    )


def _interval(study: Study, row: dict[str, Any]) -> str:
    if interval(row["ci_low"], row["ci_high"]) == "none":
        return ", no interval"
    level = f"{100 * study.recipe.inference.level:g} % interval"
    return f", {level} {interval(row['ci_low'], row['ci_high'])}"


def _not_found(study: Study, size: int, rule: str) -> str:
    rows = against_untrained(study, size, rule)
    rows = rows[rows["p_value"].notna() & ~study.significant(rows)]
    said = [
        f"{baseline(name)} in {listed([_with_p(row) for row in own.to_dict('records')])}"
        for name, own in rows.groupby("rule_b", sort=False)
    ]
    return f"{rule} is not shown to differ from {'; nor from '.join(said)}." if said else ""


def _with_p(row: dict[str, Any]) -> str:
    return f"{row['region']} ({number(row['estimate'])}, corrected p = {p_text(row['p_adjusted'])})"


def permutation(study: Study, size: int) -> str:
    """Say which networks relate to their regions more than relabelled stimuli do."""
    family, rows = study.table("permutation", size), study.pair_rows(size)
    parts = []
    for region, layer in study.pairs.items():
        own = rows[rows["region"] == region]
        counts = []
        for rule in study.conditions:
            p = own.loc[own["rule"] == rule, "p_value_stepdown"]
            counts.append(f"{rule} {int((p <= study.alpha).sum())} of {len(p)}")
        parts.append(f"{region} ({layer}): {', '.join(counts)}")
    untrained = rows.loc[rows["rule"] == UNTRAINED, "p_value_stepdown"]
    caution = (
        " Untrained networks are among them: being related to a region is not the same as having"
        " learned it."
        if (untrained <= study.alpha).any()
        else ""
    )
    any_found = bool((rows["p_value_stepdown"] <= study.alpha).any())
    start = "Networks related" if any_found else "No network is shown to be related"
    return (
        f"{start} to a region beyond {int(family['n_permutations'].max()):,} relabellings of the"
        f" stimuli (step-down max-T over all {len(family):,} pairs of a network's layer and a"
        f" region, at {study.alpha:g}), of all seeds: {'; '.join(parts)}.{caution} This test"
        " speaks for these networks, stimuli and subjects."
    )
