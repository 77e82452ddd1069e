"""ResNet-50 against an independent one in plain torch, and weights of files good and bad."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rsafast_kernels.errors import InvalidInputError, UnsupportedCaseError
from rsafast_training.models import build_model
from rsafast_training.models.resnet50 import ResNet50
from rsafast_training.published import load_network, read_state_dict
from safetensors.torch import save_file
from torch import nn

BLOCKS, WIDTH, CLASSES = (2, 1, 1, 1), 4, 5


class PlainBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class PlainResNet(nn.Module):
    """As torchvision writes it."""

    def __init__(
        self, blocks: tuple[int, ...] = BLOCKS, width: int = WIDTH, classes: int = CLASSES
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, stages = width, []
        for i, depth in enumerate(blocks):
            stage = []
            for j in range(depth):
                stage.append(PlainBlock(channels, width * 2**i, 2 if i and not j else 1))
                channels = 4 * width * 2**i
            stages.append(nn.Sequential(*stage))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def plain(seed: int) -> PlainResNet:
    """A network whose every parameter and buffer differs from its default."""
    torch.manual_seed(seed)
    network = PlainResNet()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if ".bn" in name or name.startswith("bn") or "downsample.1" in name:
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape) + 0.5)
                else:
                    tensor.fill_(7)
    return network


def stacked(networks: list[PlainResNet]) -> ResNet50:
    model = ResNet50(len(networks), CLASSES, blocks=BLOCKS, width=WIDTH)
    for i, network in enumerate(networks):
        model.load_seed_state(i, network.state_dict(), "test")
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 50, 61, generator=torch.Generator().manual_seed(1))


# ---- the network -------------------------------------------------------------------------------


def test_has_the_size_and_the_names_of_torchvisions() -> None:
    with torch.device("meta"):
        model, reference = ResNet50(), PlainResNet((3, 4, 6, 3), 64, 1000)
    assert len(list(model.parameters())) == 161
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    assert len(list(model.named_buffers())) == 159
    own = {name: tuple(tensor.shape[1:]) for name, tensor in model.state_dict().items()}
    assert len(own) == 320
    assert own == {name: tuple(tensor.shape) for name, tensor in reference.state_dict().items()}
    assert own["layer4.0.downsample.0.weight"] == (2048, 1024, 1, 1)
    assert model.layer2[0].conv2.stride == 2
    assert model.layer2[0].conv1.stride == 1


@pytest.mark.parametrize("training", [False, True])
def test_each_seed_equals_a_plain_network(images: torch.Tensor, training: bool) -> None:
    networks = [plain(1).train(training), plain(2).train(training)]
    model = stacked(networks).train(training)
    with torch.no_grad():
        logits = model(images)
        for i, network in enumerate(networks):
            torch.testing.assert_close(logits[i], network(images), rtol=1e-5, atol=1e-5)
            for name, tensor in network.state_dict().items():  # running statistics as well
                torch.testing.assert_close(model.seed_state(i)[name], tensor, rtol=1e-5, atol=1e-5)


def test_seeds_take_images_of_their_own(images: torch.Tensor) -> None:
    networks = [plain(1).eval(), plain(2).eval()]
    with torch.no_grad():
        logits = stacked(networks).eval()(torch.stack([images, -images]))
        torch.testing.assert_close(logits[1], networks[1](-images), rtol=1e-5, atol=1e-5)


def test_gradients_of_each_seed_equal_the_plain_networks(images: torch.Tensor) -> None:
    images = images.double()
    networks = [plain(1).double(), plain(2).double()]
    model = stacked(networks).double()
    for i, network in enumerate(networks):
        model.load_seed_state(i, network.state_dict(), "test")
    target = torch.tensor([0, 3, 1])
    losses = [nn.functional.cross_entropy(x, target) for x in model(images)]
    torch.stack(losses).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for i, network in enumerate(networks):
        nn.functional.cross_entropy(network(images), target).backward()
        for name, p in network.named_parameters():
            torch.testing.assert_close(gradients[name][i], p.grad, rtol=1e-7, atol=1e-12)


def test_features_are_what_hooks_of_the_plain_network_see(images: torch.Tensor) -> None:
    networks = [plain(1).eval(), plain(2).eval()]
    model = stacked(networks).eval()
    seen: dict[str, torch.Tensor] = {}
    for name in model.layer_names[1:]:  # "relu" is used again in the blocks only by its own name
        networks[1].get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output.clone()})
        )
    with torch.no_grad():
        networks[1](images)
        found = model.features(images, model.layer_names)
        relu = networks[1].bn1(networks[1].conv1(images)).relu()
    torch.testing.assert_close(found["relu"][1], relu, rtol=1e-5, atol=1e-5)
    for name, expected in seen.items():
        got = found[name][1]
        torch.testing.assert_close(got.reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)
    assert found["layer4"].shape == (2, 3, 128, 2, 2)
    assert found["avgpool"].shape == (2, 3, 128)


def test_features_end_the_pass_at_the_last_layer_wanted(
    images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stacked([plain(1)]).eval()

    def unreachable(*_: object) -> None:
        raise AssertionError("layer2 ran")

    monkeypatch.setattr(model.layer2, "forward", unreachable)
    assert set(model.features(images, ["layer1", "relu"])) == {"layer1", "relu"}


def test_unknown_layers_are_answered_with_the_known_ones(images: torch.Tensor) -> None:
    with pytest.raises(InvalidInputError, match=r"no layer 'layer5'.*relu, maxpool, layer1"):
        stacked([plain(1)]).features(images, ["layer5"])


def test_without_batch_norm_it_is_refused() -> None:
    with pytest.raises(UnsupportedCaseError, match="batch_norm=False"):
        ResNet50(batch_norm=False)


# ---- published weights -------------------------------------------------------------------------


def old(state: dict) -> dict:
    return {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {f"module.{name}": t for name, t in state.items()},
        old,
        lambda state: {"model": state, "epoch": 89},
        lambda state: {"state_dict": {f"module.{n}": t for n, t in old(state).items()}},
    ],
    ids=["plain", "data parallel", "old", "recipe", "old data parallel in a dict"],
)
def test_every_form_of_a_file_loads_into_every_seed(
    tmp_path: Path, images: torch.Tensor, wrapped: Callable[[dict], dict]
) -> None:
    network = plain(3).eval()
    torch.save(wrapped(network.state_dict()), tmp_path / "w.pth")
    model = ResNet50(2, CLASSES, blocks=BLOCKS, width=WIDTH).eval()
    model.load_published(tmp_path / "w.pth")
    with torch.no_grad():
        expected = network(images)
        for logits in model(images):
            torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_state_dicts_and_safetensors_load_as_well(tmp_path: Path) -> None:
    state = plain(3).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    for weights in (state, tmp_path / "w.safetensors"):
        model = ResNet50(1, CLASSES, blocks=BLOCKS, width=WIDTH)
        model.load_published(weights)
        for name, tensor in model.seed_state(0).items():
            assert torch.equal(tensor, state[name])


def test_missing_and_unexpected_names_are_said_and_nothing_is_loaded() -> None:
    model = stacked([plain(1)])
    before = model.seed_state(0)
    state = plain(2).state_dict()
    state["layer5.conv1.weight"] = state.pop("layer1.0.conv1.weight")
    with pytest.raises(InvalidInputError, match=r"lacks layer1\.0\.conv1.*layer5\.conv1\.weight"):
        model.load_published(state)
    state = plain(2).state_dict() | {"fc.weight": torch.zeros(6, 128)}
    with pytest.raises(InvalidInputError, match=r"fc\.weight has shape \(6, 128\)"):
        model.load_published(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.seed_state(0).items())


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("ran"),))


def test_a_file_with_code_in_it_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, "new.pth")
    torch.save({"state_dict": Evil()}, "old.pth", _use_new_zipfile_serialization=False)
    Path("plain.pkl").write_bytes(pickle.dumps(Evil(), protocol=2))
    torch.save(nn.Linear(2, 2), "module.pth")
    for name in ("new.pth", "old.pth", "plain.pkl", "module.pth"):
        with pytest.raises(InvalidInputError, match=rf"{name}.*run code.*state_dict\(\) alone"):
            read_state_dict(name)
    assert not Path("ran").exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    torch.save(plain(1).state_dict(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_bytes(b"<html>404</html>")
    (tmp_path / "x.safetensors").write_bytes(b"<html>404</html>")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3, "w": torch.ones(1)}, tmp_path / "number.pth")
    for name, said in {
        "half.pth": "damaged", "empty.pth": "damaged", "text.pth": "damaged", "gone": "no such",
        "x.safetensors": "damaged", "list.pth": "no state dict", "number.pth": "'epoch' is no ten",
    }.items():  # fmt: skip
        with pytest.raises(InvalidInputError, match=said):
            read_state_dict(tmp_path / name)


def test_networks_by_name_need_their_weights(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="efficientnet-lite0, resnet50, got 'alexnet'"):
        load_network("alexnet")
    with pytest.raises(InvalidInputError, match=r"resnet50-0676ba61\.pth"):
        load_network("resnet50")
    torch.save(plain(1).state_dict(), tmp_path / "w.pth")
    with pytest.raises(InvalidInputError, match=r"w\.pth: does not fit resnet50"):
        load_network("resnet50", tmp_path / "w.pth")


@pytest.mark.slow
def test_resnet50_by_name_is_the_network_of_its_file(tmp_path: Path) -> None:
    model = ResNet50()
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.arange(p.numel()).remainder(7).sub(3).mul(0.01).view_as(p))
    torch.save(old(model.seed_state(0)), tmp_path / "w.pth")
    network = load_network("resnet50", tmp_path / "w.pth")
    x = torch.randn(1, 3, 64, 64, generator=draws)
    with torch.no_grad():
        assert torch.equal(network.model(x), model.eval()(x))
    assert (network.preprocess.size, network.preprocess.resize) == (224, 256)
    assert network.layers[2:6] == ("layer1", "layer2", "layer3", "layer4")
    assert len(network.sha256) == 16


@pytest.mark.data
def test_a_published_file_is_read_and_not_taken_for_another_network(data_dir: Path) -> None:
    path = data_dir / "cifar10" / "resnet20-12fca82f.th"
    state = read_state_dict(path)
    assert state["conv1.weight"].shape == (16, 3, 3, 3)
    assert not any(name.startswith("module.") for name in state)
    with pytest.raises(InvalidInputError, match=r"resnet20.*does not fit resnet50: it lacks"):
        ResNet50(1, 10).load_published(path)


@pytest.mark.slow
def test_it_is_built_by_name_and_trains_on_images_of_any_size() -> None:
    model = build_model("resnet50", (0, 1), 4, init="resnet", blocks=BLOCKS, width=WIDTH)
    assert isinstance(model, ResNet50)
    for size in (8, 33):
        logits = model(torch.randn(2, 3, 3, size, size))
        assert logits.shape == (2, 3, 4)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    # Normal with variance 2 / fan-out, as torchvision draws it.
    spread = model.layer4[0].conv2.weight.std().item()
    assert spread == pytest.approx((2 / (9 * WIDTH * 8)) ** 0.5, rel=0.05)
