"""``rsafast rdm``: features to RDMs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rsafast.cli import _common

if TYPE_CHECKING:
    from rsafast.ondisk.compute import Stored

NAME = "rdm"
HELP = "Compute RDMs from features: one RDM a feature matrix (stimuli × channels)."
EXAMPLE = "Example: rsafast rdm features.npz -o models.h5 --metric correlation"


def command(
    ctx: typer.Context,
    features: Annotated[
        Path, typer.Argument(help="Features, stimuli × channels: .npy, .npz, .mat, .h5 or .csv.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="RDM file to write, .h5.")],
    metric: Annotated[
        str,
        typer.Option(
            help="correlation, cosine, euclidean, sqeuclidean, cityblock, mahalanobis, crossnobis "
            "or poisson."
        ),
    ] = "correlation",
    key: Annotated[
        str | None,
        typer.Option(help="Variable inside FEATURES; by default all of them.", show_default="none"),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Stimulus labels, a text file with one a line.", show_default="none"),
    ] = None,
    normalize: Annotated[
        str | None,
        typer.Option(help="'channels' divides by the number of channels, as rsatoolbox does."),
    ] = None,
    precision: Annotated[
        Path | None,
        typer.Option(help="Noise precision, channels × channels, for mahalanobis and crossnobis."),
    ] = None,
    folds: Annotated[
        Path | None,
        typer.Option(help="Fold of every row, one a line, for crossnobis.", show_default="none"),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="float32, float16 or float64: compute straight into the file, for one RDM that "
            "does not fit in memory. A run that was killed goes on where it stopped.",
            show_default="in memory",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="With --store: go on where a run that was killed stopped.")
    ] = True,
    memory: _common.Memory = None,
    cluster: _common.Cluster = None,
    quiet: _common.Quiet = False,
) -> None:
    """Read, compute, write."""
    _common.check_output(out, "--out", (".h5", ".hdf5"))
    from rsafast.features import compute_rdms
    from rsafast.io import read_descriptors, read_features

    budget = _common.parse_memory(memory)
    for option, given_option in (("--memory", memory), ("--cluster", cluster)):
        if store is None and given_option is not None:
            raise typer.BadParameter(f"{option} is of use with --store alone; give both")
    layers, own_labels = read_features(features, key=key)
    given: dict[str, Any] = {
        "metric": metric,  # compute_rdms checks the word and names the choices
        "labels": own_labels if labels is None else _common.read_list(labels, "--labels"),
        "normalize": normalize,
        "noise_precision": precision and _common.read_array(precision, "--precision"),
        "folds": None if folds is None else _common.read_groups(folds, "--folds"),
    }
    if store is not None:
        from rsafast.ondisk.compute import compute_rdm_file

        stored = compute_rdm_file(
            layers, out, **given, dtype=cast("Stored", store), memory_budget=budget, resume=resume,
            cluster=cluster, progress=not quiet,
        )  # fmt: skip
        ctx.obj.append(out)
        if not quiet:
            _common.say(f"wrote {out}: 1 RDM of {stored.n_stimuli} stimuli, {metric}, {store}")
        return
    rdms = compute_rdms(layers, **given)
    rdms = rdms.with_descriptors(read_descriptors(features, layers))
    rdms.save(out)
    ctx.obj.append(out)
    if not quiet:
        _common.say(f"wrote {out}: {rdms.n_rdms} RDMs of {rdms.n_stimuli} stimuli, {metric}")
