import json
import re
import shutil
from copy import copy
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from html_page import Page
from synthetic_results import make_result

from rsafast.errors import InvalidInputError
from rsafast.inference.ladder.api import RUNGS
from rsafast.rdms import RDMs
from rsafast.report.figures import Panel, inline
from rsafast.study.recipe import parse_recipe
from rsafast.study.report import findings, write_report
from rsafast.study.report.cautions import cautions
from rsafast.study.report.drawing import draw_rows, look_of
from rsafast.study.report.figures import panel
from rsafast.study.report.methods import paragraphs, recipe_text
from rsafast.study.report.page import render
from rsafast.study.report.parts import Row, Table
from rsafast.study.report.sections.rdms import map_of
from rsafast.study.report.tables import Study
from rsafast.study.report.words import number, p_text

REGIONS = ("null", "V1 <&> $x$")
LAYERS = ("conv1", "fc1")
SUBJECTS = ("01", "02", "03")
CONDITIONS = ("untrained", "bp", "bp-control", "stdp", "stdp-control")
PAIRS = {"null": "conv1", "V1 <&> $x$": "fc1"}


def recipe_of(sizes=(8, 16), seeds=(0, 1), partial=True, more=""):
    return parse_recipe(
        f"""
name = "made-up"
title = "Rules <b> & brains"
[networks]
rules = ["untrained", "bp", "stdp"]
seeds = {list(seeds)}
epochs = 2
checkpoints = [0, 1, 2]
settings = {{ bp = {{ lr = 0.01 }} }}
[stimuli]
images = "digits"
sizes = {list(sizes)}
layers = ["conv1", "fc1"]
[brain]
source = "simulated"
[comparison]
pairs = {{ "null" = "conv1", "V1 <&> $x$" = "fc1" }}
[inference]
permutations = 200
resamples = 200
resample = {["stimuli", "seeds"][: len(seeds)]}
partial = {str(partial).lower()}
{more}""",
        "made-up.toml",
    )


