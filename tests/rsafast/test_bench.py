"""`rsafast bench`: what it measures, that wrong answers get no number, and what it writes."""

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rsafast.bench import (
    KERNELS,
    Case,
    Peer,
    Row,
    Work,
    WrongAnswer,
    figures,
    limits,
    measure,
    rows,
)
from rsafast.bench import results as stored
from rsafast.bench.limits import Limits
from rsafast.bench.row import close
from rsafast.cli import main
from rsafast.errors import InvalidInputError

# Fails to import what a user without extras does not have.
HIDDEN = ("skbio", "rsatoolbox", "mne_rsa", "pytest_benchmark", "cupy", "torch", "numba")


def made(run=lambda: 3.0, expected=3.0, **changes):
    """A row that takes next to no time."""
    def prepare():
        return Case(run, lambda answer: close(answer, expected, 0.0, "answer"))

    fields = {
        "kernel": "rank", "name": "three", "device": "cpu", "size": 1, "items": 2, "unit": "values",
        "work": Work(1e3, 1e3, "float64"), "prepare": prepare,
    }  # fmt: skip
    return Row(**fields | changes)


@pytest.fixture(scope="module", autouse=True)
def _limits_of_a_known_machine():
    """The limits have a test of their own: measuring them takes seconds."""
    known = Limits({"float32": 2e11, "float64": 1e11}, ((2**17, 1e11), (2**27, 2e10)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "measure_limits", lambda *_, **__: known)
        yield


@pytest.fixture(scope="module")
def result(_limits_of_a_known_machine):
    """Two rows on this machine, one beside a peer and a yardstick."""
    def peer(name, role):
        return Peer(name, ("numpy",), "numpy", made().prepare, 1, role)

    beside = made(name="four", size=4, peers=(peer("a", "peer"), peer("b", "yardstick")))
    return measure.run([made(), beside], compare=True, quick=True, progress=False)


def test_rows_are_unique_and_of_known_kernels():
    found = rows()
    assert len({row.key for row in found}) == len(found)
    assert {row.kernel for row in found} == set(KERNELS)
    assert {row.device for row in found} == {"cpu", "cuda"}


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_has_a_quick_row_on_the_cpu(kernel):
    assert rows([kernel], scale="quick", devices=("cpu",))


def test_scales_hold_each_other():
    quick, default, large = (len(rows(scale=s)) for s in ("quick", "default", "large"))
    assert quick < default < large


def test_an_unknown_kernel_is_named_with_the_choices():
    with pytest.raises(InvalidInputError, match=r"'fft'.*orbit"):
        rows(["fft"])


@pytest.mark.parametrize("bad", [{"size": 0}, {"items": 0}, {"device": "tpu"}, {"scale": "huge"}])
def test_a_row_validates_itself(bad):
    with pytest.raises(InvalidInputError):
        made(**bad)


@pytest.mark.parametrize("work", [(0, 1, "float64"), (1, 0, "float64"), (1, np.nan, "float64")])
def test_work_validates_itself(work):
    with pytest.raises(InvalidInputError):
        Work(*work)


def corruptions(answer):
    """The answer with a value a thousandth off, with a NaN, and cut short, as far as it can be."""
    if dataclasses.is_dataclass(answer) and hasattr(answer, "exceedances"):
        if not hasattr(answer, "statistic"):  # a Tally
            yield dataclasses.replace(answer, exceedances=answer.exceedances + 1)
            yield dataclasses.replace(answer, sums=answer.sums + 1e-3 * np.abs(answer.squares))
        else:
            yield dataclasses.replace(answer, exceedances=answer.exceedances + 1)
            yield dataclasses.replace(answer, statistic=answer.statistic * 1.001)
        return
    if isinstance(answer, list):  # gradients, good to a twentieth
        yield [0.9 * part for part in answer]
        yield [*answer[:-1], answer[-1] * float("nan")]
        return
    if np.asarray(answer).dtype.kind == "i":
        yield answer + 1
    elif set(np.unique(np.asarray(answer))) <= {0, 1}:
        yield 1 - answer
    else:
        yield answer * 1.001 if np.asarray(answer).dtype.itemsize == 8 else answer * 1.01
        yield answer * float("nan")


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_check_passes_the_answer_and_fails_corrupted_ones(kernel):
    row = rows([kernel], scale="quick", devices=("cpu",))[0]
    if row.missing() is not None:
        pytest.skip(row.missing())
    case = row.prepare()
    answer = case.run()
    assert case.check(answer) < 0.05
    for wrong in corruptions(answer):
        with pytest.raises(WrongAnswer):
            case.check(wrong)


@pytest.mark.parametrize("got", [[1.0, np.nan], [1.0, 2.1], [1.0], [[1.0, 2.0]], [1.0, np.inf]])
def test_close_refuses_other_values_shapes_and_nan(got):
    with pytest.raises(WrongAnswer):
        close(got, [1.0, 2.0], 1e-3, "x")


def test_close_returns_the_error_relative_to_the_largest():
    assert close([1.0, 4.0], [1.0, 4.0], 0.0, "x") == 0
    assert close([1.2, 4.0], [1.0, 4.0], 0.1, "x") == pytest.approx(0.05)


def test_a_wrong_answer_gets_no_number():
    found = measure.run([made(expected=4.0)], quick=True, progress=False)["rows"][0]
    assert "off by" in found["wrong"]
    assert not {"seconds", "rate", "fraction"} & set(found)


def test_the_result_states_work_bound_and_share(result):
    row = result["rows"][1]
    assert row["bound"] in ("arithmetic", "bytes")
    assert row["fraction"] == pytest.approx(row["bound_seconds"] / row["seconds"]["median"])
    assert row["seconds"]["min"] <= row["seconds"]["median"] <= row["seconds"]["max"]
    assert row["peers"][0]["ratio"] == pytest.approx(row["rate"] / row["peers"][0]["rate"])


def test_a_peer_that_fails_is_left_out_and_the_run_goes_on():
    def broken():
        raise TypeError("no such engine")

    peer = Peer("them", ("numpy",), "numpy", broken, 1)
    found = measure.run([made(peers=(peer,))], compare=True, quick=True, progress=False)
    assert found["rows"][0]["peers"] == []
    assert "no such engine" in found["left_out"][0]["why"]


def test_what_is_not_installed_is_left_out_with_the_command():
    peer = Peer("them", ("no_such_module",), "no-such", made().prepare, 1)
    row = made(peers=(peer,))
    absent = made(name="other", needs=("no_such_module",))
    found = measure.run([row, absent], compare=True, quick=True, progress=False)
    assert len(found["rows"]) == 1
    whys = {item["what"]: item["why"] for item in found["left_out"]}
    assert "pip install 'no-such'" in whys["them"]
    assert "rsafast[training]" in whys["rank, cpu"]


def test_the_bound_is_the_slower_of_arithmetic_and_traffic_at_the_working_set():
    known = Limits({"float32": 100.0, "float64": 50.0}, ((1000, 40.0), (4000, 10.0)))
    assert known.bound(Work(5000, 100, "float64")) == ("arithmetic", 100.0)
    assert known.bound(Work(1, 2000, "float64")) == ("bytes", 50.0)  # in cache
    assert known.bound(Work(1, 8000, "float32")) == ("bytes", 800.0)


def test_a_larger_working_set_never_lowers_the_limit_of_a_smaller_one():
    low = Limits({"float64": 1.0}, ((1, 5.0), (2, 3.0)))
    high = Limits({"float64": 2.0}, ((1, 4.0), (2, 9.0)))
    assert low.best(high) == Limits({"float64": 2.0}, ((1, 9.0), (2, 9.0)))


def test_limits_are_measured(monkeypatch):
    monkeypatch.setattr(limits, "_QUICK_PRODUCT", 128)
    monkeypatch.setattr(limits, "_SIZES", (2**17, 2**21))
    found = limits.measure_limits("cpu", quick=True)
    assert min(found.operations.values()) > 1e7
    (small, fast), (large, slow) = found.bandwidth
    assert (small, large) == (2**17, 2**21)
    assert fast >= slow > 1e7


def test_json_round_trip_and_no_names_of_hosts_or_users(result, tmp_path):
    path = tmp_path / "bench.json"
    stored.save(result, path)
    assert stored.load(path) == json.loads(json.dumps(result))
    import getpass
    import platform

    text = path.read_text()
    assert platform.node() not in text
    assert f'"{getpass.getuser()}"' not in text


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema": 99}'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=r"x\.json is no result"):
        stored.load(path)


def test_changes_are_marked_beyond_the_spread_only(result):
    old = copy.deepcopy(result)
    old["rows"][0]["seconds"] = {"min": 10.0, "median": 11.0, "max": 12.0, "repeats": 3}
    first, second = stored.changes(result, old)
    assert first.beyond_noise
    assert first.ratio < 1
    assert second.ratio == 1
    assert not second.beyond_noise


def test_other_machines_are_refused_before_any_work_unless_asked_for(
    result, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr("rsafast.bench.rows", lambda *_, **__: [made()])
    old = copy.deepcopy(result)
    path, out = tmp_path / "old.json", tmp_path / "out"
    arguments = ["bench", "--quick", "--quiet", "--against", str(path), "--out", str(out)]
    stored.save(old, path)
    assert main(arguments) == 0
    assert "now over then" in capsys.readouterr().out
    old["machine"]["processor"] = "abacus"
    stored.save(old, path)
    assert main([*arguments, "--other-machine"]) == 0
    monkeypatch.setattr(measure, "run", None)
    assert main(arguments) == 2
    assert "then abacus" in capsys.readouterr().err


def test_results_without_common_rows_are_refused(result):
    with pytest.raises(InvalidInputError, match="none of these rows"):
        stored.changes(result, result | {"rows": []})


def test_figures_are_drawn(result, tmp_path):
    written = figures.draw(result, tmp_path)
    assert [p.name for p in written] == ["rates.svg", "roofline.svg", "peers.svg"]
    assert all(b"<path" in p.read_bytes() for p in written)
    assert figures.draw(result | {"rows": []}, tmp_path) == []


def test_the_command_exits_with_1_on_a_wrong_answer(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("rsafast.bench.rows", lambda *_, **__: [made(expected=4.0)])
    assert main(["bench", "--quick", "--out", str(tmp_path / "deep" / "out"), "--quiet"]) == 1
    assert "WRONG" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fft"], "no kernel is called 'fft'"),
        (["--quick", "--large"], "exclude each other"),
        (["--other-machine"], "goes with --against"),
        (["--against", "missing.json"], "missing.json"),
    ],
)
def test_misuse_is_told_before_any_work(arguments, told, tmp_path, capsys):
    assert main(["bench", *arguments, "--out", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_it_runs_where_nothing_else_is_installed(tmp_path):
    """In a process that has neither peers nor torch, as after a plain pip install."""
    code = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = classmethod(lambda cls, name, *rest:"
        f" None if name.partition('.')[0] in {HIDDEN!r} else find(name, *rest))\n"
        "from rsafast.bench import limits\n"
        "limits._QUICK_PRODUCT, limits._SIZES = 128, (2**17, 2**21)\n"
        "from rsafast.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", code, "bench", "rank", "lif", "--quick", "--compare",
               "--out", str(out)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "4,186 values" in done.stdout
    assert "left out: lif, cpu: torch not installed: pip install 'rsafast[training]'" in done.stdout
    found = stored.load(out / "bench.json")
    assert {row["kernel"] for row in found["rows"]} == {"rank"}
    assert {p.name for p in Path(out).iterdir()} == {
        "bench.json", "rates.svg", "roofline.svg", "peers.svg"
    }  # fmt: skip
