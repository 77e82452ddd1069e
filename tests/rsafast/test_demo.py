"""The demo with few relabellings, and the command line from features to report on its files."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from rsafast.cli import main
from rsafast.cli.demo import next_commands, print_demo
from rsafast.comparison import compare
from rsafast.demo import PARTIAL_REGIONS, run_demo
from rsafast.demo.brain import N_SUBJECTS, REGIONS, simulate
from rsafast.demo.models import digits, gabor_energy, model_features, untrained_cnn
from rsafast.demo.story import role
from rsafast.errors import InvalidInputError
from rsafast.permutation.result import PermutationResult
from rsafast.rdms import RDMs

FILES = ["features.npz", "models.h5", "brain.h5", "result.h5", "result.csv", "report.html"]
NAMES = [region.name for region in REGIONS]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The demo with 20,000 relabellings, its folder, and the order in which files appeared."""
    folder, wrote = tmp_path_factory.mktemp("demo") / "out", []
    demo = run_demo(folder, 20_000, measure_peer=False, progress=False, wrote=wrote.append)
    return demo, folder, wrote


def test_digits_are_720_different_images_in_a_fixed_order():
    images, classes, labels = digits()
    assert images.shape == (720, 8, 8)
    assert len({image.tobytes() for image in images}) == 720
    assert np.bincount(classes).tolist() == [72] * 10
    assert labels[3 * 72 + 17] == "digit3_017"
    assert len(set(labels)) == 720


def test_gabor_energy_ignores_brightness_and_prefers_its_orientation():
    stripes = np.zeros((1, 8, 8))
    stripes[:, :, ::4] = stripes[:, :, 1::4] = 1.0  # vertical, wavelength 4
    energy = gabor_energy(stripes).reshape(3, 6, 64).mean(axis=-1)
    assert np.unravel_index(energy.argmax(), energy.shape) == (1, 0)
    np.testing.assert_allclose(gabor_energy(stripes + 0.3), gabor_energy(stripes), atol=1e-12)


def test_untrained_cnn_matches_plain_convolution():
    images = digits()[0][:2]
    layers = untrained_cnn(images, seed=3)
    assert [layer.shape for layer in layers.values()] == [(2, 256), (2, 128), (2, 64)]
    generator = np.random.default_rng(3)
    weights = generator.uniform(-1 / 3, 1 / 3, (16, 1, 3, 3))
    bias = generator.uniform(-1 / 3, 1 / 3, 16)
    padded = np.pad(images[1], 1)
    for channel in (0, 15):
        maps = np.array(
            [
                [(padded[y : y + 3, x : x + 3] * weights[channel, 0]).sum() for x in range(8)]
                for y in range(8)
            ]
        )
        pooled = np.maximum(maps + bias[channel], 0).reshape(4, 2, 4, 2).max(axis=(1, 3))
        np.testing.assert_allclose(layers["conv1"][1].reshape(16, 4, 4)[channel], pooled)


def test_recovers_the_truth(ran):
    demo, _, _ = ran
    columns = dict(zip(NAMES, demo.found.T, strict=True))
    assert columns["early"].all()
    assert columns["late"].all()
    assert columns["faint"][demo.models.names.index("labels")]
    assert not columns["null"].any()
    assert not (demo.found & ~demo.related).any()


def test_the_source_fits_best_and_others_leak(ran):
    demo, _, _ = ran
    for j, region in enumerate(REGIONS):
        for i, model in enumerate(demo.models.names):
            truth = demo.brain.truth[i, j]
            assert (truth > 0.3) if role(model, j) != "unrelated" else (truth == 0)
        if len(region.sources) == 1:
            best = demo.models.names[int(demo.brain.truth[:, j].argmax())]
            assert best in region.sources
            assert demo.brain.truth[:, j].max() == pytest.approx(1, abs=1e-3)
            assert demo.models.names[int(demo.result.statistic[:, j].argmax())] == best


def test_single_subjects_are_as_weak_as_real_ones(ran):
    demo, _, _ = ran
    assert demo.single.shape == (6, len(REGIONS), N_SUBJECTS)
    strong = demo.single[:, :2]
    assert strong.min() > 0.02
    assert strong.max() < 0.3
    assert (demo.single[:, :2].mean(axis=-1) < demo.result.statistic[:, :2]).all()


