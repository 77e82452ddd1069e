"""Everything that README.md and the tutorial print is run, in order, and compared.

A ```python block followed by a ```text block prints that text. In a ```console block, lines after a
``$ `` command are its output (none given: not compared). ``...`` stands for anything. The blocks of
a document share one folder, which holds what a user has there: the real data as ``data/fmri92``.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

import rsafast
from rsafast.cli import app, main

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
COMMANDS = [command.name for command in app.registered_commands]
DATA_COMMANDS = ["list", "verify", "fetch"]
# Modules whose doctests need nothing but the package.
MODULES = [m.name for m in pkgutil.walk_packages(rsafast.__path__, "rsafast.")]


class Step(NamedTuple):
    """One block of Python or one command, and the output printed for it."""

    line: int
    kind: str
    code: str
    output: str | None


def steps(text: str) -> Iterator[Step]:
    """Split a document into what is to be run."""
    blocks = [
        (text[: m.start()].count("\n") + 1, m[1], m[2], m.end())
        for m in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)
    ]
    for i, (line, kind, body, end) in enumerate(blocks):
        if kind == "console":
            for command in re.split(r"^\$ ", body, flags=re.M)[1:]:
                first, _, output = command.replace("\\\n", " ").partition("\n")
                yield Step(line, kind, first, output or None)
        elif kind == "python":
            # The output follows its block with nothing between them.
            nxt = blocks[i + 1] if i + 1 < len(blocks) else None
            follows = nxt is not None and nxt[1] == "text" and text[end:].startswith("\n```text\n")
            yield Step(line, kind, body, nxt[2] if follows and nxt else None)


def run(step: Step, folder: Path, names: dict[str, object]) -> str:
    """Run one step in `folder` and return what it prints on stdout."""
    if step.kind == "python":
        out = io.StringIO()
        with contextlib.chdir(folder), contextlib.redirect_stdout(out):
            exec(compile(step.code, f"block at line {step.line}", "exec"), names)
        return out.getvalue()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", step.code], cwd=folder, text=True, capture_output=True, timeout=300,
        env=os.environ | {"PATH": path, "COLUMNS": "100"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"line {step.line}: {step.code}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_document(document: Path, folder: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    checker = doctest.OutputChecker()
    for step in steps(document.read_text(encoding="utf-8")):
        got = run(step, folder, names)
        if step.output is not None and not checker.check_output(step.output, got, OPTIONS):
            pytest.fail(
                f"{document.name}, block at line {step.line}:\n{step.code}\n"
                f"printed in the document:\n{step.output}\nprinted by the run:\n{got}"
            )


@pytest.mark.slow
def test_readme_runs_as_printed(tmp_path: Path) -> None:
    run_document(ROOT / "README.md", tmp_path)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        "tutorial.md", "study.md", "large.md",
        *(
            f"{folder}/{path.name}"
            for folder in ("data-sets", "inference", "training")
            for path in sorted((ROOT / "docs" / folder).glob("*.md"))
        ),
    ],
)  # fmt: skip
def test_pages_run_as_printed(tmp_path: Path, data_dir: Path, page: str) -> None:
    (tmp_path / "data").symlink_to(data_dir)
    run_document(ROOT / "docs" / page, tmp_path)


@pytest.mark.data
@pytest.mark.slow
def test_figures_are_drawn_from_the_data(tmp_path: Path, data_dir: Path) -> None:
    script = ROOT / "docs" / "make_figures.py"
    subprocess.run([sys.executable, script, data_dir / "fmri92", tmp_path], check=True)
    tutorial = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"\(images/([\w-]+\.svg)\)", tutorial))
    assert shown == {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("command", ["", *COMMANDS, *(f"data {name}" for name in DATA_COMMANDS)])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"Example: rsafast {command}" in said


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module: str) -> None:
    failed, _ = doctest.testmod(import_module(module), optionflags=OPTIONS)
    assert failed == 0


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", *(
    str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))
)])  # fmt: skip
def test_links_between_files_hold(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text(encoding="utf-8"))
    missing = [t for t in targets if not (path.parent / t).exists()]
    assert not missing, f"{document} points to {', '.join(missing)}"


def test_pages_that_the_sources_name_exist() -> None:
    missing = {
        f"{path.relative_to(ROOT)}: {page}"
        for folder in ("rsafast", "training", "kernels", "benchmarks")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".py", ".toml", ".cpp", ".hpp", ".cu", ".cuh")
        for page in re.findall(r"docs/[\w/-]+\.md", path.read_text(encoding="utf-8"))
        if not (ROOT / page).is_file()
    }
    assert not missing


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed (make docs)")
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "tutorial" / "index.html").is_file()
