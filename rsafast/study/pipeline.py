"""`run_study` and `plan_study`: a recipe to its stages, the stages to tables and the report."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
from rsafast_kernels.atomic import PathInput, alone, replacing

from rsafast.device import require_training
from rsafast.errors import InvalidInputError
from rsafast.study.analyses import analysis_stages
from rsafast.study.brains import brain_stage
from rsafast.study.networks import find_images, network_stages
from rsafast.study.recipe import Recipe, read_recipe
from rsafast.study.stage import Say, Stage, run_stages


def run_study(
    recipe: PathInput,
    out: PathInput | None = None,
    *,
    resume: bool = False,
    quiet: bool = False,
    say: Say = print,
) -> Path:
    """Run a study from its file to its report.

    Parameters
    ----------
    recipe : a .toml file, or the name of a recipe of the package
    out : folder of the study; by default its name, in the current folder
    resume : go on in a folder that holds a study; what its file has not changed is kept
    quiet : show no bars
    say : called with a line a stage

    Returns
    -------
    Path
        The folder: ``report.html`` and its ``figures``, ``tables`` with one .csv an analysis (and
        resolution), ``stages`` with everything they were made from, ``log.txt``.

    Raises
    ------
    InvalidInputError
        A file that does not describe a study (with the line), data that are missing, a folder that
        holds a study already (without `resume`) or that another process works in.
    """
    from rsafast.study.report import write_report  # loads matplotlib, which a plan does not need

    study, base = read_recipe(recipe)
    root = Path(study.name if out is None else out).expanduser()
    if (root / "stages").is_dir() and not resume:
        raise InvalidInputError(
            f"{root}: holds a study already; go on with it with resume (--resume), or choose"
            " another folder"
        )
    stages = study_stages(study, base, quiet)
    with alone(root, "works on this study"):
        folders = run_stages(stages, root, say)
        _collect(stages, folders, root / "tables")
        say("report ...")
        write_report(study, root, folders)
    return root


def plan_study(recipe: PathInput, out: PathInput | None = None) -> pd.DataFrame:
    """What `run_study` would do: one row a stage.

    Columns: stage, state ("done" or "to run"), seconds, memory and disk in bytes (rough estimates
    for two cores of a 2021 server; 0 for what is done), folder.
    """
    study, base = read_recipe(recipe)
    root = Path(study.name if out is None else out).expanduser()
    rows = []
    for stage in study_stages(study, base, quiet=True):
        done = stage.is_done(root)
        cost = (0.0, 0.0, 0.0) if done else (stage.cost.seconds, stage.cost.memory, stage.cost.disk)
        rows.append((stage.name, "done" if done else "to run", *cost, str(stage.folder(root))))
    return pd.DataFrame(rows, columns=["stage", "state", "seconds", "memory", "disk", "folder"])


def study_stages(recipe: Recipe, base: Path, quiet: bool) -> list[Stage]:
    """All stages in the order in which they can run."""
    require_training()
    images = find_images(recipe, base)
    networks = network_stages(recipe, base, images, quiet)
    brain = brain_stage(recipe, base, images)
    return [brain, *networks, *analysis_stages(recipe, base, images, networks, brain)]


def _collect(stages: list[Stage], folders: dict[str, Path], tables: Path) -> None:
    """Copy the tables of this study, and no older ones, to one folder."""
    fresh: dict[str, Path] = {}
    for stage in stages:
        _, _, size = stage.name.partition(" ")
        for table in sorted(folders[stage.name].glob("*.csv")):
            fresh[f"{table.stem}-{size}.csv" if size else table.name] = table
    tables.mkdir(exist_ok=True)
    for old in tables.glob("*.csv"):
        if old.name not in fresh:
            old.unlink()
    for name, table in fresh.items():
        with replacing(tables / name) as temporary:
            shutil.copyfile(table, temporary)
