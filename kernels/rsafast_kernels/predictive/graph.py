"""One CUDA graph for a whole relaxation and its weight gradients.

Small networks spend most of a relaxation launching kernels; a graph launches them all at once.
The capture needs a CUDA device, and has been checked on none: on the CPU, only that it refuses.
"""

from typing import Any

import torch
from torch import Tensor

from rsafast_kernels.errors import BackendUnavailableError, InvalidInputError
from rsafast_kernels.predictive import Layer, LayerGradient, Relaxation, relax


class GraphedRelaxation:
    """`relax` and `gradients` of batches of one shape, recorded once and replayed.

    Parameters
    ----------
    layers : read at every replay: optimisers must update the parameters in place.
    x, labels : a first batch, which fixes shapes and device.
    options : of `relax`; schedule "incremental" cannot be recorded, because its callback is the
        caller's.

    Raises
    ------
    BackendUnavailableError
        `x` is not on a CUDA device.
    InvalidInputError
        The schedule is incremental, or a later batch has another shape.
    """

    def __init__(self, layers: list[Layer], x: Tensor, labels: Tensor, **options: Any) -> None:
        if x.device.type != "cuda":
            raise BackendUnavailableError(
                f"a CUDA graph needs tensors on a CUDA device, got {x.device}; call relax instead"
            )
        if options.get("schedule") == "incremental":
            raise InvalidInputError(
                "schedule='incremental' calls back in every step and cannot be recorded; call relax"
            )
        self._x, self._labels = x.clone(), labels.clone()
        self._layers, self._options = layers, options
        # Warming up outside the capture compiles the kernels and lets cuDNN choose its own.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self._run()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = self._run()

    def _run(self) -> tuple[Relaxation, list[LayerGradient]]:
        found = relax(self._layers, self._x, self._labels, **self._options)
        return found, found.gradients()

    def __call__(self, x: Tensor, labels: Tensor) -> tuple[Relaxation, list[LayerGradient]]:
        """Relax another batch; what is returned is overwritten by the next call."""
        if x.shape != self._x.shape or labels.shape != self._labels.shape:
            raise InvalidInputError(
                f"the graph was recorded for x {tuple(self._x.shape)} and labels "
                f"{tuple(self._labels.shape)}, got {tuple(x.shape)} and {tuple(labels.shape)}"
            )
        self._x.copy_(x)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._result
