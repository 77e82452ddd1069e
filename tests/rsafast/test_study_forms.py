"""Studies that also say how they were published: two forms, side by side in one report."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from blank_figures import leave_figures_blank
from html_page import Page
from test_study import TINY

import rsafast as rf
from rsafast.cli import main
from rsafast.errors import InvalidInputError
from rsafast.study.networks import rdms_of
from rsafast.study.pipeline import plan_study, run_study
from rsafast.study.recipe import RECIPES, parse_recipe, read_recipe

FILE = (
    TINY.replace('name = "tiny"', 'name = "both"').replace('"bp", "stdp"', '"bp", "pc", "stdp"')
    + """
[published.networks]
profile = "faithful"
"""
)


def written(folder, text=FILE):
    path = folder / "both.toml"
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------- the file


def test_the_published_form_differs_in_what_its_tables_say_and_asks_for_the_practices():
    study = parse_recipe(FILE, "both.toml")
    published = study.published
    assert published.networks.profile == "faithful"
    assert published.inference.published
    assert published.title == "both, as published"
    assert published.published is None
    changed = {"networks": {"profile": "corrected"}, "inference": {"published": False}}
    back = published.model_dump()
    for table, keys in changed.items():
        back[table] |= keys
    assert back | {"title": ""} == study.model_dump()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('profile = "faithful"', 'profile = "x"'), r"line 27: networks\.profile: .*faithful"),
        (("[published.networks]", "[published.network]"), r"line 26: network: extra"),
        (("epochs = 2", "epoch = 2"), r"line 7: networks\.epoch: extra inputs are not permitted$"),
        (("seeds = [0, 1]", "seeds = [0]"), r"one seed cannot be resampled"),
    ],
)
def test_an_error_names_the_line_of_the_table_that_says_so(change, said):
    assert change[0] in FILE
    with pytest.raises(InvalidInputError, match=said):
        parse_recipe(FILE.replace(*change), "both.toml")


@pytest.mark.parametrize(
    "name", ["leutenegger-2604", "leutenegger-2605", "scholte-2024", "scholte-2024-eeg"]
)
def test_recipes_of_published_studies_have_both_forms(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study, _ = read_recipe(name)
    assert study.published is not None
    assert study.comparison.pairs.keys() == study.published.comparison.pairs.keys()
    with pytest.raises(InvalidInputError, match="data of this study are missing") as caught:
        plan_study(name)
    said = str(caught.value)
    assert "stimuli.images = " in said
    assert "brain.path = " in said
    assert re.search(r"GB|bytes|MB", said)


def test_every_recipe_is_shown_as_it_is(capsys):
    for item in RECIPES.iterdir():
        assert main(["study", item.name.removesuffix(".toml"), "--show"]) == 0
        assert capsys.readouterr().out == item.read_text(encoding="utf-8")


def test_every_recipe_has_a_page_that_holds_its_file():
    docs = Path(__file__).parents[2] / "docs"
    pages = {path: path.read_text(encoding="utf-8") for path in (docs / "recipes").glob("*.md")}
    for item in RECIPES.iterdir():
        if item.name != "quick.toml":  # docs/study.md explains its lines
            assert any(item.read_text(encoding="utf-8") in text for text in pages.values())


# ---------------------------------------------------------------- controls


def test_a_rule_without_statistics_has_the_network_before_training_as_its_control(tmp_path):
    rng = np.random.default_rng(0)
    rows = [("untrained", 0), ("bp", 0), ("bp", 1), ("bp-control", 1), ("pc", 0), ("pc", 1)]
    rdms = rf.RDMs.from_vectors(
        rng.random((len(rows), 10)),
        descriptors={
            "rule": [rule for rule, _ in rows], "epoch": [epoch for _, epoch in rows],
            "seed": [0] * len(rows), "layer": ["fc1"] * len(rows),
        },
    )  # fmt: skip
    rdms.save(tmp_path / "models.h5")
    got = rdms_of({"rdms all 8": tmp_path}, 8)
    added = got[{"rule": "pc-control"}]
    assert added.descriptors["epoch"].tolist() == [0, 1]
    np.testing.assert_array_equal(added.vectors, rdms.vectors[[4, 4]])
    assert set(got.descriptors["rule"]) == {*(r for r, _ in rows), "pc-control"}


# ---------------------------------------------------------------- a run


def test_a_form_that_is_not_there_is_refused(tmp_path):
    alone = written(tmp_path, FILE[: FILE.index("[published")])
    with pytest.raises(InvalidInputError, match="does not say how the study was published"):
        plan_study(alone, form="published")
    with pytest.raises(InvalidInputError, match="form must be one of both, corrected, published"):
        plan_study(alone, form="right")


def test_the_plan_has_every_stage_once(tmp_path):
    plan = plan_study(written(tmp_path), tmp_path / "out")
    assert not plan["folder"].duplicated().any()
    published = plan.loc[plan["form"] == "published", "stage"].tolist()
    assert "train bp" in published
    assert "brain" not in published  # the corrected form's
    assert "published 8" in published
    one = plan_study(written(tmp_path), tmp_path / "out", form="corrected")
    assert set(one["form"]) == {"corrected"}


@pytest.mark.slow
def test_both_forms_run_and_the_report_says_first_what_changes(tmp_path, monkeypatch):
    out, cache = tmp_path / "out", tmp_path / "cache"
    said = []
    run_study(written(tmp_path), out, cache=cache, quiet=True, say=said.append)
    assert not (out / "stages").exists()
    own, published = (pd.read_csv(p / "differences-8.csv")
                      for p in (out / "tables", out / "published" / "tables"))  # fmt: skip
    assert not own["estimate"].equals(published["estimate"])
    assert {"pc-control", "bp-control", "untrained"} <= set(own["rule_b"])

    page = Page((out / "report.html").read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    practices = pd.read_csv(out / "published" / "tables" / "published-8.csv")
    entries = practices[(practices["practice"] == "entries shuffled")
                        & ~practices["rule_b"].fillna("").str.endswith("-control")]  # fmt: skip
    entries = entries.assign(p=rf.adjust_p(entries["p_value"].to_numpy(), "bh"))
    entries = entries[entries["rule_b"] == "untrained"]
    found = int((entries["p"] <= 0.05).sum())
    first = text.index(f"As published, {found} of {len(entries)} differences")
    assert text.index("What was found") < first < text.index("learning rules (")
    assert "networks.profile (faithful, here corrected)" in text
    assert "As published, and corrected" in text

    other = (out / "published" / "report.html").read_text(encoding="utf-8")
    warned = " ".join(Page(other).text.split())
    for phrase in (
        "both, as published", "pc hardly learned", "conv3 0 %", "stdp is not what its name says",
        "opposite sign", "Batch norm in another mode", "those of the stimuli themselves",
        "Exact tests over seeds cannot fall below", "Shuffled RDM entries call",
    ):  # fmt: skip
        assert phrase in warned, phrase

    leave_figures_blank(monkeypatch)
    again = []
    run_study(written(tmp_path), tmp_path / "second", cache=cache, quiet=True, say=again.append)
    assert not [line for line in again if ": made in" in line]
    for table in sorted((out / "tables").iterdir()):
        assert table.read_bytes() == (tmp_path / "second" / "tables" / table.name).read_bytes()
