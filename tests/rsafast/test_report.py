import re

import numpy as np
import pytest
from html_page import Page
from synthetic_results import make_result

from rsafast.errors import InvalidInputError
from rsafast.rdms import RDMs
from rsafast.report import write_report
from rsafast.report.text import headline, methods, references, scientific


def rdms(k: int, n: int, name: str) -> RDMs:
    values = np.random.default_rng(k).random((k, n * (n - 1) // 2))
    return RDMs(values, names=[f"{name} {i}" for i in range(k)])


def page_of(tmp_path, result, **options) -> tuple[str, Page]:
    path = write_report(tmp_path / "report.html", result, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[str, Page]:
    """The page of a result with its RDMs."""
    folder = tmp_path_factory.mktemp("report")
    return page_of(folder, make_result(), models=rdms(3, 20, "m"), brain=rdms(2, 20, "b"))


@pytest.mark.parametrize("shape", [
    (1, 1), (3, 2), pytest.param((1, 7), marks=pytest.mark.slow),
    pytest.param((7, 8), marks=pytest.mark.slow),
])  # fmt: skip
def test_page_is_well_formed_and_loads_nothing(tmp_path, shape):
    text, page = page_of(tmp_path, make_result(*shape, n=300))
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"@import|<script|<link|<iframe", text)
    assert all(u.startswith("#") for u in re.findall(r"url\(['\"]?([^)]*)\)", text))


def test_ids_are_unique_and_every_reference_has_its_target(drawn):
    text, page = drawn
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    used = re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"|aria-labelledby="([^"]*)"', text)
    assert {name for names in used for name in names if name} <= set(ids)


def test_every_figure_has_a_label_and_a_caption(drawn):
    _, page = drawn
    drawings = [a for tag, a in page.elements if tag == "svg"]
    # Forest, six nulls, three matrices, five RDMs.
    assert len(drawings) == 15
    assert all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in drawings)
    assert sum(tag == "figcaption" for tag, _ in page.elements) == len(drawings)


def test_whatever_may_be_too_wide_scrolls_in_a_box_with_a_name(drawn):
    text, page = drawn
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "Table: all pairs" in [box["aria-label"] for box in page.boxes()]
    assert all(a.get("scope") in ("row", "col") for tag, a in page.elements if tag == "th")
    # A drawing of at most 340 pixels fits a phone.
    widths = [int(re.findall(r"\d+", a["style"])[0]) for _, a in page.elements
              if a.get("class") == "drawing"]  # fmt: skip
    assert len(page.boxes()) == 1 + sum(width > 340 for width in widths)


def test_figures_follow_the_colours_of_the_page(drawn):
    text, _ = drawn
    assert "var(--accent)" in text
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"#01020[3-7]", text)


def test_numbers_in_the_table_equal_the_result(drawn):
    result, (text, _) = make_result(), drawn
    rows = re.findall(r'<tr[^>]*><th scope="row">(layer \d)</th>.*?(ROI \d)</th>(.*?)</tr>', text)
    assert len(rows) == result.n_pairs
    for model, brain, cells in rows:
        i, j = result.model_names.index(model), result.brain_names.index(brain)
        values = [float(v) for v in re.findall(r'data-value="([^"]*)"', cells)]
        expected = ["statistic", "p_value", "p_value_stepdown", "p_value_fwer", "q_value"]
        expected += ["null_mean", "z"]
        assert values == [getattr(result, name)[i, j] for name in expected]


def test_names_are_escaped(tmp_path):
    nasty = ("<script>alert(1)</script>", 'a"b', "c&d")
    text, page = page_of(tmp_path, make_result(model_names=nasty), title="<b>t</b>")
    assert "<script" not in text
    assert "<b>t" not in text
    assert nasty[0] in page.text


@pytest.mark.slow
def test_caps_are_said(tmp_path):
    result = make_result(25, 12, n=100)
    _, page = page_of(tmp_path, result, models=rdms(25, 20, "m"))
    assert "100 more pairs are in the CSV" in page.text
    assert "The first 12 RDMs of 25 are shown." in page.text
    assert "The 12 pairs of smallest p of 300 are shown." in page.text


def test_large_rdms_are_thinned_and_it_is_said(tmp_path):
    _, page = page_of(tmp_path, make_result(), models=rdms(1, 300, "m"))
    assert "240 of 300 stimuli are drawn" in page.text


def test_says_what_was_tested_and_what_not(tmp_path):
    _, page = page_of(tmp_path, make_result(tail="gpd", p_tail=np.full((3, 2), 1e-9)))
    for phrase in (
        "This model RDM and this brain RDM are unrelated",
        "These stimuli, subjects and seeds",
        "Whether two models are equal",
        "Monte Carlo standard error",
        "It is no exact p-value",
        "max-T",
        "Benjamini–Hochberg q",
    ):
        assert phrase in page.text


def test_methods_cite_what_was_done():
    text = methods(make_result(parameters={"covariates": "x"}))
    for citation in ("Mantel, 1967", "Kriegeskorte et al., 2008", "Hemerik & Goeman, 2018"):
        assert citation in text
    assert "Westfall & Young, 1993" in text
    assert "Covariate RDMs were partialled out." in text
    assert "Westfall" not in methods(make_result(1, 1))
    assert len(references(make_result(tail="gpd", p_tail=np.ones((3, 2))))) == 6


def test_headline_counts_family_wise():
    result = make_result()
    count = int((result.p_value_stepdown <= 0.05).sum())
    assert headline(result).startswith(f"{count} of 6 ")
    assert "layer 0 × ROI 0" in headline(result)
    none = make_result(p_value_stepdown=np.ones((3, 2)))
    assert headline(none).startswith("None of 6 ")
    not_shown = make_result(1, 1, p_value=np.array([[0.4]]))
    assert "not shown to be related" in headline(not_shown)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.314, "0.31"), (0.0042, "0.0042"), (1.84e-6, "1.8 × 10⁻⁶"), (0.0, "0"), (np.nan, "–")],
)
def test_scientific(value, shown):
    assert scientific(value).replace("\u00a0", " ") == shown


def test_rejects_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InvalidInputError, match="absent"):
        write_report(tmp_path / "absent" / "report.html", make_result())


def test_a_constant_null_is_drawn(tmp_path):
    constant = {
        "statistic": np.zeros((1, 1)),
        "p_value": np.ones((1, 1)),
        "p_value_fwer": np.ones((1, 1)),
        "null_mean": np.zeros((1, 1)),
        "null_std": np.zeros((1, 1)),
        "histogram": np.eye(1, 40, dtype=np.int64)[None] * 2_000,
        "histogram_range": np.zeros((1, 1, 2)),
    }
    _, page = page_of(tmp_path, make_result(1, 1, **constant))
    assert "not shown to be related" in page.text


def test_missing_pairs_are_left_blank():
    from rsafast.plotting import rank_percentiles

    vector = np.array([0.1, np.nan, 0.3, 0.2, 0.5, 0.4])
    percentiles, _ = rank_percentiles(vector, 4)
    assert np.isnan(percentiles[0, 2])
    assert percentiles[0, 1] == 0
    assert percentiles[1, 3] == 100
