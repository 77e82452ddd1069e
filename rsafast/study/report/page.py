"""Builds the page of a study: what its sections show, figures and tables, and the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rsafast_kernels.atomic import write_text
from scipy.stats import rankdata

from rsafast.plotting import MAX_SHOWN_STIMULI, method_name
from rsafast.report.figures import Panel
from rsafast.report.html import template
from rsafast.study.networks import CONTROL, UNTRAINED
from rsafast.study.report import beside, drawing, elsewhere, findings, methods
from rsafast.study.report.cautions import cautions
from rsafast.study.report.figures import FORMATS, panel, remove_others
from rsafast.study.report.parts import (
    Block,
    Cell,
    Row,
    Section,
    Table,
    interval_cell,
    p_cell,
    value_cell,
)
from rsafast.study.report.tables import Study
from rsafast.study.report.words import (
    CORRECTIONS,
    counted,
    interval,
    listed,
    number,
    pixels,
)

Drawn = Callable[..., Panel]


def write_report(
    study: Study,
    root: Path,
    *,
    published: Study | None = None,
    formats: Sequence[str] = FORMATS,
) -> Path:
    """Write ``report.html`` and ``figures/*`` of a finished study.

    The page loads nothing from anywhere: figures are inline SVG, and there are no fonts or scripts
    from outside. The same tables give the same bytes, but for times in the provenance.

    Parameters
    ----------
    study : finished.
    root : folder to write to.
    published : the same study as it was published, to be set beside it.
    formats : of the figures as files: "svg", "pdf", "png".

    Returns
    -------
    Path
        ``report.html`` in `root`.

    Raises
    ------
    InvalidInputError
        A table or a result of a stage is missing or is none.
    """
    figures = root / "figures"
    figures.mkdir(exist_ok=True)
    drawn: list[str] = []

    def draw(name: str, alt: str, caption: str, make: Callable[[], Figure]) -> Panel:
        drawn.append(name)
        return panel(make, name, alt, caption, figures, formats)

    page = render(study, draw, published)
    remove_others(figures, drawn)
    return write_text(root / "report.html", page)


def render(study: Study, draw: Drawn, published: Study | None = None) -> str:
    """Write the page; ``draw(name, alt, caption, make)`` makes a panel of each figure."""
    page = template("rsafast.study.report", "study.html.jinja")
    return str(page.render(**_content(study, draw, published)))


def _content(study: Study, draw: Drawn, published: Study | None) -> dict[str, Any]:
    recipe = study.recipe
    sections = [
        *([_beside(study, published, draw)] if published else []),
        _alignment(study, draw), _trajectories(study, draw), _differences(study, draw),
        _partial(study, draw), _effects(study, draw), _nulls(study, draw), _rdms(study, draw),
        _learning(study, draw), *elsewhere.sections(study, draw),
    ]  # fmt: skip
    return {
        "title": recipe.title or recipe.name,
        "headline": findings.headline(study),
        "facts": _facts(study),
        "change": beside.what_changes(study, published) if published else None,
        "summary": findings.summary(study),
        "found": [
            (size, findings.differences(study, size), findings.permutation(study, size))
            for size in study.sizes
        ],
        "sizes": list(study.sizes),
        "sections": sections,
        "methods": [text for text in methods.paragraphs(study) if text],
        "references": methods.references(study),
        "provenance": methods.provenance(study),
        "stages": methods.stages(study),
        "recipe": methods.recipe_text(recipe),
        "cautions": cautions(study),
        "published": [_published(study, size) for size in study.sizes]
        if study.recipe.inference.published
        else [],
    }


def _facts(study: Study) -> list[tuple[str, str]]:
    inference = study.recipe.inference
    return [
        ("rules trained", str(len(study.trained))),
        ("seeds a rule", str(len(study.recipe.networks.seeds))),
        ("stimuli", f"{study.permutation(study.sizes[0]).n_stimuli:,}"),
        ("subjects", " or ".join(map(str, sorted(set(study.n_subjects.values()))))),
        ("regions", str(len(study.pairs))),
        ("relabellings", f"{inference.permutations:,}"),
        ("resamples", f"{inference.resamples:,}"),
    ]


def _titled(study: Study, region: str) -> str:
    return f"{region} ({study.pairs[region]})"


def _on(study: Study, size: int) -> str:
    return f", images of {pixels(size)}" if len(study.sizes) > 1 else ""


def _level(study: Study) -> str:
    return f"{100 * study.recipe.inference.level:g} %"


# ---------------------------------------------------------------- as published


def _beside(study: Study, published: Study, draw: Drawn) -> Section:
    sizes = [size for size in study.sizes if size in published.sizes]
    return Section(
        "beside", "As published, and corrected",
        "Arrows lead from the difference between a rule and the untrained network as it was"
        " published (diamond) to that from the matched control here, with its"
        f" {_level(study)} interval; filled where it is significant after correction. The report of"
        " the study as published, with its own warnings, is in the folder “published”.",
        [_beside_block(study, published, size, draw) for size in sizes],
    )  # fmt: skip


def _beside_block(study: Study, published: Study, size: int, draw: Drawn) -> Block:
    labels, panels, said = beside.rows_of_figure(study, published, size)
    figure = draw(
        f"beside-{size}", f"Differences as published and as corrected{_on(study, size)}: {said}.",
        "Difference in alignment from the network before learning.",
        partial(drawing.draw_rows, labels, panels, "difference in alignment"),
    )  # fmt: skip
    return Block(size, [], [figure], beside.tables(study, published, size))


# ---------------------------------------------------------------- alignment


def _alignment(study: Study, draw: Drawn) -> Section:
    resampled = listed(study.recipe.inference.resample)
    return Section(
        "alignment", "Alignment after the last epoch",
        f"How similar the RDM of a condition is to that of a region on the layer chosen for it"
        f" beforehand: large points are means over seeds and subjects with {_level(study)}"
        f" intervals (resampling {resampled}), small points are subjects; compare each rule with"
        " its hollow control beside it, which has untrained weights and batch-norm statistics of"
        " the same images.",
        [_alignment_block(study, size, draw) for size in study.sizes],
    )  # fmt: skip


def _alignment_block(study: Study, size: int, draw: Drawn) -> Block:
    points, panels, rows, said = study.last_by_subject(size), [], [], []
    for region in study.pairs:
        intervals = {c: study.alignment(size, c, region) for c in study.conditions}
        ceiling = study.ceiling(region)
        panels.append({
            "title": _titled(study, region), "conditions": study.conditions,
            "points": {c: points.loc[(points["rule"] == c) & (points["region"] == region),
                                     "similarity"] for c in study.conditions},
            "intervals": intervals, "lower": ceiling["lower"], "upper": ceiling["upper"],
        })  # fmt: skip
        rows += [
            Row([region, study.pairs[region], c],
                [value_cell(i.estimate), interval_cell(i.low, i.high)])
            for c, i in intervals.items()
        ]  # fmt: skip
        values = ", ".join(f"{c} {number(i.estimate)}" for c, i in intervals.items())
        said.append(f"{_titled(study, region)}: {values}; noise ceiling"
                    f" {number(ceiling['lower'])} to {number(ceiling['upper'])}")  # fmt: skip
    name = method_name(study.recipe.comparison.method)
    caption = (
        "Band: noise ceiling by the rank-average definition (lower bound: each subject with the"
        " mean of the others; upper bound: with the mean of all, itself among them)."
    )
    left_out = ", ".join(f"{region} {number(study.ceiling(region)['left_out'])}"
                         for region in study.pairs)  # fmt: skip
    texts = [f"Lower bounds by the leave-one-out definition: {left_out}."]
    if any(row.cells[1][1] == "none" for row in rows):
        texts.append("A condition without an interval has no trajectory that it could be taken"
                     " from.")  # fmt: skip
    figure = draw(
        f"alignment-{size}", f"Alignment ({name}) by condition{_on(study, size)}."
        f" {'. '.join(said)}.", caption,
        partial(drawing.draw_alignment, panels, study.recipe.comparison.method),
    )  # fmt: skip
    columns = ["Region", "Layer", "Condition", name, f"{_level(study)} interval"]
    table = Table(f"Alignment after the last epoch{_on(study, size)}", columns, rows)
    return Block(size, texts, [figure], [table])


# ---------------------------------------------------------------- trajectories


def _trajectories(study: Study, draw: Drawn) -> Section:
    limits = _limits(study)
    resampled = listed(study.recipe.inference.resample)
    return Section(
        "trajectories", "Alignment over training",
        f"Lines are alignment at each checkpoint (controls dashed and hollow), vertical bars are"
        f" {_level(study)} bands that hold for all checkpoints of a curve at once (resampling"
        f" {resampled}); conditions are shifted a little so that bars do not overlap.",
        [_trajectory_block(study, size, limits, draw) for size in study.sizes],
    )  # fmt: skip


def _curves(study: Study, size: int, region: str) -> dict[str, pd.DataFrame]:
    table = study.table("trajectory", size)
    own = table[(table["region"] == region) & (table["layer"] == study.pairs[region])]
    return {c: own[own["rule"] == c].sort_values("epoch") for c in study.conditions
            if (own["rule"] == c).any()}  # fmt: skip


def _limits(study: Study) -> dict[str, tuple[float, float] | None]:
    """Of the vertical axis of each region: the same at all resolutions."""
    found: dict[str, tuple[float, float] | None] = {}
    for region in study.pairs:
        tables = [c for size in study.sizes for c in _curves(study, size, region).values()]
        columns = ["estimate", "band_low", "band_high"]
        reach = np.concatenate([t[columns].to_numpy(float).ravel() for t in tables])
        reach = reach[np.isfinite(reach)]
        if not reach.size:
            found[region] = None
            continue
        low, high = min(reach.min(), 0.0), max(reach.max(), 0.0)
        margin = 0.06 * (high - low) or 0.1
        found[region] = (low - margin, high + margin)
    return found


def _trajectory_block(study: Study, size: int, limits: dict[str, Any], draw: Drawn) -> Block:
    panels, said = [], []
    for region in study.pairs:
        curves = _curves(study, size, region)
        panels.append({"title": _titled(study, region), "curves": curves,
                       "limits": limits[region]})  # fmt: skip
        ends = [
            f"{c} from {number(float(t['estimate'].iloc[0]))} to"
            f" {number(float(t['estimate'].iloc[-1]))}"
            for c, t in curves.items()
        ]
        said.append(f"{_titled(study, region)}: {', '.join(ends)}")
    name = study.recipe.comparison.method
    shown = [c for c in study.conditions if c != UNTRAINED]
    figure = draw(
        f"trajectories-{size}",
        f"Alignment over epochs, first to last{_on(study, size)}. {'. '.join(said)}.",
        "Panels of a region have the same vertical axis at all resolutions.",
        partial(drawing.draw_trajectories, panels, shown, name),
    )  # fmt: skip
    return Block(size, [], [figure], [_change_table(study, size), _gap_table(study, size)])


def _change_table(study: Study, size: int) -> Table:
    change, onset = study.table("change", size), study.table("onset", size)
    rows = []
    for region, layer in study.pairs.items():
        own = change[(change["region"] == region) & (change["layer"] == layer)]
        for rule, curve in own.groupby("rule", sort=False):
            last = curve.loc[curve["epoch"].idxmax()]
            begun = onset[(onset["rule"] == rule) & (onset["region"] == region)
                          & (onset["layer"] == layer)]  # fmt: skip
            rows.append(Row([region, layer, str(rule)], [
                value_cell(last["estimate"]), interval_cell(last["band_low"], last["band_high"]),
                p_cell(last["p_value_fwer"]), _onset(begun),
            ], bool(last["p_value_fwer"] <= study.alpha)))  # fmt: skip
    return Table(
        f"Change from before training to the last epoch{_on(study, size)}; p over the epochs of a"
        " curve, not over curves. Onset: the first checkpoint from which the change is shown",
        ["Region", "Layer", "Condition", "Change", "Simultaneous band", "p, all epochs", "Onset"],
        rows,
    )  # fmt: skip


def _onset(rows: pd.DataFrame) -> Cell:
    epoch = float(rows["epoch"].iloc[0]) if len(rows) else np.nan
    return (None, f"epoch {epoch:g}") if np.isfinite(epoch) else (None, "not shown")


def _gap_table(study: Study, size: int) -> Table:
    """Rule minus control after the last epoch, from the joint bootstrap of the curves."""
    table, rows = study.table("rules", size), []
    for region, layer in study.pairs.items():
        own = table[(table["region"] == region) & (table["layer"] == layer)]
        for rule in study.trained:
            curve = own[own["rules"] == f"{rule} - {rule}{CONTROL}"]
            if len(curve):
                last = curve.loc[curve["epoch"].idxmax()]
                rows.append(Row([region, layer, f"{rule} − {rule}{CONTROL}"], [
                    value_cell(last["estimate"]),
                    interval_cell(last["band_low"], last["band_high"]),
                    p_cell(last["p_value_fwer"]),
                ], bool(last["p_value_fwer"] <= study.alpha)))  # fmt: skip
    return Table(
        f"Rule minus matched control after the last epoch{_on(study, size)}; p over the epochs of"
        " a curve, not over curves",
        ["Region", "Layer", "Difference", "Estimate", "Simultaneous band", "p, all epochs"], rows,
    )  # fmt: skip


# ---------------------------------------------------------------- differences


def _differences(study: Study, draw: Drawn) -> Section:
    word = CORRECTIONS[study.recipe.inference.adjust]
    return Section(
        "differences", "Differences between conditions",
        f"A point right of zero says that the first condition is closer to the region than the"
        f" second; a filled point has a p-value of at most {study.alpha:g} after {word} over all"
        f" comparisons and regions of a resolution; the {_level(study)} intervals are not"
        " corrected, so that one may leave out zero beside a hollow point.",
        [_difference_block(study, size, draw) for size in study.sizes],
    )  # fmt: skip


def _pairs_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(dict.fromkeys(table[["rule_a", "rule_b"]].itertuples(index=False, name=None)))


def _row_panels(
    study: Study, table: pd.DataFrame, columns: tuple[str, str, str]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Labels and panels of a forest: rows are pairs of conditions, panels are regions."""
    estimate, low, high = columns
    pairs, panels = _pairs_of(table), []
    for region in study.pairs:
        own = table[table["region"] == region].set_index(["rule_a", "rule_b"])
        rows = [
            {
                "estimate": float(own.loc[pair, estimate]), "low": float(own.loc[pair, low]),
                "high": float(own.loc[pair, high]),
                "filled": bool(own.loc[pair, "p_adjusted"] <= study.alpha),
            }
            if pair in own.index
            else None
            for pair in pairs
        ]  # fmt: skip
        panels.append({"title": _titled(study, region), "rows": rows})
    return [f"{a} − {b}" for a, b in pairs], panels


def _difference_block(study: Study, size: int, draw: Drawn) -> Block:
    every = _rung_table(study, size)
    rung, table = study.rung(size), study.differences(size)
    if rung is None or table.empty:
        return Block(size, ["No test of differences could be made; the table gives the reasons."],
                     [], [every])  # fmt: skip
    labels, panels = _row_panels(study, table, ("estimate", "ci_low", "ci_high"))
    said = [
        f"{row['rule_a']} minus {row['rule_b']} in {row['region']} {number(row['estimate'])}"
        f" ({interval(row['ci_low'], row['ci_high'])})"
        for row in table.to_dict("records")
    ]
    first = table[table["p_value"].notna()].iloc[0]
    figure = draw(
        f"differences-{size}",
        f"Forest plot of differences in alignment with intervals{_on(study, size)}:"
        f" {'; '.join(said)}.",
        f"Test: “{rung}” ({first['test']}), which speaks for {first['generalises_to']};"
        f" {CORRECTIONS[str(first['adjusted_by'])]} over"
        f" {counted(int(table['p_value'].notna().sum()), 'test')}.",
        partial(drawing.draw_rows, labels, panels,
                f"difference in {method_name(study.recipe.comparison.method)}"),
    )  # fmt: skip
    return Block(size, [], [figure], [every])


def _rung_table(study: Study, size: int) -> Table:
    rows = [
        Row([f"{row['rule_a']} − {row['rule_b']}", row["region"], row["rung"]], [
            value_cell(row["estimate"]), interval_cell(row["ci_low"], row["ci_high"]),
            p_cell(row["p_value"]), p_cell(row["p_adjusted"]), p_cell(row["floor"]),
            (None, f"not run: {row['not_run']}" if row["not_run"] else row["generalises_to"]),
        ], bool(row["p_adjusted"] <= study.alpha))
        for row in study.table("differences", size).to_dict("records")
    ]  # fmt: skip
    return Table(
        f"Every test of every difference{_on(study, size)}. Floor: the smallest p that the test"
        " can give; tests without one are t-tests. Bold: significant after correction",
        ["Difference", "Region", "Test", "Estimate", f"{_level(study)} interval", "p",
         f"p, {study.recipe.inference.adjust}", "Floor", "Speaks for"],
        rows,
    )  # fmt: skip


# ---------------------------------------------------------------- partial


def _partial(study: Study, draw: Drawn) -> Section:
    if not study.recipe.inference.partial:
        return Section(
            "partial", "With the pixels held constant",
            "Partial RSA was not asked for (inference.partial = false): whether alignment is more"
            " than a similarity of pixels is not answered.",
            [],
        )  # fmt: skip
    return Section(
        "partial", "With the pixels held constant",
        "An arrow leads from the alignment of a condition (diamond) to what is left of it when the"
        " similarity of the images' own pixels is held constant; what the arrow takes away could be"
        " had from the pixels. Filled: step-down max-T p of the partial alignment at most"
        f" {study.alpha:g}.",
        [_partial_block(study, size, draw) for size in study.sizes],
    )  # fmt: skip


def _partial_block(study: Study, size: int, draw: Drawn) -> Block:
    table, panels, rows, said = study.table("partial", size), [], [], []
    for region, layer in study.pairs.items():
        own = table[(table["region"] == region) & (table["layer"] == layer)].set_index("rule")
        drawn: list[dict[str, Any] | None] = []
        for c in study.conditions:
            if c not in own.index:
                drawn.append(None)
                continue
            row = own.loc[c]
            strong = bool(row["p_value_stepdown"] <= study.alpha)
            drawn.append({"estimate": float(row["partial"]), "before": float(row["similarity"]),
                          "low": np.nan, "high": np.nan, "filled": strong})  # fmt: skip
            rows.append(Row([region, layer, c], [
                value_cell(row["similarity"]), value_cell(row["partial"]), p_cell(row["p_value"]),
                p_cell(row["p_value_stepdown"]),
            ], strong))  # fmt: skip
            said.append(f"{c} in {region} from {number(row['similarity'])} to"
                        f" {number(row['partial'])}")  # fmt: skip
        panels.append({"title": _titled(study, region), "rows": drawn})
    name = method_name(study.recipe.comparison.method)
    figure = draw(
        f"partial-{size}",
        f"Alignment before and after the pixels are held constant{_on(study, size)}:"
        f" {'; '.join(said)}.",
        "Of the mean RDM of a condition's networks with the mean RDM of the subjects, which is"
        " larger than the mean similarity of single networks and subjects.",
        partial(drawing.draw_rows, study.conditions, panels, name),
    )  # fmt: skip
    n = int(table["n_permutations"].max())
    return Block(size, [], [figure], [Table(
        f"Alignment and partial alignment{_on(study, size)}; {n:,} relabellings, corrected over"
        f" all {len(table):,} pairs of a layer and a region",
        ["Region", "Layer", "Condition", name, "Partial", "p", "p, step-down max-T"], rows,
    )])  # fmt: skip


# ---------------------------------------------------------------- effect sizes


def _effects(study: Study, draw: Drawn) -> Section:
    return Section(
        "effects", "Effect sizes over seeds",
        "Cohen’s d is a difference in units of its spread between seeds, and says nothing about"
        " subjects or stimuli: networks that hardly differ between seeds give a large d for a"
        f" difference of no size. Bars are {_level(study)} intervals, filled points are those of"
        " the forest plot above.",
        [_effect_block(study, size, draw) for size in study.sizes],
    )  # fmt: skip


def _effect_block(study: Study, size: int, draw: Drawn) -> Block:
    table = study.table("differences", size)
    rung = study.rung(size) or table["rung"].iloc[0]
    table = table[table["rung"] == rung]
    known = table[table["cohens_d"].notna()]
    if known.empty:
        return Block(size, ["No effect size could be computed: d needs two seeds or more of each"
                            " rule, and a spread between them."])  # fmt: skip
    labels, panels = _row_panels(study, table, ("cohens_d", "d_low", "d_high"))
    far = bool(known[["d_low", "d_high"]].abs().max().max() > 6)
    said = [
        f"{row['rule_a']} minus {row['rule_b']} in {row['region']} {number(row['cohens_d'])}"
        for row in known.to_dict("records")
    ]
    figure = draw(
        f"effects-{size}", f"Cohen's d over seeds{_on(study, size)}: {'; '.join(said)}.",
        "The axis is linear to 1 and logarithmic beyond." if far else
        "Paired over seeds where both conditions have the same ones.",
        partial(drawing.draw_rows, labels, panels, "Cohen’s d over seeds", far=far),
    )  # fmt: skip
    rows = [
        Row([f"{row['rule_a']} − {row['rule_b']}", row["region"]],
            [value_cell(row["cohens_d"]), interval_cell(row["d_low"], row["d_high"])])
        for row in table.to_dict("records")
    ]  # fmt: skip
    columns = ["Difference", "Region", "Cohen’s d", f"{_level(study)} interval"]
    table_of_d = Table(f"Cohen’s d over seeds{_on(study, size)}", columns, rows)
    return Block(size, [], [figure], [table_of_d])


# ---------------------------------------------------------------- nulls


def _nulls(study: Study, draw: Drawn) -> Section:
    return Section(
        "nulls", "Null distributions",
        "Outlines count what relabelled stimuli give (one outline a seed, on a logarithmic scale,"
        " so that single relabellings in the tail are visible), vertical lines are the observed"
        " values of the seeds: a line right of its outline is related beyond chance for these"
        " networks, stimuli and subjects.",
        [_null_block(study, size, draw) for size in study.sizes],
    )  # fmt: skip


def _null_block(study: Study, size: int, draw: Drawn) -> Block:
    result, rows = study.permutation(size), study.pair_rows(size)
    rules = [c for c in study.conditions if not c.endswith(CONTROL)]
    said = []
    for (region, rule), own in rows.groupby(["region", "rule"], sort=False):
        if rule in rules:
            low, high = own["statistic"].min(), own["statistic"].max()
            said.append(f"{rule} in {region} observed {number(low)} to {number(high)}, null"
                        f" {number(own['null_mean'].mean())} with a standard deviation of"
                        f" {number(own['null_std'].mean())}")  # fmt: skip
    figure = draw(
        f"nulls-{size}", f"Null distributions of the pre-specified pairs{_on(study, size)}:"
        f" {'; '.join(said)}.",
        "Each network against the mean RDM of the region. Controls are in the table only.",
        partial(drawing.draw_nulls, result, rows, list(study.pairs), rules),
    )  # fmt: skip
    order = {"region": list(study.pairs), "rule": study.conditions}
    ranked = rows.assign(**{k: pd.Categorical(rows[k], names) for k, names in order.items()})
    body = [
        Row([row["region"], row["layer"], row["rule"], str(row["seed"])], [
            value_cell(row["statistic"]), p_cell(row["p_value"]), p_cell(row["p_value_stepdown"]),
            value_cell(row["null_mean"]), value_cell(row["null_std"]),
        ], bool(row["p_value_stepdown"] <= study.alpha))
        for row in ranked.sort_values(["region", "rule", "seed"]).to_dict("records")
    ]  # fmt: skip
    table = Table(
        f"Permutation test of the pre-specified pairs{_on(study, size)}; corrected over all"
        f" {len(study.table('permutation', size)):,} pairs of a network's layer and a region. Bold:"
        f" corrected p at most {study.alpha:g}",
        ["Region", "Layer", "Condition", "Seed", method_name(study.recipe.comparison.method), "p",
         "p, step-down max-T", "Null mean", "Null SD"],
        body,
    )  # fmt: skip
    return Block(size, [], [figure], [table])


# ---------------------------------------------------------------- RDMs


def _rdms(study: Study, draw: Drawn) -> Section:
    return Section(
        "rdms", "RDMs, and a map of them",
        "Each square holds the dissimilarity of every two stimuli as a percentile (violet: similar,"
        " yellow: dissimilar), regions averaged over subjects and networks over seeds; on the map,"
        " RDMs that lie close are alike, and its axes have no meaning.",
        [_rdm_block(study, size, draw) for size in study.sizes],
    )  # fmt: skip


def _rdm_block(study: Study, size: int, draw: Drawn) -> Block:
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
        f"RDMs of {shown}{_on(study, size)}: {listed(list(study.pairs))} of the brain, and"
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
        f"Map of {len(vectors)} RDMs{_on(study, size)}, two dimensions with {100 * share:.0f} % of"
        f" the squared distances: {'; '.join(nearest)}.",
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


# ---------------------------------------------------------------- learning


def _learning(study: Study, draw: Drawn) -> Section:
    table = study.drift
    parts = parts_of([c for c in table.columns if c.startswith("drift/")])
    # Between checkpoints, accuracy is not measured.
    tested = table[table["test_accuracy"].notna()]
    accuracy = {r: tested[tested["rule"] == r].groupby("epoch")["test_accuracy"].mean()
                for r in study.recipe.networks.rules}  # fmt: skip
    last = table[table["epoch"] == table.groupby("rule")["epoch"].transform("max")]
    drift, rows, said = {}, [], []
    for rule in study.recipe.networks.rules:
        own = last[last["rule"] == rule]
        means = {part: float(own[columns].mean().mean()) for part, columns in parts.items()}
        if rule != UNTRAINED:
            drift[rule] = means
        final = own["test_accuracy"]
        seen = spread = "not known"
        if final.notna().any():
            seen = _percent(final.mean())
            spread = f"{_percent(final.min())} to {_percent(final.max())}"
        rows.append(Row([rule], [
            value_cell(final.mean(), seen), (None, spread),
            *(value_cell(mean, _percent(mean)) for mean in means.values()),
        ]))  # fmt: skip
        moved = ", ".join(f"{part} {_percent(mean)}" for part, mean in means.items())
        said.append(f"{rule}: accuracy {seen}, drift {moved}")
    figure = draw(
        "learning", f"Test accuracy over epochs and weight drift by layer. {'. '.join(said)}.",
        "Means over seeds. Dashed: 1 %. A drift of zero has no place on the logarithmic axis.",
        partial(drawing.draw_learning, accuracy, drift, list(study.recipe.networks.rules)),
    )  # fmt: skip
    layers = [f"Drift, {part}" for part in parts]
    texts = []
    if tested.empty:
        texts.append("The networks were trained elsewhere: their accuracy is not known.")
    if any(len(columns) > 1 for columns in parts.values()):
        texts.append("Drift of a stage of the network is the mean over its layers.")
    return Section(
        "learning", "What the networks learned",
        "Accuracy on test images says whether a rule solved its task; weight drift is the norm of"
        " the change since initialisation over that of the initial weights, so that a layer near"
        " zero is still the untrained one.",
        [Block(None, texts, [figure], [Table(
            "Test accuracy and weight drift after the last epoch, means over seeds",
            ["Rule", "Accuracy", "Range over seeds", *layers], rows,
        )])],
    )  # fmt: skip


def parts_of(columns: Sequence[str]) -> dict[str, list[str]]:
    """Columns of drift by layer, those of many layers by the stage that they are part of."""
    parts: dict[str, list[str]] = {}
    for column in columns:
        parts.setdefault(column.removeprefix("drift/").partition(".")[0], []).append(column)
    return parts


def _percent(share: float) -> str:
    return "–" if not np.isfinite(share) else f"{100 * share:.3g} %"


# ---------------------------------------------------------------- published practices


def _published(study: Study, size: int) -> Block:
    """What practices that are known to mislead would have reported."""
    rows = [
        Row(
            [row["practice"], _who(row), row["region"], _text(row["layer"])],
            [
                value_cell(row["estimate"]), interval_cell(row["low"], row["high"]),
                p_cell(row["p_value"]), (None, row["wrong"]),
            ],
        )
        for row in study.table("published", size).to_dict("records")
    ]  # fmt: skip
    columns = ["Practice", "Of", "Region", "Layer", "Estimate", "Interval", "p", "What is wrong"]
    caption = f"What practices that mislead would have reported of the same RDMs{_on(study, size)}"
    return Block(size, [], [], [Table(caption, columns, rows)])


def _who(row: dict[str, Any]) -> str:
    other = _text(row["rule_b"])
    return f"{row['rule_a']} − {other}" if other else str(row["rule_a"])


def _text(cell: Any) -> str:
    """Name in a cell, which may be empty."""
    return "" if pd.isna(cell) else str(cell)
