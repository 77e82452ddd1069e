"""Draw the tutorial's figures from the real data.

Usage: ``python docs/make_figures.py data/fmri92 [docs/images]``
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import rsafast as rf
from rsafast.plotting import draw_rdm

N_PERMUTATIONS = 1_000_000
# Text stays text, and a figure drawn twice is the same file.
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rsafast", "font.size": 9})


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write one figure as SVG, without the date."""
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def it_rdms(monkey: rf.RDMs, human: rf.RDMs) -> Figure:
    """Draw the two RDMs, each in percentiles of its own dissimilarities."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    for ax, rdm, title in zip(
        figure.subplots(1, 2), (monkey, human), ("monkey IT", "human IT"), strict=True
    ):
        draw_rdm(ax, rdm.vectors[0], rdm.n_stimuli)
        ax.set_title(title)
    return figure


def main(data: Path, folder: Path) -> None:
    """Read, test, draw."""
    folder.mkdir(parents=True, exist_ok=True)
    both = rf.read_rdms(
        data / "Kriegeskorte_Neuron2008_supplementalData.mat", key="RDMs_mIT_hIT_fig1"
    )
    save(it_rdms(both[0], both[1]), folder, "it-rdms")

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    result = rf.permutation_test(both[0], both[1], n_permutations=N_PERMUTATIONS)
    ax = result.plot(figure.subplots())
    ax.set_title("monkey IT × human IT")
    save(figure, folder, "it-null")

    models = rf.read_rdms(data / "92_modelRDMs.mat")
    fmri = data / "target_fmri.mat"
    regions = rf.RDMs.concat(
        [rf.read_rdms(fmri, key=f"{region}_RDMs").mean(region) for region in ("EVC", "IT")]
    )
    family = rf.permutation_test(models, regions, n_permutations=N_PERMUTATIONS)
    figure = Figure(figsize=(4.6, 4.0), layout="constrained")
    family.plot(figure.subplots())
    save(figure, folder, "family")


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    default = Path(__file__).parent / "images"
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else default)
