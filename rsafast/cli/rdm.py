"""``rsafast rdm``: features to RDMs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from rsafast.cli import _common

if TYPE_CHECKING:
    from rsafast_kernels.pairwise import Metric

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
) -> None:
    """Read, compute, write."""
    _common.check_output(out, "--out", (".h5", ".hdf5"))
    from rsafast.features import compute_rdms
    from rsafast.io import read_descriptors, read_features

    layers, own_labels = read_features(features, key=key)
    rdms = compute_rdms(
        layers,
        cast("Metric", metric),  # compute_rdms checks the word and names the choices
        labels=own_labels if labels is None else _common.read_list(labels, "--labels"),
        normalize=cast("Literal['channels'] | None", normalize),
        noise_precision=None if precision is None else _common.read_array(precision, "--precision"),
        folds=None if folds is None else _common.read_groups(folds, "--folds"),
    )
    rdms = rdms.with_descriptors(read_descriptors(features, layers))
    rdms.save(out)
    ctx.obj.append(out)
    _common.say(f"wrote {out}: {rdms.n_rdms} RDMs of {rdms.n_stimuli} stimuli, {metric}")
