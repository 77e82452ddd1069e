"""The command line ``rsafast``.

Each command lives in a module of its own and imports the analysis inside its function, so that
``rsafast --help`` stays quick. Results go to stdout, progress and messages to stderr.

Exit codes: 0 success, 1 ``data verify`` found a problem, ``data fetch`` was declined or ``bench``
met a wrong answer, 2 a usage or input error (one line on stderr), 130 interrupted. Any other
exception is a bug of rsafast and shows its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import typer
from typer.main import get_command

from rsafast.cli import (
    bench,
    bootstrap,
    ceiling,
    compare,
    data,
    demo,
    doctor,
    features,
    rank,
    rdm,
    study,
    test,
    train,
)
from rsafast.errors import RsafastError

app = typer.Typer(
    name="rsafast",
    help="Representational similarity analysis with millions of permutations.",
    epilog="Example: rsafast demo",
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    demo, rdm, rank, compare, test, bootstrap, ceiling, train, features, study, bench, doctor
):  # fmt: skip
    app.command(module.NAME, help=module.HELP, epilog=module.EXAMPLE)(module.command)
app.add_typer(data.app, name=data.NAME, help=data.HELP, epilog=data.EXAMPLE)

# Every usage error of Typer derives from this class, in the versions with click inside and outside.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"rsafast {version('rsafast')}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Take the options that stand before a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv : arguments after the program's name; by default those of the process.

    Returns
    -------
    int
        0 success, 1 a folder that `data verify` found wrong, a declined `data fetch` or a wrong
        answer of `bench`, 2 usage or input error, 130 interrupted.
    """
    args = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    written: list[Path] = []
    try:
        code = get_command(app).main(args, prog_name="rsafast", standalone_mode=False, obj=written)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except RsafastError as error:
        return _fail(str(error))
    except _ClickError as error:
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        return _fail(f"{error.format_message()}{hint}")  # type: ignore[attr-defined]
    if code == 130:
        kept = ", ".join(map(str, written))
        print(f"interrupted; {f'only {kept}' if kept else 'nothing'} was written", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    """Print one line on stderr, whatever line breaks the message holds."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
