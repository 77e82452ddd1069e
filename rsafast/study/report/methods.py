"""The methods paragraph, its references, and where everything comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rsafast.plotting import method_name
from rsafast.report.text import REFERENCES
from rsafast.study.networks import CONTROL, UNTRAINED
from rsafast.study.recipe import Recipe, SimulatedBrain
from rsafast.study.report.tables import Study
from rsafast.study.report.words import CORRECTIONS, counted, listed, pixels, seen_as

_RULES = {
    "bp": "back-propagation (bp)",
    "fa": "feedback alignment (fa)",
    "pc": "predictive coding (pc)",
    "stdp": "spike-timing-dependent plasticity (stdp)",
}
_MORE = {
    "nili": "Nili H, Wingfield C, Walther A, Su L, Marslen-Wilson W, Kriegeskorte N (2014). A "
    "toolbox for representational similarity analysis. PLoS Computational Biology 10, e1003553.",
    "schutt": "Schütt HH, Kipnis AD, Diedrichsen J, Kriegeskorte N (2023). Statistical inference "
    "on representational geometries. eLife 12, e82566.",
    "holm": "Holm S (1979). A simple sequentially rejective multiple test procedure. Scandinavian "
    "Journal of Statistics 6, 65–70.",
    "by": "Benjamini Y, Yekutieli D (2001). The control of the false discovery rate in multiple "
    "testing under dependency. Annals of Statistics 29, 1165–1188.",
}


def paragraphs(study: Study) -> list[str]:
    """What a reviewer asks: networks, data, brains, comparison, inference, versions."""
    return [
        _networks(study), _data(study), _inference(study), _elsewhere(study), _versions(study)
    ]  # fmt: skip


def _networks(study: Study) -> str:
    asked = study.recipe.networks
    return " ".join(_trained(study) if asked.weights is None else _read(study))


def _read(study: Study) -> list[str]:
    """Networks that were trained elsewhere, and whose weights were read."""
    asked = study.recipe.networks
    sentences = [
        f"Networks ({asked.model}) were trained elsewhere with"
        f" {listed([_RULES.get(rule, rule) for rule in study.trained])}; weights were read from"
        f" “{asked.weights}” for {counted(len(asked.seeds), 'seed')} a rule"
        f" ({', '.join(map(str, asked.seeds))}) at the epochs {listed(_kept(study))}. Their"
        " accuracy is not known here. Batch normalisation, if any, used the running statistics of"
        " the files."
    ]
    if UNTRAINED in asked.rules:
        done = study.done.get(f"train {UNTRAINED}", {"settings": {}})
        of = done["settings"].get("networks_of", UNTRAINED)
        whose = "" if of == UNTRAINED else f" of {_RULES.get(of, of)}"
        sentences.append(f"The untrained networks are those{whose} at epoch 0.")
    if any(name.endswith(CONTROL) for name in study.conditions):
        sentences.append(
            "The matched control of a rule is, at every checkpoint, its network before training,"
            " with batch-norm statistics of that network, the means over batches of the images in"
            f" “{asked.control_images}”."
        )
    return sentences


def _trained(study: Study) -> list[str]:
    """Networks that were trained here."""
    asked = study.recipe.networks
    rules = listed([_RULES.get(rule, rule) for rule in study.trained]) or "no rule"
    n_train = f"{asked.n_train:,}" if asked.n_train else "8,000 (or all that there are)"
    subset = "drawn for each seed" if asked.subset == "per-seed" else "the same for all seeds"
    sentences = [
        f"Networks ({asked.model}, profile “{asked.profile}”) were trained with {rules} on"
        f" {asked.data}: {n_train} training images, {subset}, {counted(asked.epochs, 'epoch')},"
        f" batches of {asked.batch_size}, with {counted(len(asked.seeds), 'seed')} a rule"
        f" ({', '.join(map(str, asked.seeds))}).",
        f"Networks were kept at the epochs {listed(_kept(study))}.",
    ]
    if UNTRAINED in asked.rules:
        sentences.append("Networks of the same seeds were left untrained.")
    regimes: dict[str, list[str]] = {}
    for rule, regime in study.batch_norm.items():
        regimes.setdefault(regime, []).append(rule)
    if regimes:
        said = [f"“{regime}” for {listed(own)}" for regime, own in regimes.items()]
        sentences.append(f"Batch normalisation followed the regime {listed(said)}.")
    for rule, settings in asked.settings.items():
        said = [f"{key} = {value}" for key, value in settings.items()]
        sentences.append(f"Settings of {rule}: {listed(said)}.")
    if any(name.endswith(CONTROL) for name in study.conditions):
        sentences.append(
            "The matched control of a rule is, at every checkpoint, the untrained network of the"
            " same seed, with batch-norm statistics of the same images as the trained one’s; where"
            " a rule has none to share, its own network before training."
        )
    return sentences


def _kept(study: Study) -> list[int]:
    """Epochs whose networks there are."""
    return sorted({int(epoch) for epoch in study.table("alignment", study.sizes[0])["epoch"]})


def _data(study: Study) -> str:
    recipe = study.recipe
    stimuli, brain, comparison = recipe.stimuli, recipe.brain, recipe.comparison
    layers = "all layers" if stimuli.layers is None else listed(stimuli.layers)
    pooled = "averaged over space" if stimuli.pooling == "mean" else "without pooling over space"
    subjects = listed([f"{n} in {region}" for region, n in study.n_subjects.items()])
    measured = (
        f"Brains were simulated (seed {brain.seed})"
        if isinstance(brain, SimulatedBrain)
        else f"Brain data are of the source “{brain.source}” ({_source(brain)})"
    )
    masked = (
        "Pairs of stimuli that any subject saw in one run were left out."
        if comparison.mask == "cross-run"
        else "All pairs of stimuli counted."
    )
    n = study.permutation(study.sizes[0]).n_stimuli
    chosen = listed([f"{layer} for {region}" for region, layer in study.pairs.items()])
    return (
        f"The {n} stimuli ({stimuli.images}) were shown to the networks at"
        f" {listed([pixels(size) for size in stimuli.sizes])}, each resolution analysed by itself;"
        f" responses of {layers} were taken {pooled}. {measured}, with subjects: {subjects}."
        f" Representational dissimilarity matrices (RDMs; Kriegeskorte et al., 2008) were made with"
        f" {comparison.metric} distance, and compared by {method_name(comparison.method)} over"
        f" pairs of stimuli. {masked} Layers were chosen before the analysis: {chosen}."
    )


def _source(brain: Any) -> str:
    said = brain.model_dump(mode="json", exclude={"source"}, exclude_none=True)
    return "; ".join(f"{key} {_toml(value)}" for key, value in said.items())


def _inference(study: Study) -> str:
    inference = study.recipe.inference
    rungs = listed([f"“{study.rung(size)}”" for size in study.sizes][:1])
    if len({study.rung(size) for size in study.sizes}) > 1:
        rungs = listed([f"“{study.rung(size)}” at {pixels(size)}" for size in study.sizes])
    cite = {"holm": " (Holm, 1979)", "bh": " (Benjamini & Hochberg, 1995)",
            "by": " (Benjamini & Yekutieli, 2001)", "bonferroni": ""}[inference.adjust]  # fmt: skip
    level = f"{100 * inference.level:g} %"
    sentences = [
        f"Each network after its last epoch was tested against the mean RDM of each region by"
        f" {inference.permutations:,} relabellings of the stimuli (Mantel, 1967; Hemerik & Goeman,"
        " 2018), family-wise over all networks, layers and regions by step-down max-T (Westfall &"
        " Young, 1993).",
        f"Alignment over training was the mean similarity over seeds and subjects, with {level}"
        f" intervals, and bands simultaneous over the epochs of a curve, from"
        f" {inference.resamples:,} bootstrap resamples of {listed(inference.resample)} together,"
        " each source of variance counted once (Schütt et al., 2023).",
        "Differences between rules were tested by relabelling stimuli, by sign flips over seeds"
        " and over subjects, and by t-tests with bootstrap standard errors"
        f" ({inference.resamples:,} resamples); the report judges by {rungs}.",
        f"Each of these tests was corrected by itself over all comparisons and regions of a"
        f" resolution by {CORRECTIONS[inference.adjust]}{cite}; alpha was {study.alpha:g},"
        " two-sided.",
        f"Cohen’s d is over seeds, with {level} intervals.",
        "Noise ceilings are the mean similarity of each subject with the mean over the others"
        " (leave-one-out), and between the bounds of the rank-average definition (Nili et al.,"
        " 2014).",
    ]
    if inference.partial:
        n = int(study.table("partial", study.sizes[0])["n_permutations"].max())
        sentences.append(
            f"Partial alignment held the RDM of the pixels constant ({n:,} relabellings), for the"
            " mean RDM of the networks of a rule and that of the subjects of a region."
        )
    sentences.append(f"All random numbers follow from the seed {inference.seed}.")
    return " ".join(sentences)


def _elsewhere(study: Study) -> str:
    """Networks that others trained, where there are some."""
    table, inference = study.others, study.recipe.inference
    if table is None:
        return ""
    made = [
        f"{name} (weights {own['weights']}; {counted(len(own['layers']), 'layer')}; images"
        f" {seen_as(own['preprocess'])})"
        for name, own in study.published_networks.items()
    ]
    resampled = str(table["resample"].iloc[0]).replace("+", " and ")
    return (
        f"Networks that others had trained on ImageNet were described beside these: {listed(made)}."
        " Their RDMs were made and compared in the same way; alignment is the mean similarity over"
        f" the subjects of a region, with {100 * inference.level:g} % intervals from"
        f" {inference.resamples:,} bootstrap resamples of {resampled}, and was tested against the"
        f" mean RDM of each region by {int(table['n_permutations'].max()):,} relabellings of the"
        " stimuli, family-wise over all their layers and regions by step-down max-T. They have no"
        " seeds and no epochs, and take part in no trajectory and no test of differences."
    )


def versions(study: Study) -> dict[str, str]:
    """Software to its versions, all that took part."""
    found: dict[str, set[str]] = {}
    for own in study.done.values():
        for name in ("rsafast", "numpy", "scipy", "python"):
            if name in own["provenance"]:
                found.setdefault(name, set()).add(str(own["provenance"][name]))
    for run in _runs(study):
        if "torch" in run.get("versions", {}):
            found.setdefault("torch", set()).add(str(run["versions"]["torch"]))
    return {name: ", ".join(sorted(values)) for name, values in found.items()}


def _runs(study: Study) -> list[dict[str, Any]]:
    """What the training runs noted about themselves."""
    files = [
        file
        for name, folder in study.folders.items()
        if name.startswith("train ")
        for file in sorted(folder.glob("*/run.json"))
    ]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def _versions(study: Study) -> str:
    said = [f"{name} {version}" for name, version in versions(study).items()]
    return f"Software: {listed(said)}." if said else ""


def references(study: Study) -> list[str]:
    """The works that the paragraphs cite, in alphabetical order."""
    adjust = study.recipe.inference.adjust
    known = REFERENCES | _MORE
    keys = ["kriegeskorte", "mantel", "hemerik", "westfall", "nili", "schutt"]
    more = {"holm": "holm", "bh": "benjamini", "by": "by"}
    return sorted(known[key] for key in [*keys, *([more[adjust]] if adjust in more else [])])


def provenance(study: Study) -> list[tuple[str, str]]:
    """Rows of what all stages noted: one value, or all there are."""
    values: dict[str, list[str]] = {}
    for own in study.done.values():
        for name, value in own["provenance"].items():
            values.setdefault(name, []).append(str(value))
    times = sorted(values.pop("time", []))
    rows = [(name, ", ".join(dict.fromkeys(own))) for name, own in values.items()]
    torch = versions(study).get("torch")
    if torch:
        rows.append(("torch", torch))
    if times:
        rows += [("first stage ended", times[0]), ("last stage ended", times[-1])]
    return rows


def stages(study: Study) -> list[tuple[str, float, str]]:
    """Stage, seconds, and the folder whose name tells all that the result depends on."""
    return [
        (name, float(own["seconds"]), study.folders[name].name) for name, own in study.done.items()
    ]


def recipe_text(recipe: Recipe) -> str:
    """The study as a file, with every default written out; reading it gives the same study."""
    content = recipe.model_dump(mode="json", exclude_none=True)
    lines = [f"{key} = {_toml(value)}" for key, value in content.items()
             if not isinstance(value, Mapping)]  # fmt: skip
    for section, values in content.items():
        if isinstance(values, Mapping):
            lines += ["", f"[{section}]"]
            lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_toml(str(key))} = {_toml(own)}" for key, own in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
