"""`run_study` and `plan_study`: a recipe to its stages, the stages to tables and the report."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import pandas as pd
from rsafast_kernels.atomic import PathInput, alone, replacing

from rsafast.device import require_training
from rsafast.errors import InvalidInputError
from rsafast.study.analyses import analysis_stages
from rsafast.study.brains import brain_stage
from rsafast.study.needed import check_data
from rsafast.study.networks import network_stages
from rsafast.study.others import other_stages
from rsafast.study.recipe import Recipe, read_recipe
from rsafast.study.stage import Say, Stage, run_stages
from rsafast.study.stimuli import find_images

Form = Literal["both", "corrected", "published"]
CORRECTED, PUBLISHED = "corrected", "published"


def run_study(
    recipe: PathInput,
    out: PathInput | None = None,
    *,
    form: Form = "both",
    cache: PathInput | None = None,
    resume: bool = False,
    quiet: bool = False,
    say: Say = print,
) -> Path:
    """Run a study from its file to its report.

    Parameters
    ----------
    recipe : a .toml file, or the name of a recipe of the package
    out : folder of the study; by default its name, in the current folder
    form : of a study that also says how it was published: "both", "corrected" or "published"
    cache : folder that keeps what the stages make, by default `out`; studies that share it do
        nothing twice
    resume : go on in a folder that holds a study; what its file has not changed is kept
    quiet : show no bars
    say : called with a line a stage

    Returns
    -------
    Path
        The folder: ``report.html`` and its ``figures``, ``tables`` with one .csv an analysis (and
        resolution), ``stages`` with everything they were made from, ``log.txt``; the study as
        published, with a report of its own, in ``published``.

    Raises
    ------
    InvalidInputError
        A file that does not describe a study (with the line), data that are missing, a folder that
        holds a study already (without `resume`) or that another process works in.
    """
    from rsafast.study.report import Study, write_report  # loads matplotlib: not for a plan

    forms = _forms(recipe, form)
    root, cached = _folders(forms, out, cache)
    if not resume and any((root / name).exists() for name in ("stages", "tables", "published")):
        raise InvalidInputError(
            f"{root}: holds a study already; go on with it with resume (--resume), or choose"
            " another folder"
        )
    planned = {name: study_stages(study, forms.base, quiet) for name, study in forms.of.items()}
    with ExitStack() as locks:
        for folder in dict.fromkeys((root, cached)):
            locks.enter_context(alone(folder, "works on this study"))
        done = {}
        for name, stages in planned.items():
            said = name if len(planned) > 1 else ""
            done[name] = run_stages(stages, root, say, cache=cached, form=said)
            _collect(stages, done[name], _place(root, name) / "tables")
        say("report ...")
        published = None
        if PUBLISHED in done:
            place = _place(root, PUBLISHED)
            published = Study.read(forms.of[PUBLISHED], place, done[PUBLISHED])
            write_report(published, place)
        if CORRECTED in done:
            corrected = Study.read(forms.of[CORRECTED], root, done[CORRECTED])
            write_report(corrected, root, published=published)
    return root


def plan_study(
    recipe: PathInput,
    out: PathInput | None = None,
    *,
    form: Form = "both",
    cache: PathInput | None = None,
) -> pd.DataFrame:
    """What `run_study` would do: one row a stage.

    Columns: form, stage, state ("done" or "to run"), seconds, memory and disk in bytes (rough
    estimates for two cores of a 2021 server; 0 for what is done), folder. A stage that both forms
    share is in the first one's rows.
    """
    forms = _forms(recipe, form)
    _, cached = _folders(forms, out, cache)
    rows: dict[str, tuple[Any, ...]] = {}
    for name, study in forms.of.items():
        for stage in study_stages(study, forms.base, quiet=True):
            done, cost = stage.is_done(cached), stage.cost
            spent = (0.0, 0.0, 0.0) if done else (cost.seconds, cost.memory, cost.disk)
            folder = str(stage.folder(cached))
            state = "done" if done else "to run"
            rows.setdefault(folder, (name, stage.name, state, *spent, folder))
    columns = ["form", "stage", "state", "seconds", "memory", "disk", "folder"]
    return pd.DataFrame(list(rows.values()), columns=columns)


class _Forms(NamedTuple):
    """The forms of a study that are to run, and where its relative paths start from."""

    of: dict[str, Recipe]
    base: Path


def _forms(recipe: PathInput, form: Form) -> _Forms:
    study, base = read_recipe(recipe)
    if form not in get_args(Form):
        raise InvalidInputError(f"form must be one of {', '.join(get_args(Form))}, got {form!r}")
    if form == PUBLISHED and study.published is None:
        raise InvalidInputError(
            f"{recipe}: does not say how the study was published: it has no [published.*] tables"
        )
    forms = {CORRECTED: study} if form != PUBLISHED else {}
    if form != CORRECTED and study.published is not None:
        forms[PUBLISHED] = study.published
    return _Forms(forms, base)


def _folders(forms: _Forms, out: PathInput | None, cache: PathInput | None) -> tuple[Path, Path]:
    """The folder of a study, and that of what its stages make."""
    name = next(iter(forms.of.values())).name
    root = Path(name if out is None else out).expanduser()
    return root, root if cache is None else Path(cache).expanduser()


def _place(root: Path, form: str) -> Path:
    """Where tables and report of a form lie."""
    return root / PUBLISHED if form == PUBLISHED else root


def study_stages(recipe: Recipe, base: Path, quiet: bool) -> list[Stage]:
    """All stages in the order in which they can run."""
    require_training()
    check_data(recipe, base)
    images = find_images(recipe, base)
    networks = network_stages(recipe, base, images, quiet)
    brain = brain_stage(recipe, base, images)
    # Early: what cannot be done with them shows before anything is trained.
    others = other_stages(recipe, base, images, brain, quiet)
    analyses = analysis_stages(recipe, base, images, networks, brain)
    return [images.stage, brain, *others, *networks, *analyses]


def _collect(stages: list[Stage], folders: dict[str, Path], tables: Path) -> None:
    """Copy the tables of this study, and no older ones, to one folder."""
    fresh: dict[str, Path] = {}
    for stage in stages:
        _, _, size = stage.name.partition(" ")
        for table in sorted(folders[stage.name].glob("*.csv")):
            fresh[f"{table.stem}-{size}.csv" if size else table.name] = table
    tables.mkdir(parents=True, exist_ok=True)
    for old in tables.glob("*.csv"):
        if old.name not in fresh:
            old.unlink()
    for name, table in fresh.items():
        with replacing(tables / name) as temporary:
            shutil.copyfile(table, temporary)
