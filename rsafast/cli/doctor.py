"""``rsafast doctor``: what is installed, what runs, how fast."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rsafast.cli import _common

NAME = "doctor"
HELP = "Say what is installed, which backends run and how fast this machine is (about 5 s)."
EXAMPLE = "Example: rsafast doctor --json"

_SPEED_NAMES = {
    "gemm_float32_gflops": ("matrix product, float32", "GFLOP/s"),
    "rank_mvalues_per_second": ("ranking", "million values/s"),
}


def command(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of text.", show_default="off")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--speed/--no-speed", help="Also measure how fast the kernels are.")
    ] = True,
) -> None:
    """Collect the facts and print them."""
    from rsafast.doctor import diagnose

    if measure and not as_json:
        _common.say("measuring, about 5 seconds ...")
    facts = diagnose(measure)
    if as_json:
        _common.print_json(facts)
    else:
        _print(facts)


def _print(facts: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts["system"].items():
        table.add_row(name, str(value))
    table.add_section()
    for name, value in facts["required"].items():
        table.add_row(name, value or "MISSING: pip install --force-reinstall rsafast")
    table.add_section()
    for extra, packages in facts["optional"].items():
        for name, value in packages.items():
            table.add_row(
                name, value or f"not installed (optional: pip install 'rsafast[{extra}]')"
            )
    table.add_section()
    backends = facts["backends"]
    table.add_row("instruction sets", ", ".join(backends["instruction_sets"]))
    table.add_row("in use", backends["instruction_set_in_use"])
    table.add_row("threads", f"{backends['threads']} of {backends['processors']} processors")
    table.add_row("CUDA", f"{'yes' if backends['cuda'] else 'no'}: {backends['cuda_reason']}")
    if "speed" in facts:
        table.add_section()
        for key, value in facts["speed"].items():
            name, unit = _SPEED_NAMES.get(
                key, (f"permutation test, {key.rpartition('_n')[2]} stimuli", "permutations/s")
            )
            table.add_row(name, f"{value:,.0f} {unit}")
    _common.output_console().print(table)