def test_the_covariate_explains_its_own_region_and_not_the_other(ran):
    demo, _, _ = ran
    found = dict(zip(PARTIAL_REGIONS, (demo.partial.p_value_stepdown <= 0.05).T, strict=True))
    assert not found["early"].any()
    assert found["late"].all()
    assert not found["null"].any()


def test_files_are_whole_and_say_the_same(ran):
    demo, folder, wrote = ran
    assert [path.name for path in wrote] == FILES
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    models, brain = RDMs.load(folder / "models.h5"), RDMs.load(folder / "brain.h5")
    np.testing.assert_allclose(compare(models, brain), demo.result.statistic, atol=1e-12)
    result = PermutationResult.load(folder / "result.h5")
    np.testing.assert_array_equal(result.p_value, demo.result.p_value)
    assert (folder / "result.csv").read_text().count("\n") == result.n_pairs + 1
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"{int(demo.found.sum())} of 24 model–brain pairs are related" in page
    assert "not which model generated the data" in page
    assert "0 of 6 unrelated ones" in page


def test_prints_the_findings_and_says_that_no_peer_is_there(ran, capsys):
    demo, folder, _ = ran
    print_demo(demo, folder, measured=True)
    text = " ".join(capsys.readouterr().out.split())
    assert "0 of 6 unrelated ones" in text
    assert "pip install scikit-bio" in text
    assert "relabellings of 720 stimuli took" in text
    assert all(command.split(" -o ")[0] in text for command in next_commands(folder))


@pytest.mark.slow
def test_the_printed_commands_run_as_printed(ran, capsys, tmp_path):
    _, folder, _ = ran
    for line in next_commands(folder):
        program, *argv = shlex.split(line.replace("1000000", "2000"))
        assert program == "rsafast"
        assert main(argv) == 0
    assert "conv3" in capsys.readouterr().out
    made = RDMs.load(folder / "model.h5")
    stored = RDMs.load(folder / "models.h5").subset(list(made.names))
    np.testing.assert_allclose(made.vectors, stored.vectors, atol=2e-6)
    for name in ("model.h5", "test.html"):
        (folder / name).unlink()


def test_test_on_the_files_repeats_the_result(ran, capsys):
    demo, folder, _ = ran
    argv = [str(folder / "models.h5"), str(folder / "brain.h5"), "-n", "20000", "--json"]
    assert main(["test", *argv]) == 0
    pairs = json.loads(capsys.readouterr().out)["pairs"]
    assert [pair["p_value"] for pair in pairs] == demo.result.p_value.ravel().tolist()


@pytest.mark.slow
def test_same_seed_same_data(ran):
    demo, _, _ = ran
    images, classes, _ = digits()
    again, other = (simulate(model_features(images, classes), demo.models, s) for s in (0, 1))
    np.testing.assert_array_equal(again.mean.vectors, demo.brain.mean.vectors)
    assert not np.isclose(other.mean.vectors, demo.brain.mean.vectors).all(axis=1).any()


@pytest.mark.slow
def test_the_peer_is_measured():
    pytest.importorskip("skbio")
    from rsafast.demo.peers import fastest_peer

    generator = np.random.default_rng(0)
    a, b = (RDMs(generator.random(66)) for _ in range(2))
    peer = fastest_peer(a, b)
    assert peer is not None
    assert peer.name == "scikit-bio"
    assert peer.rate > 0


@pytest.mark.parametrize("name", ["file/in", "absent/out"])
def test_rejects_a_folder_that_cannot_be(name, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="folder"):
        run_demo(tmp_path / name, 10)
    assert main(["demo", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_interrupt_ends_a_long_test_with_130_and_no_files(ran, tmp_path):
    _, folder, _ = ran
    argv = [str(folder / "models.h5"), str(folder / "brain.h5"), "-n", "1000000000"]
    argv += ["--out", str(tmp_path / "r.h5"), "--report", str(tmp_path / "r.html")]
    code = "import sys; from rsafast.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "test", *argv],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # A shell that runs the tests in the background has made them ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(3)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted; nothing was written"
    assert list(tmp_path.iterdir()) == []
