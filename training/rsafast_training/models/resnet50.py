"""ResNet-50 v1.5 (stride on the 3x3 convolutions), S networks side by side.

Parameters of one seed carry torchvision's names and shapes, so that published weights load:
161 parameters with 25,557,032 values, 159 buffers. He et al. 2016, arXiv 1512.03385.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

from rsafast_kernels.errors import UnsupportedCaseError
from torch import Tensor, nn
from torch.nn import functional as F

from rsafast_training.layers import BatchNorm2d, Conv2d, Linear, maps_to_vectors
from rsafast_training.models.base import StackedModel
from rsafast_training.published import PathInput, read_seed_state

_EXPANSION = 4  # channels that leave a block, over those inside


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; (N, S·in, H, W) to (N, S·4·width, ...)."""

    def __init__(self, seeds: int, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = _EXPANSION * width
        self.conv1, self.bn1 = Conv2d(seeds, channels, width, 1), BatchNorm2d(seeds, width)
        self.conv2 = Conv2d(seeds, width, width, 3, stride=stride, padding=1)
        self.bn2 = BatchNorm2d(seeds, width)
        self.conv3, self.bn3 = Conv2d(seeds, width, out, 1), BatchNorm2d(seeds, out)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                Conv2d(seeds, channels, out, 1, stride=stride), BatchNorm2d(seeds, out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Add the block to its shortcut, and rectify."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet50(StackedModel):
    """ResNet-50, or a narrower or shallower one of the same plan.

    Parameters
    ----------
    seeds : int
        S, the number of networks.
    classes : int
    image_size : pixels; of no effect, since the last maps are averaged whatever their size.
    batch_norm : True; the plan has no form without.
    blocks : of each of the four stages.
    width : channels of the stem.

    Attributes
    ----------
    layer_names : "relu" and "maxpool" of the stem, the stages "layer1" to "layer4" (after their
        last ReLU), "avgpool" and the logits "fc".
    """

    name = "resnet50"
    init = "resnet"
    layer_names = (
        "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc",
    )  # fmt: skip

    def __init__(
        self,
        seeds: int = 1,
        classes: int = 1000,
        *,
        image_size: int = 224,
        batch_norm: bool = True,
        blocks: tuple[int, int, int, int] = (3, 4, 6, 3),
        width: int = 64,
    ) -> None:
        super().__init__(seeds)
        if not batch_norm:
            raise UnsupportedCaseError(
                "resnet50 is defined with batch norm, got batch_norm=False; train cnn3 or vgg5 "
                "without"
            )
        self.conv1 = Conv2d(seeds, 3, width, 7, stride=2, padding=3)
        self.bn1 = BatchNorm2d(seeds, width)
        channels = width
        for stage, depth in enumerate(blocks):
            inner = width * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (depth - 1)
            layers = []
            for stride in strides:
                layers.append(Bottleneck(seeds, channels, inner, stride))
                channels = _EXPANSION * inner
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = Linear(seeds, channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map (S, N, 3, H, W), or (N, 3, H, W) for all seeds, to logits (S, N, K)."""
        return OrderedDict(self._pass(images))["fc"]

    def features(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Activations, (S, N, C, H, W) or (S, N, F); the pass ends at the last one wanted."""
        self.check_layers(names)
        found: dict[str, Tensor] = {}
        for name, x in self._pass(images):
            if name in names:
                found[name] = self.unstack_maps(x) if x.ndim == 4 else x
            if len(found) == len(set(names)):
                break
        return found

    def _pass(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = F.relu(self.bn1(self.conv1(self.stack_images(images))))
        yield "relu", x
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        yield "maxpool", x
        for name in self.layer_names[2:6]:
            x = self.get_submodule(name)(x)
            yield name, x
        x = maps_to_vectors(x.mean((2, 3), keepdim=True), self.seeds)
        yield "avgpool", x
        yield "fc", self.fc(x)

    def load_published(self, weights: PathInput | Mapping[str, Tensor]) -> None:
        """Give every seed the weights of a file or a state dict with torchvision's names.

        Parameters
        ----------
        weights : path or mapping
            Read with ``weights_only=True``. A prefix ``module.`` is taken off, and
            ``num_batches_tracked``, which old files lack, is not needed.

        Raises
        ------
        InvalidInputError
            For a file that is missing, damaged or holds code, and for weights of another network:
            the names that are missing or unexpected.
        """
        source = "weights" if isinstance(weights, Mapping) else str(weights)
        state = read_seed_state(self, weights)
        for seed in range(self.seeds):
            self.load_seed_state(seed, state, source)
