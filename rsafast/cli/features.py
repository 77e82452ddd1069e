"""``rsafast features``: activations of networks for a set of stimuli, ready for RDMs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsafast.cli import _common
from rsafast.device import require_training

if TYPE_CHECKING:
    from rsafast_training.stimuli import Preprocess

NAME = "features"
HELP = (
    "Extract features: of every checkpoint below a folder of runs, with its untrained control, or "
    "of a published network (efficientnet-lite0, resnet50)."
)
EXAMPLE = "Example: rsafast features runs --stimuli images.zip --size 224 -o features.h5"


def command(
    ctx: typer.Context,
    networks: Annotated[
        str,
        typer.Argument(help="Folder that rsafast train wrote, efficientnet-lite0 or resnet50."),
    ],
    stimuli: Annotated[
        Path,
        typer.Option(help="Images: folder, .zip, .txt of paths, .npz, .npy, nsd_stimuli.hdf5."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Feature file to write, .h5.")],
    size: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Side in pixels of what the network sees; may be repeated.",
            show_default="that of training",
        ),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(help="Shorter edge before the centre is cut.", show_default="SIZE"),
    ] = None,
    crop: Annotated[
        str, typer.Option(help="center cuts the middle, none squeezes the whole image.")
    ] = "center",
    layers: Annotated[
        str | None,
        typer.Option(help="Names with commas between.", show_default="all of the network's own"),
    ] = None,
    pooling: Annotated[
        str, typer.Option(help="mean averages maps over space, none keeps them whole.")
    ] = "mean",
    order: Annotated[
        Path | None,
        typer.Option(help="Text file of the stimuli wanted, in order.", show_default="by name"),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Set inside STIMULI, where it holds several.")
    ] = None,
    epochs: Annotated[
        str | None, typer.Option(help="Checkpoints wanted, such as 0,1,40.", show_default="all")
    ] = None,
    batch_norm: Annotated[
        str | None,
        typer.Option(
            help="Evaluate with the statistics of loader, clean or identity.",
            show_default="as trained",
        ),
    ] = None,
    control: Annotated[
        bool,
        typer.Option("--control/--no-control", help="Also the BN-matched untrained controls."),
    ] = True,
    weights: Annotated[
        Path | None, typer.Option(help="Torch file of a published network's weights.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[
        bool, typer.Option(help="Go on where the same command was interrupted.")
    ] = True,
    quiet: _common.Quiet = False,
) -> None:
    """Find networks and stimuli, extract, write."""
    require_training()
    _common.check_output(out, "--out", (".h5", ".hdf5"))
    from rsafast_training.checkpoints import find_checkpoints
    from rsafast_training.features import Checkpointed, features_of_checkpoints
    from rsafast_training.published import NETWORKS, load_network
    from rsafast_training.stimuli import Preprocess, read_stimuli

    from rsafast.progress import track

    images = read_stimuli(stimuli, order=order, key=key)
    if images.unused and not quiet:
        _common.say(f"{len(images.unused)} images of {stimuli} are not in {order}, left out")
    wanted = layers.split(",") if layers else None
    if networks in NETWORKS and not Path(networks).is_dir():
        network = load_network(networks, weights)
        record = {"network": networks, "weights": network.sha256}
        number, first = 1, network.preprocess
        found = iter([Checkpointed(network.model, record=record)])
        wanted = wanted or list(network.layers)
    else:
        chosen = None if epochs is None else _common.read_integers(epochs, "--epochs")
        checkpoints = find_checkpoints(networks, controls=control, epochs=chosen)
        number = len(checkpoints)
        found = (Checkpointed.load(checkpoint, batch_norm) for checkpoint in checkpoints)
        first = Preprocess(checkpoints[0].info.image_size)  # each brings its mean and deviation
    steps = [_preprocess(first, side, resize, crop) for side in size or [first.size]]
    with track(number * len(steps) * len(images), "features", not quiet) as advance:
        features_of_checkpoints(
            found, images, steps, wanted, out=out, pooling=pooling,  # type: ignore[arg-type]
            batch_size=batch_size, device=device, resume=resume,  # type: ignore[arg-type]
            progress=advance,
        )  # fmt: skip
    ctx.obj.append(out)
    if not quiet:
        _common.say(f"wrote {out}: {number} networks, {len(images)} stimuli")


def _preprocess(first: Preprocess, side: int, resize: int | None, crop: str) -> Preprocess:
    """What the network was trained with, at another size."""
    from dataclasses import replace

    if resize is None and side == first.size and crop == first.crop:
        return first
    return replace(first, size=side, resize=resize, crop=crop)  # type: ignore[arg-type]