class Made:
    """A finished study on disk, with tables that can be changed before it is read."""

    def __init__(self, root: Path, **options):
        self.root, self.recipe = root, recipe_of(**options)
        self.rng = np.random.default_rng(0)
        self.folders: dict[str, Path] = {}
        (root / "tables").mkdir(parents=True)
        self.seeds = self.recipe.networks.seeds
        self._networks()
        self._brain()
        for size in self.recipe.stimuli.sizes:
            self._by_size(size)
        for name, folder in self.folders.items():
            self._done(name, folder)

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.root / "tables" / f"{name}.csv", keep_default_na=False,
                           na_values=[""], dtype={"subject": str, "not_run": object},
                           engine="python")  # fmt: skip

    def put(self, name: str, table: pd.DataFrame) -> None:
        table.to_csv(self.root / "tables" / f"{name}.csv", index=False, float_format="%.17g")

    def folder(self, stage: str) -> Path:
        folder = self.folders[stage] = self.root / "stages" / f"{stage.replace(' ', '-')}-0123"
        folder.mkdir(parents=True)
        return folder

    def copied(self, root: Path) -> "Made":
        new = copy(self)
        shutil.copytree(self.root, root)
        new.root = root
        new.folders = {n: root / f.relative_to(self.root) for n, f in self.folders.items()}
        return new

    def read(self) -> Study:
        return Study.read(self.recipe, self.root, self.folders)

    def _done(self, name: str, folder: Path) -> None:
        config = {
            "rule": name.removeprefix("train "), "settings": {}, "profile": "corrected",
            "batch_norm": "none" if name == "train stdp" else "loader",
        }  # fmt: skip
        done = {
            "stage": name, "settings": {"config": config}, "seconds": 1.25,
            "provenance": {"rsafast": "9.8.7", "numpy": "2.0", "time": "2026-01-01T00:00:00"},
        }  # fmt: skip
        (folder / "done.json").write_text(json.dumps(done))

    def _networks(self) -> None:
        drift = []
        for rule in ("untrained", "bp", "stdp"):
            folder = self.folder(f"train {rule}") / rule
            folder.mkdir()
            (folder / "run.json").write_text('{"versions": {"torch": "2.9.9"}}')
            moved = {"untrained": 0.0, "bp": 0.25, "stdp": 0.004}[rule]
            drift += [
                (rule, rule, seed, moved * epoch / 2, 0.5 * epoch * (rule == "bp"), epoch,
                 0.1 + 0.2 * epoch)
                for seed in self.seeds
                for epoch in ((0,) if rule == "untrained" else (0, 1, 2))
            ]  # fmt: skip
        columns = ["run", "rule", "seed", "drift/conv1", "drift/fc1", "epoch", "test_accuracy"]
        self.put("drift", pd.DataFrame(drift, columns=columns))

    def _rdms(self, rows: list[dict]) -> RDMs:
        vectors = self.rng.random((len(rows), 15))
        return RDMs.from_vectors(vectors, descriptors={k: [r[k] for r in rows] for k in rows[0]})

    def _brain(self) -> None:
        rows = [{"region": r, "subject": s} for r in REGIONS for s in SUBJECTS]
        self._rdms(rows).save(self.folder("brain") / "brain.h5")
        self.put("ceilings", pd.DataFrame([
            (region, definition, "spearman", lower, upper, unrelated, 3, 3)
            for definition, upper, unrelated in (
                ("rank-average", 0.6, 0.577), ("leave-one-out", np.nan, np.nan))
            for region, lower in zip(REGIONS, (-0.0123, 0.31), strict=True)
        ], columns=["region", "definition", "method", "lower", "upper", "upper_unrelated",
                    "n_subjects", "n_rdms"]))  # fmt: skip

    def _network_rows(self, last: bool = False) -> list[dict]:
        return [
            {"rule": rule, "seed": seed, "epoch": epoch, "layer": layer}
            for rule in CONDITIONS
            for seed in self.seeds
            for epoch in ((0,) if rule == "untrained" else (2,) if last else (0, 1, 2))
            for layer in LAYERS
        ]

    def _by_size(self, size: int) -> None:
        rows = self._network_rows()
        self._rdms(rows).save(self.folder(f"rdms all {size}") / "models.h5")
        networks = pd.DataFrame(rows)
        sides = pd.DataFrame([(r, s) for r in REGIONS for s in SUBJECTS],
                             columns=["region", "subject"])  # fmt: skip
        alignment = networks.merge(sides, how="cross")
        alignment["similarity"] = self.rng.normal(0.1, 0.03, len(alignment))
        keys = ["seed", "layer", "region", "subject"]
        before = alignment[alignment["epoch"] == 0].set_index(["rule", *keys])["similarity"]
        same = alignment["rule"].eq("bp") & alignment["epoch"].eq(0)
        alignment.loc[same, "similarity"] = before["untrained"].to_numpy()
        self.put(f"alignment-{size}", alignment)
        self._curves(size, alignment)
        self._permutation(size)
        self._differences(size)

    def _curves(self, size: int, alignment: pd.DataFrame) -> None:
        trained = alignment[alignment["rule"] != "untrained"]
        cells = trained.groupby(["rule", "epoch", "layer", "region"], sort=False)["similarity"]
        curves = cells.mean().reset_index(name="estimate")
        for name, width in (("low", -0.02), ("high", 0.02), ("band_low", -0.03),
                            ("band_high", 0.03)):  # fmt: skip
            curves[name] = curves["estimate"] + width
        curves = curves.assign(p_value=0.03, p_value_fwer=0.0625)
        self.put(f"trajectory-{size}", curves)
        self.put(f"change-{size}", curves[curves["epoch"] > 0])
        gaps = curves[curves["rule"].isin(["bp", "stdp"])].rename(columns={"rule": "rules"})
        self.put(f"rules-{size}", gaps.assign(rules=[f"{r} - {r}-control" for r in gaps["rules"]]))
        onset = curves[curves["epoch"] == 2][["rule", "layer", "region"]].copy()
        self.put(f"onset-{size}", onset.assign(epoch=[1.0, *[np.inf] * (len(onset) - 1)]))

    def _permutation(self, size: int) -> None:
        rows = self._network_rows(last=True)
        names = tuple(f"{r['rule']} {r['seed']} {r['layer']}" for r in rows)
        result = make_result(len(rows), 2, n=200, model_names=names, brain_names=REGIONS)
        result.save(self.folder(f"permutation {size}") / "permutation.h5")
        table = pd.DataFrame(np.repeat(np.array(rows), 2).tolist())
        of_pair = result.to_dataframe().drop(columns="model").rename(columns={"brain": "region"})
        self.put(f"permutation-{size}", pd.concat([table, of_pair], axis=1))
        if self.recipe.inference.partial:
            pairs = [(c, layer, r) for c in CONDITIONS for layer in LAYERS for r in REGIONS]
            partial = pd.DataFrame(pairs, columns=["rule", "layer", "region"])
            self.put(f"partial-{size}", partial.assign(
                partial=self.rng.normal(0.05, 0.02, len(pairs)), similarity=0.2, p_value=0.01,
                p_value_stepdown=self.rng.random(len(pairs)), n_permutations=200,
            ))  # fmt: skip

    def _differences(self, size: int) -> None:
        compared = [(r, o) for r in ("bp", "stdp") for o in (f"{r}-control", "untrained")]
        compared += list(combinations(("bp", "stdp"), 2))
        table = pd.DataFrame([
            {"rule_a": a, "rule_b": b, "layer": PAIRS[region], "region": region, "rung": rung,
             "test": f"test of {rung}", "generalises_to": f"new {rung}; these others",
             "floor": 0.25 if rung == "subjects" else 0.5 if "paired" in rung else np.nan}
            for region in REGIONS for a, b in compared for rung in RUNGS
        ])  # fmt: skip
        n = len(table)
        table["estimate"] = np.repeat(self.rng.normal(0, 0.03, n // len(RUNGS)), len(RUNGS))
        self.put(f"differences-{size}", table.assign(
            p_value=0.4, p_adjusted=0.9, ci_low=table["estimate"] - 0.05,
            ci_high=table["estimate"] + 0.05, not_run="", cohens_d=40 * table["estimate"],
            d_low=-9.0, d_high=9.0, adjusted_by="holm",
        ))  # fmt: skip


def changed(made: Made, size: int, values: dict, **where) -> None:
    """Set columns of the differences where other columns have the values of `where`."""
    table = made.table(f"differences-{size}")
    rows = np.logical_and.reduce([table[k] == v for k, v in where.items()])
    assert rows.any()
    for name, value in values.items():
        table.loc[rows, name] = value
    made.put(f"differences-{size}", table)


BROADEST = "stimuli+subjects+seeds"
STRONG = {"estimate": 0.0421, "ci_low": 0.0123, "ci_high": 0.0719, "p_value": 0.00111,
          "p_adjusted": 0.0222}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A report of two resolutions, and its study."""
    made = Made(tmp_path_factory.mktemp("study") / "made-up")
    changed(made, 16, STRONG, rung=BROADEST, rule_a="bp", rule_b="bp-control", region="null")
    text = page_of(made)
    return made, text, Page(text)


def page_of(made: Made) -> str:
    """The page with empty figures, which take no time."""
    return render(made.read(), lambda name, alt, caption, make: Panel(
        inline("<svg viewBox='0 0 1 1'></svg>", alt, name), caption, 998))  # fmt: skip


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("pattern") / "made-up", sizes=(8,))


@pytest.fixture
def made(pattern, tmp_path):
    """A study of one resolution, to be changed."""
    return pattern.copied(tmp_path / "made-up")


# ---------------------------------------------------------------- the page


def test_every_section_is_there_in_order(whole):
    _, text, page = whole
    assert re.findall(r'<h2 id="([^"]*)"', text) == [
        "found", "alignment", "trajectories", "differences", "partial", "effects", "nulls",
        "rdms", "learning", "methods", "provenance", "cautions",
    ]  # fmt: skip
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert ("html", {"lang": "en"}) in page.elements


def test_page_loads_nothing(whole):
    _, text, page = whole
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"@import|<link|<iframe|<script[^>]+src|fetch\(|XMLHttp", text)
    assert all(u.startswith("#") for u in re.findall(r"url\(['\"]?([^)]*)\)", text))


def test_ids_are_unique_and_every_reference_has_its_target(whole):
    _, text, page = whole
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    used = re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"|aria-labelledby="([^"]*)"', text)
    assert {name for names in used for name in names if name} <= set(ids)


def test_every_figure_says_what_it_shows_with_numbers(whole):
    _, _, page = whole
    drawings = [a for tag, a in page.elements if tag == "svg"]
    assert len(drawings) == 17  # eight a resolution, and one of learning
    assert all(a["role"] == "img" and re.search(r"\d", a["aria-label"]) for a in drawings)
    forests = [a["aria-label"] for a in drawings if "Forest plot" in a["aria-label"]]
    assert ["bp minus bp-control in null 0.042 (0.012 to 0.072)" in f for f in forests] == [
        False, True,
    ]  # fmt: skip


def test_tables_have_captions_and_scopes(whole):
    _, text, page = whole
    assert text.count("<caption>") == sum(tag == "table" for tag, _ in page.elements)
    assert all(a.get("scope") in ("row", "col") for tag, a in page.elements if tag == "th")


def test_whatever_may_be_too_wide_scrolls_in_a_box_with_a_name(whole):
    _, text, page = whole
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    names = [box["aria-label"] for box in page.boxes()]
    assert len(names) == len(set(names))
    tables = sum(a.get("class") == "pairs" for tag, a in page.elements if tag == "table")
    assert len(names) == 17 + tables + 1  # figures, tables, and the recipe


def test_links_to_sections_come_before_what_was_found(whole):
    _, text, _ = whole
    assert text.index("</h1>") < text.index("<nav") < text.index('<h2 id="found"')


def test_columns_are_names_of_which_one_is_the_key_or_numbers_or_sentences():
    rows = [Row([region, rule, seed], [(1.0, "1"), (None, "−0.0012 to 0.0034"), (None, said)])
            for region in ("V1", "V2") for rule in ("a", "b", "c") for seed in "01"
            for said in ("short", "what the test takes as given and no more")]  # fmt: skip
    for heads, kinds in (
        (["Region", "Condition", "Seed"], ["name", "key", "name"]),
        (["Region", "A", "B"], ["key", "name", "name"]),
    ):
        table = Table("", [*heads, "Estimate", "Interval", "Speaks for"], rows)
        assert table.kinds == [*kinds, "number", "number", "said"]


def test_labels_that_panels_share_are_there_twice_but_read_once(tmp_path):
    row = {"estimate": 0.1, "low": 0.0, "high": 0.2, "filled": True}
    one = {"title": "V1", "rows": [row, row]}
    for panels, times in (([one], 1), ([one, one], 2)):
        draw = partial(draw_rows, ["bp − bp-control", "bp − untrained"], panels, "difference")
        page = Page(panel(draw, "forest", "alt", "", tmp_path, ()).svg)
        drawings = [a for tag, a in page.elements if tag == "svg"]
        assert len(drawings) == times
        assert [a.get("aria-label") for a in drawings] == ["alt", None][:times]
        assert all(a["aria-hidden"] == "true" for a in drawings[1:])
        targets = [a["href"][1:] for tag, a in page.elements
                   if tag == "use" and a["href"].endswith("-drawing")]  # fmt: skip
        assert targets == [a["id"] for tag, a in page.elements
                           if tag == "g" and a.get("id") == "forest-drawing"]  # fmt: skip


def test_names_are_escaped_and_no_formula(whole):
    _, text, page = whole
    assert "<b>" not in text
    assert "Rules <b> & brains" in page.text
    # "null" is a name and no missing value; "$x$" is no mathematics.
    assert text.count("V1 &lt;&amp;&gt; $x$ (fc1)") >= 6
    assert "null (conv1)" in text


def test_numbers_of_the_tables_are_on_the_page(whole):
    made, text, _ = whole
    values = {float(v) for v in re.findall(r'data-value="([^"]*)"', text)}
    for size in (8, 16):
        differences = made.table(f"differences-{size}")
        permutation = made.table(f"permutation-{size}")
        chosen = permutation[permutation["layer"] == permutation["region"].map(PAIRS)]
        change = made.table(f"change-{size}")
        last = change[(change["epoch"] == 2) & (change["layer"] == change["region"].map(PAIRS))]
        partial = made.table(f"partial-{size}")
        partial = partial[partial["layer"] == partial["region"].map(PAIRS)]
        for table, column in (
            (differences, "estimate"), (differences, "cohens_d"), (chosen, "statistic"),
            (chosen, "p_value_stepdown"), (last, "estimate"), (partial, "partial"),
        ):  # fmt: skip
            assert set(table[column]) <= values


def test_switch_of_resolution_is_hidden_without_script(whole):
    _, _, page = whole
    fieldset = next(a for tag, a in page.elements if tag == "fieldset")
    assert "hidden" in fieldset
    assert not any("hidden" in a for _, a in page.elements if "data-size" in a)
    assert sum("data-size" in a for _, a in page.elements) == 2 * 8


@pytest.mark.slow
def test_small_study_works(tmp_path):
    made = Made(tmp_path / "small", sizes=(8,), seeds=(3,), partial=False)
    lost = {"p_value": np.nan, "p_adjusted": np.nan, "ci_low": np.nan, "ci_high": np.nan,
            "not_run": "one <seed>"}  # fmt: skip
    for rung in RUNGS:
        if "seeds" in rung:
            changed(made, 8, lost, rung=rung)
    made.put("differences-8", made.table("differences-8").assign(cohens_d=np.nan))
    page = Page(page_of(made))
    for phrase in (
        "Partial RSA was not asked for", "No effect size could be computed",
        "not run: one <seed>", "“stimuli+subjects”", "No exact test over seeds could be made",
    ):  # fmt: skip
        assert phrase in page.text
    assert not any(tag in ("script", "fieldset") for tag, _ in page.elements)
    assert page_of(made) == page_of(made)


@pytest.mark.slow
def test_every_figure_is_drawn_and_files_of_earlier_reports_go(made):
    figures = made.root / "figures"
    figures.mkdir()
    (figures / "alignment-99.svg").write_text("of an earlier study")
    path = write_report(made.read(), made.root, formats=("svg",))
    assert path == made.root / "report.html"
    names = {"alignment-8", "trajectories-8", "differences-8", "partial-8", "effects-8",
             "nulls-8", "rdms-8", "map-8", "learning"}  # fmt: skip
    assert {f.name for f in figures.iterdir()} == {f"{name}.svg" for name in names}
    page = Page(path.read_text(encoding="utf-8"))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert "$x$" in (figures / "alignment-8.svg").read_text(encoding="utf-8")
    assert "mathdefault" not in page.text


def test_rules_have_contrast_with_the_page_and_differ_without_colour():
    rules = ["untrained", "bp", "fa", "pc", "stdp", "another", "one more"]
    looks = [look_of(rule, rules) for rule in rules]
    assert len({look.marker for look in looks}) == len(rules)
    for look in looks:
        red, green, blue = (int(look.colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
                  for c in (red, green, blue)]  # fmt: skip
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (luminance + 0.05) >= 4.5
    control = look_of("bp-control", [*rules, "bp-control"])
    assert (control.colour, control.marker) == (looks[1].colour, looks[1].marker)
    assert control.dashes != looks[1].dashes


@pytest.mark.slow
def test_the_same_figure_is_the_same_bytes_in_every_format(tmp_path):
    row = {"estimate": 0.1, "low": 0.0, "high": 0.2, "filled": True}
    panels = [{"title": "null", "rows": [row, None]}]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        panel(lambda: draw_rows(["a − b", "c"], panels, "d"), "rows", "alt", "", tmp_path / folder)
    files = {f.name: f.read_bytes() for f in (tmp_path / "one").iterdir()}
    assert set(files) == {"rows.svg", "rows.pdf", "rows.png"}
    assert files == {f.name: f.read_bytes() for f in (tmp_path / "two").iterdir()}


# ---------------------------------------------------------------- findings


def test_nothing_found_is_said(made):
    study = made.read()
    assert findings.headline(study) == (
        "After correction, bp and stdp are not shown to differ from any untrained baseline."
    )
    said = findings.differences(study, 8)
    assert said[0] == "No difference between any two conditions was found after correction."
    assert not re.search(r"closer|farther", " ".join(said))


def test_a_finding_is_stated_with_its_numbers(made):
    changed(made, 8, STRONG, rung=BROADEST, rule_a="bp", rule_b="bp-control", region="null")
    study = made.read()
    assert findings.differences(study, 8)[0] == (
        "bp is closer to null (conv1) than its matched untrained control: difference 0.042,"
        " 95 % interval 0.012 to 0.072, corrected p = 0.022."
    )
    assert findings.headline(study) == (
        "After correction, bp differs from an untrained baseline, but nowhere from both in one"
        " direction; stdp is not shown to differ from any untrained baseline."
    )


@pytest.mark.parametrize(("p", "found"), [(0.05, True), (0.0500001, False)])
def test_a_finding_needs_a_corrected_p_of_at_most_alpha(made, p, found):
    values = STRONG | {"p_value": 1e-6, "p_adjusted": p}
    changed(made, 8, values, rung=BROADEST, rule_a="stdp", rule_b="untrained", region="null")
    said = " ".join(findings.differences(made.read(), 8))
    assert ("stdp is closer to null" in said) == found


def test_a_narrower_test_is_no_finding(made):
    changed(made, 8, STRONG, rung="labels", rule_a="bp", rule_b="bp-control", region="null")
    study = made.read()
    assert "No difference" in findings.differences(study, 8)[0]
    text = dict(cautions(study))["Narrower tests find more"]
    assert "“labels” 1" in text


@pytest.mark.parametrize(("second", "both"), [(0.03, True), (-0.03, False)])
def test_both_baselines_count_only_in_one_direction(made, second, both):
    for other, estimate in (("bp-control", 0.04), ("untrained", second)):
        changed(made, 8, STRONG | {"estimate": estimate}, rung=BROADEST, rule_a="bp", rule_b=other,
                region="null")  # fmt: skip
    assert ("bp differs from both" in findings.headline(made.read())) == both


def test_a_rule_without_a_control_has_one_baseline(made):
    changed(made, 8, STRONG, rung=BROADEST, rule_a="bp", rule_b="untrained", region="null")
    for name in ("differences-8", "alignment-8", "trajectory-8"):
        table = made.table(name)
        column = "rule_b" if name.startswith("diff") else "rule"
        made.put(name, table[table[column] != "bp-control"])
    study = made.read()
    assert "bp differs from the untrained network in at least one" in findings.headline(study)
    assert "bp can only be compared" in dict(cautions(study))["No matched control"]


def test_broadest_rung_that_ran_is_named_with_whom_it_speaks_for(made):
    lost = {"p_value": np.nan, "p_adjusted": np.nan, "not_run": "<too> few"}
    changed(made, 8, lost, rung=BROADEST)
    text = findings.summary(made.read())
    assert "“stimuli+subjects” (test of stimuli+subjects)" in text
    assert "speaks for new stimuli+subjects and takes these others as given" in text
    assert "simulated" in text


def test_no_test_at_all_is_said(made):
    table = made.table("differences-8")
    made.put("differences-8", table.assign(p_value=np.nan, p_adjusted=np.nan, not_run="no luck"))
    study = made.read()
    assert findings.headline(study) == "No test of differences between rules could be made."
    assert findings.differences(study, 8) == ["No difference was tested: no luck."]


def test_permutation_counts_are_those_of_the_table(made):
    table = made.table("permutation-8")
    rule, here = table["rule"], table["region"].eq("null") & table["layer"].eq("conv1")
    table["p_value_stepdown"] = np.where(here & rule.isin(["bp", "untrained"]), 0.05, 0.06)
    made.put("permutation-8", table)
    text = findings.permutation(made.read(), 8)
    assert "null (conv1): untrained 2 of 2, bp 2 of 2, bp-control 0 of 2, stdp 0 of 2" in text
    assert "Untrained networks are among them" in text
    made.put("permutation-8", table.assign(p_value_stepdown=0.06))
    text = findings.permutation(made.read(), 8)
    assert text.startswith("No network is shown to be related")
    assert "Untrained networks" not in text


def test_untrained_interval_is_that_of_a_rule_before_training_only_where_equal(made):
    study = made.read()
    start = study.table("trajectory", 8)
    row = start[(start["rule"] == "bp") & (start["epoch"] == 0) & (start["region"] == "null")
                & (start["layer"] == "conv1")].iloc[0]  # fmt: skip
    assert study.alignment(8, "untrained", "null").low == row["low"]
    table = made.table("alignment-8")
    table.loc[table["rule"].eq("bp"), "similarity"] += 1e-9
    made.put("alignment-8", table)
    assert np.isnan(made.read().alignment(8, "untrained", "null").low)


# ---------------------------------------------------------------- warnings and methods


def test_warnings_quote_the_tables(made):
    said = dict(cautions(made.read()))
    assert "p = 0.50 (sign flips over matched seeds)" in said["Few seeds"]
    assert "subjects (floor 0.25, 10 tests)" in said["Tests that could not have found anything"]
    assert "conv1 0.4 %, fc1 0 %" in said["stdp hardly learned"]
    assert "bp hardly learned" not in said
    assert "stdp (none)" in said["Different batch normalisation"]
    assert "null (−0.012)" in said["Subjects who do not agree"]
    assert "0.600, of which 0.577" in said["Few subjects"]
    assert "these subjects only" in said["What the curves take as given"]
    assert {"Simulated brain", "Stimuli that networks may have been trained on"} <= set(said)
    assert not {"Batch-norm statistics", "Several resolutions", "No matched control"} & set(said)


def test_baselines_that_disagree_are_a_warning(made):
    changed(made, 8, STRONG, rung=BROADEST, rule_a="stdp", rule_b="untrained", region="null")
    text = dict(cautions(made.read()))["Batch-norm statistics"]
    assert "in null, stdp − untrained 0.042 (corrected p = 0.022) but stdp − stdp-control" in text


def test_best_layer_chosen_afterwards_is_a_warning(made):
    table = made.table("alignment-8")
    here = table["rule"].eq("bp") & table["region"].eq("null") & table["epoch"].eq(2)
    table.loc[here & table["layer"].eq("fc1"), "similarity"] = 0.777
    table.loc[here & table["layer"].eq("conv1"), "similarity"] = 0.111
    made.put("alignment-8", table)
    text = dict(cautions(made.read()))["The best layer, chosen afterwards"]
    assert "bp in null, 0.777 (fc1) instead of 0.111 (conv1)" in text


def test_methods_name_what_was_done(made):
    text = " ".join(paragraphs(made.read()))
    for phrase in (
        "2 seeds a rule (0, 1)", "“loader” for untrained and bp", "lr = 0.01", "Spearman ρ",
        "conv1 for null and fc1 for V1 <&> $x$", "200 relabellings", "stimuli and seeds",
        "Holm correction (Holm, 1979)", "rsafast 9.8.7", "torch 2.9.9", "The 20 stimuli",
    ):  # fmt: skip
        assert phrase in text


def test_published_practices_are_shown_where_they_were_asked_for(made):
    assert "What practices that mislead" not in page_of(made)
    made.recipe = recipe_of(sizes=(8,), more="published = true")
    made.put("published-8", pd.DataFrame([
        ("entries shuffled", "bp", "stdp", "null", "conv1", 0.0567, 0.0, np.nan, np.nan, "<why>"),
        ("trend", "bp", "", "null", "", 0.1, np.nan, 0.05, 0.15, "a & b"),
    ], columns=["practice", "rule_a", "rule_b", "region", "layer", "estimate", "p_value", "low",
                "high", "wrong"]))  # fmt: skip
    text = page_of(made)
    assert '<td data-value="0.0567">0.057</td><td>none</td><td data-value="0.0">0</td>' in text
    assert "bp − stdp" in text
    assert "&lt;why&gt;" in text


def test_recipe_on_the_page_is_the_same_study():
    recipe = recipe_of(more="adjust = 'by'\nlevel = 0.9")
    assert parse_recipe(recipe_text(recipe), "again") == recipe


def test_map_keeps_the_distances_of_a_plane():
    rng = np.random.default_rng(1)
    vectors = rng.random((3, 45))
    points, share, similar = map_of(vectors)
    expected = 1 - pd.DataFrame(vectors.T).corr("spearman").to_numpy()
    np.testing.assert_allclose(1 - similar, expected, atol=1e-12)
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.testing.assert_allclose(gaps, expected, atol=1e-12)
    assert share == pytest.approx(1)
    mask = np.arange(45) < 30
    np.testing.assert_array_equal(map_of(vectors, mask)[2], map_of(vectors[:, :30])[2])


def test_missing_table_is_one_clear_error(made):
    (made.root / "tables" / "change-8.csv").unlink()
    with pytest.raises(InvalidInputError, match=r"change-8\.csv.*--resume"):
        made.read()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1234, "0.123"), (-0.00421, "−0.0042"), (1e-36, "0"), (0.0, "0"), (np.nan, "–"),
     (-0.25, "−0.250"), (3.2e-5, "0.000032"), (0.00999, "0.010")],
)  # fmt: skip
def test_numbers_are_written_for_readers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1"), (0.9999, "> 0.99"), (0.04, "0.040"), (np.nan, "–")]
)
def test_p_values_are_written_for_readers(value, text):
    assert p_text(value) == text
