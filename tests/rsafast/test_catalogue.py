"""`rsafast data`: the catalogue, checks of folders, and fetching from a server on this machine."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from dataclasses import dataclass, field, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import h5py
import nibabel
import numpy as np
import pytest
from rsafast_kernels.atomic import alone
from scipy.io import savemat
from typer.main import get_command
from typer.testing import CliRunner

import rsafast
from rsafast import cli
from rsafast.cli import app, main
from rsafast.datasets import server as server_module
from rsafast.datasets.catalogue import CATALOGUE, data_set
from rsafast.datasets.catalogue import algonauts as challenge
from rsafast.datasets.catalogue import nsd as nsd_module
from rsafast.datasets.catalogue.entries import Download
from rsafast.datasets.catalogue.nsd import nsd_downloads
from rsafast.datasets.download import NsdSelection, fetch, plan
from rsafast.datasets.verify import verify
from rsafast.errors import BackendUnavailableError, InvalidInputError

_get_command = cache(get_command)


@pytest.fixture(autouse=True)
def _one_command(monkeypatch):
    """Build the command line once for all tests, not in each."""
    monkeypatch.setattr(cli, "get_command", _get_command)


# --- A server on this machine -------------------------------------------------------------------


@dataclass
class Server:
    """What the local server holds, how it behaves, and what it was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etag: str | None = '"one"'
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers are cut
    statuses: list[int] = field(default_factory=list)  # of the next answers, before any other
    encoding: str | None = None
    asked: list[str | None] = field(default_factory=list)  # Range of every request for content

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        content = self.files.get(request.path)
        if content is None:
            request.send_error(404)
            return
        wanted = request.headers.get("Range")
        if wanted != "bytes=0-0":
            self.asked.append(wanted)
            if self.statuses:
                request.send_error(self.statuses.pop(0))
                return
        condition = request.headers.get("If-Range")
        start = None
        if self.ranges and wanted and condition in (None, self.etag):
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop = int(first), int(last) + 1 if last else len(content)
        body = content if start is None else content[start:stop]
        request.send_response(200 if start is None else 206)
        request.send_header("Content-Length", str(len(body)))
        if start is not None:
            spans = f"bytes {start}-{start + len(body) - 1}/{len(content)}"
            request.send_header("Content-Range", spans)
        if self.etag:
            request.send_header("ETag", self.etag)
        if self.encoding:
            request.send_header("Content-Encoding", self.encoding)
        request.end_headers()
        if self.cuts and wanted != "bytes=0-0":
            body = body[: self.cuts.pop(0)]
            request.close_connection = True
        with contextlib.suppress(OSError):  # whoever asked for one byte does not wait for the rest
            request.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.answer(self)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(server_module, "_PAUSE", 0.0)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.address = f"http://127.0.0.1:{httpd.server_port}"
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def tgz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


NOISE = np.random.default_rng(0).bytes(200_000)
ARCHIVE = tgz({"batches/one.bin": NOISE, "batches/two.txt": b"two"})


def offer(server, monkeypatch, content=ARCHIVE, *, gives="batches", hashed=True, name="set.tar.gz"):
    """Let cifar-10 consist of one archive on the local server."""
    server.files[f"/{name}"] = content
    md5 = f"md5:{hashlib.md5(content).hexdigest()}" if hashed else None
    item = Download(name=name, url=f"{server.address}/{name}", known_hash=md5, gives=gives)
    monkeypatch.setitem(
        CATALOGUE, "cifar-10", replace(CATALOGUE["cifar-10"], downloads={"python": item})
    )


def get(folder, **options):
    return fetch(plan("cifar-10", folder), progress=False, **options)


def visible(folder) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.startswith(".")}


# --- Fetching -----------------------------------------------------------------------------------


def test_an_archive_is_fetched_checked_and_unpacked_once(server, tmp_path, monkeypatch):
    offer(server, monkeypatch)
    assert get(tmp_path / "new") == (tmp_path / "new" / "batches",)
    assert (tmp_path / "new" / "batches" / "one.bin").read_bytes() == NOISE
    assert visible(tmp_path / "new") == {"batches", "set.tar.gz"}
    again = plan("cifar-10", tmp_path / "new")
    assert (again.downloads, again.done) == ((), ("set.tar.gz",))
    assert server.asked == [None]


def test_an_archive_that_lies_there_is_unpacked_without_a_download(server, tmp_path, monkeypatch):
    offer(server, monkeypatch)
    (tmp_path / "set.tar.gz").write_bytes(ARCHIVE)
    assert plan("cifar-10", tmp_path).present == len(ARCHIVE)
    get(tmp_path)
    assert visible(tmp_path / "batches") == {"one.bin", "two.txt"}
    assert server.asked == []


def test_a_cut_connection_goes_on_at_the_byte_where_it_was_cut(server, tmp_path, monkeypatch):
    offer(server, monkeypatch)
    server.cuts = [70_000, 50_000]
    get(tmp_path)
    assert server.asked == [None, "bytes=70000-", "bytes=120000-"]
    assert (tmp_path / "set.tar.gz").read_bytes() == ARCHIVE


def test_a_busy_server_is_asked_again(server, tmp_path, monkeypatch):
    offer(server, monkeypatch)
    server.statuses = [503, 429]
    get(tmp_path)
    assert (tmp_path / "set.tar.gz").read_bytes() == ARCHIVE


def test_a_process_that_was_killed_leaves_a_part_that_the_next_one_continues(
    server, tmp_path, monkeypatch
):
    offer(server, monkeypatch)

    left = []

    class Killed(BaseException):
        pass

    def die(self, number):
        if server_module.size_of(self.part) > 90_000:
            left.append(visible(tmp_path))  # what stays if nobody can tidy up
            raise Killed

    server.cuts = [100_000]
    with monkeypatch.context() as patch:
        patch.setattr(server_module.Resuming, "_count", die)
        with pytest.raises(Killed):
            get(tmp_path)
    assert left == [{"set.tar.gz.part", "set.tar.gz.part.json"}]
    begun = (tmp_path / "set.tar.gz.part").read_bytes()
    assert begun == ARCHIVE[: len(begun)]
    assert plan("cifar-10", tmp_path).present == len(begun) > 90_000
    get(tmp_path)
    assert server.asked == [None, f"bytes={len(begun)}-"]
    assert (tmp_path / "batches" / "one.bin").read_bytes() == NOISE
    assert visible(tmp_path) == {"batches", "set.tar.gz"}


def test_a_connection_that_stays_dead_is_one_error_and_keeps_the_part(
    server, tmp_path, monkeypatch
):
    offer(server, monkeypatch)
    server.cuts = [40_000, *[0] * 20]
    with pytest.raises(BackendUnavailableError, match=r"40,000 bytes are kept in .*\.part"):
        get(tmp_path)
    server.cuts = []
    get(tmp_path)
    assert server.asked[-1] == "bytes=40000-"


def test_a_server_without_ranges_makes_it_start_again_and_says_so(server, tmp_path, monkeypatch):
    offer(server, monkeypatch)
    server.ranges, server.cuts, said = False, [70_000], []
    get(tmp_path, say=said.append)
    assert "70,000 bytes are dropped" in said[0]
    assert (tmp_path / "set.tar.gz").read_bytes() == ARCHIVE


@pytest.mark.parametrize(
    ("etag", "surplus"), [('"two"', 0), (None, 1)], ids=["another ETag", "another size"]
)
def test_a_part_of_another_version_is_not_continued(server, tmp_path, monkeypatch, etag, surplus):
    old, new = (zipped({"batches/one.bin": c}) for c in (NOISE, NOISE[::-1] + b"x" * surplus))
    assert len(new) == len(old) + surplus
    offer(server, monkeypatch, old, name="set.zip", hashed=False)
    server.etag, server.cuts = (etag and '"one"'), [50_000, *[0] * 20]
    with pytest.raises(BackendUnavailableError):
        get(tmp_path)
    offer(server, monkeypatch, new, name="set.zip", hashed=False)
    server.etag, server.cuts = etag, []
    get(tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == new


def test_a_part_of_an_unknown_file_is_dropped_with_a_message(server, tmp_path, monkeypatch):
    offer(server, monkeypatch)
    (tmp_path / "set.tar.gz.part").write_bytes(b"of something else")
    said = []
    get(tmp_path, say=said.append)
    assert "cannot be told" in said[0]
    assert (tmp_path / "set.tar.gz").read_bytes() == ARCHIVE


def test_a_wrong_checksum_sets_the_file_aside_and_unpacks_nothing(server, tmp_path, monkeypatch):
    offer(server, monkeypatch)
    server.files["/set.tar.gz"] = wrong = tgz({"batches/one.bin": b"another"})
    with pytest.raises(InvalidInputError, match="what came is kept as") as caught:
        get(tmp_path)
    for content in (wrong, ARCHIVE):
        assert f"md5:{hashlib.md5(content).hexdigest()}" in str(caught.value)
    assert visible(tmp_path) == {"set.tar.gz.wrong-checksum"}
    assert (tmp_path / "set.tar.gz.wrong-checksum").read_bytes() == wrong
    with pytest.raises(InvalidInputError):
        get(tmp_path)
    assert visible(tmp_path) == {"set.tar.gz.wrong-checksum", "set.tar.gz.wrong-checksum1"}
    server.files["/set.tar.gz"] = ARCHIVE
    get(tmp_path)
    assert "batches" in visible(tmp_path)


def test_a_file_of_the_same_name_is_never_overwritten(server, tmp_path, monkeypatch):
    for hashed in (True, False):
        offer(server, monkeypatch, hashed=hashed)
        (tmp_path / "set.tar.gz").write_bytes(b"mine")
        with pytest.raises(InvalidInputError, match="move it away"):
            plan("cifar-10", tmp_path)
        assert (tmp_path / "set.tar.gz").read_bytes() == b"mine"


def test_a_small_disk_is_found_before_the_download(server, tmp_path, monkeypatch):
    offer(server, monkeypatch)
    usage = type(shutil.disk_usage("."))
    # The archive and what it unpacks to: one byte less than both is too little.
    for free, enough in ((2 * len(ARCHIVE) - 1, False), (2 * len(ARCHIVE), True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, f=free: usage(10**12, 10**12 - f, f))
        if enough:
            plan("cifar-10", tmp_path / "deep" / "new")
        else:
            with pytest.raises(InvalidInputError, match="make room"):
                plan("cifar-10", tmp_path / "deep" / "new")
    assert server.asked == []
    assert not (tmp_path / "deep").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_is_one_error(server, tmp_path, monkeypatch):
    offer(server, monkeypatch)
    (tmp_path / "set.tar.gz.part").symlink_to("/dev/full")
    with pytest.raises(InvalidInputError, match=r"No space left.*goes on with it"):
        get(tmp_path)
    assert "set.tar.gz" not in visible(tmp_path)


def test_a_second_process_on_the_same_folder_is_refused(server, tmp_path, monkeypatch):
    offer(server, monkeypatch)
    found = plan("cifar-10", tmp_path)
    with alone(tmp_path, "fetches"), pytest.raises(InvalidInputError, match="another process"):
        fetch(found, progress=False)
    fetch(found, progress=False)


def test_a_file_labelled_as_compressed_arrives_as_it_is(server, tmp_path, monkeypatch):
    offer(server, monkeypatch)
    server.encoding = "gzip"
    get(tmp_path)
    assert (tmp_path / "set.tar.gz").read_bytes() == ARCHIVE


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"batches/a.csv": b"a", "batches/b.csv": b"b"}, {"a.csv", "b.csv"}),
        ({"a.csv": b"a", "b.csv": b"b"}, {"a.csv", "b.csv"}),
        ({"batches/a.csv": b"a", "__MACOSX/batches/._a.csv": b""}, {"a.csv"}),
        ({"other/a.csv": b"a"}, {"other"}),
    ],
    ids=["with the folder", "files only", "written on a Mac", "another folder"],
)
def test_a_zip_gives_the_folder_whether_or_not_it_holds_it(
    server, tmp_path, monkeypatch, files, expected
):
    offer(server, monkeypatch, zipped(files), name="set.zip")
    get(tmp_path)
    assert visible(tmp_path / "batches") == expected


@pytest.mark.parametrize("evil", ["../evil", "/tmp/evil-rsafast", "a/../../evil", "..\\evil"])
def test_an_archive_cannot_write_outside_its_folder(server, tmp_path, monkeypatch, evil):
    inside = tmp_path / "here"
    offer(server, monkeypatch, zipped({"batches/a": b"a", evil: b"x"}), name="set.zip")
    with pytest.raises(InvalidInputError, match="outside its folder"):
        get(inside)
    assert visible(inside) == {"set.zip"}
    assert visible(tmp_path) == {"here"}


def test_a_tar_cannot_write_outside_its_folder(server, tmp_path, monkeypatch):
    inside = tmp_path / "here"
    offer(server, monkeypatch, tgz({"batches/a": b"a", "../evil": b"x"}))
    with pytest.raises(InvalidInputError, match="outside its folder"):
        get(inside)
    assert visible(tmp_path) == {"here"}
    assert [p.name for p in inside.iterdir() if p.is_dir()] == []


def test_an_archive_that_is_none_is_one_error(server, tmp_path, monkeypatch):
    offer(server, monkeypatch, ARCHIVE[:1000])
    with pytest.raises(InvalidInputError, match="damaged or no archive"):
        get(tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []


def test_a_server_that_is_not_there_or_lacks_the_file_is_one_error(server, tmp_path, monkeypatch):
    offer(server, monkeypatch)
    server.files.clear()
    with pytest.raises(BackendUnavailableError, match="answers 404"):
        plan("cifar-10", tmp_path)
    offer(replace(server, address="http://127.0.0.1:9"), monkeypatch)
    with pytest.raises(BackendUnavailableError, match="cannot be reached"):
        plan("cifar-10", tmp_path)


def test_without_pooch_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(BackendUnavailableError, match=r'pip install "rsafast\[data\]"'):
        plan("cifar-10", tmp_path)


# --- NSD, file by file --------------------------------------------------------------------------


def nsd_server(server, monkeypatch, absent=()):
    monkeypatch.setattr(nsd_module, "SERVER", f"{server.address}/")
    files = nsd_downloads("subj04", (2,), "func1pt8mm", "betas_fithrf", False)
    for item in files:
        if not any(word in item.name for word in absent):
            server.files[f"/{item.name}"] = item.name.encode()


def test_nsd_is_fetched_in_its_own_folders_without_what_the_server_lacks(
    server, tmp_path, monkeypatch
):
    nsd_server(server, monkeypatch, absent=("floc-words",))
    chosen = NsdSelection(subjects=("subj04",), sessions=(2,), betas="betas_fithrf")
    found = plan("nsd", tmp_path, nsd=chosen)
    assert {Path(name).name for name in found.absent} == {
        "floc-words.nii.gz", "floc-words.mgz.ctab",
    }  # fmt: skip
    fetch(found, progress=False)
    name = "nsddata_betas/ppdata/subj04/func1pt8mm/betas_fithrf/betas_session02.hdf5"
    assert (tmp_path / name).read_text() == name
    again = plan("nsd", tmp_path, nsd=chosen)
    assert again.downloads == ()
    assert len(again.done) == len(found.downloads)


def test_nsd_betas_that_the_server_lacks_are_an_error(server, tmp_path, monkeypatch):
    nsd_server(server, monkeypatch, absent=("betas_session",))
    with pytest.raises(BackendUnavailableError, match="betas_session02"):
        plan(
            "nsd", tmp_path,
            nsd=NsdSelection(subjects=("subj04",), sessions=(2,), betas="betas_fithrf"),
        )  # fmt: skip


def test_nsd_files_of_a_surface_are_both_hemispheres_of_the_sessions_asked_for():
    files = {
        item.name
        for item in nsd_downloads("subj01", (3, 1), "fsaverage", "betas_fithrf_GLMdenoise_RR", True)
        if item.needed
    }
    folder = "nsddata_betas/ppdata/subj01/fsaverage/betas_fithrf_GLMdenoise_RR"
    assert files == {
        "nsddata/experiments/nsd/nsd_expdesign.mat",
        "nsddata/experiments/nsd/nsd_stim_info_merged.csv",
        "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5",
        *(f"{folder}/{h}.betas_session{s}.mgh" for h in ("lh", "rh") for s in ("01", "03")),
    }


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"subjects": ("subj09",)}, "subj09"),
        ({"subjects": ()}, "--subject subj01 and --sessions 1-3"),
        ({"sessions": ()}, "--subject subj01 and --sessions 1-3"),
        ({"subjects": ("subj04",), "sessions": (30, 31)}, "sessions 1 to 30, not 31"),
        ({"sessions": (0,)}, "not 0"),
        ({"space": "mni"}, "--space 'mni'"),
        ({"betas": "b3"}, "--betas 'b3'"),
    ],
)
def test_nsd_needs_a_selection_that_exists(chosen, said, tmp_path):
    selection = NsdSelection(**{"subjects": ("subj01",), "sessions": (1,), **chosen})
    with pytest.raises(InvalidInputError, match=said):
        plan("nsd", tmp_path / "new", nsd=selection)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "--subject subj01 and --sessions 1-3"),
        (["--subject", "subj01", "--sessions", "3-1"], "--sessions '3-1'"),
        (["--subject", "subj04", "--sessions", "29,30-31"], "sessions 1 to 30, not 31"),
    ],
)
def test_a_selection_that_does_not_exist_is_one_error(argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "fetch", "nsd", *argv]) == 2
    captured = capsys.readouterr().err
    assert captured.startswith("error: ")
    assert said in captured
    assert list(tmp_path.iterdir()) == []


# --- The catalogue ------------------------------------------------------------------------------


def test_only_addresses_that_the_sources_state_are_fetched():
    urls = {item.url for entry in CATALOGUE.values() for item in entry.downloads.values()}
    assert urls == {
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "https://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "https://plus.figshare.com/ndownloader/files/36789690",
    }
    (nsd, *_) = nsd_downloads("subj01", (1,), "func1pt8mm", "betas_fithrf", False)
    assert nsd.url == (
        "https://natural-scenes-dataset.s3.us-east-2.amazonaws.com/"
        "nsddata/experiments/nsd/nsd_expdesign.mat"
    )
    hashes = {i.known_hash for e in CATALOGUE.values() for i in e.downloads.values()} - {None}
    assert hashes == {"md5:c58f30108f718f92721af3b95e74349a"}


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_reader_of_each_data_set_exists(name):
    for reader in data_set(name).reader.split(", "):
        module, _, function = reader.rpartition(".")
        if module == "rsafast_training.data":  # not imported: that takes seconds
            names = Path(rsafast.__file__).parents[1] / "training/rsafast_training/data/__init__.py"
            assert f'"{function}"' in names.read_text()
        else:
            assert module == "rsafast.datasets"
            assert callable(getattr(rsafast.datasets, function))


def test_an_unknown_data_set_is_an_error_that_names_those_there_are(capsys):
    assert main(["data", "fetch", "nds"]) == 2
    assert "cifar-10" in capsys.readouterr().err


def test_list_as_json_and_as_a_table(capsys):
    assert main(["data", "list", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(entries) == {
        "nsd", "things-fmri", "things-eeg2", "algonauts-2019", "algonauts-2023", "cifar-10",
        "tiny-imagenet", "imagenet",
    }  # fmt: skip
    assert entries["things-fmri"]["doi"] == "10.7554/eLife.82580"
    assert entries["algonauts-2023"]["fetched"] is False
    assert main(["data", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in entries)


@pytest.mark.parametrize("name", ["things-eeg2", "algonauts-2019", "algonauts-2023", "imagenet"])
def test_fetch_says_where_a_person_gets_what_has_no_open_address(name):
    entry = data_set(name)
    with pytest.raises(InvalidInputError) as caught:
        plan(name, "anywhere")
    for said in (entry.source, entry.doi, *(files.path for files in entry.files if files.needed)):
        assert said in str(caught.value)


# --- The command line ---------------------------------------------------------------------------


def test_fetch_of_what_has_no_open_address_says_where_it_is(capsys):
    assert main(["data", "fetch", "algonauts-2023"]) == 2
    assert "a Google form" in capsys.readouterr().err


def test_fetch_asks_first_and_takes_no_for_an_answer(server, tmp_path, monkeypatch):
    offer(server, monkeypatch)
    argv = ["data", "fetch", "cifar-10", "--to", str(tmp_path / "to")]
    refused = CliRunner().invoke(app, argv, input="n\n", obj=[])
    assert refused.exit_code == 1
    for part in ("0.000 GB", "licence", "md5:", str(tmp_path / "to")):
        assert part in refused.stderr
    assert not (tmp_path / "to").exists()
    assert CliRunner().invoke(app, argv, input="y\n", obj=[]).exit_code == 0
    assert visible(tmp_path / "to" / "batches") == {"one.bin", "two.txt"}


def test_fetch_without_an_answer_needs_yes(server, tmp_path, monkeypatch, capsys):
    offer(server, monkeypatch)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    argv = ["data", "fetch", "cifar-10", "--to", str(tmp_path)]
    assert main(argv) == 2
    assert "--yes" in capsys.readouterr().err
    assert main([*argv, "--yes"]) == 0
    assert main([*argv, "--yes"]) == 0
    assert "there already" in capsys.readouterr().err
    assert server.asked == [None]


def test_an_interrupt_names_what_is_kept(server, tmp_path, monkeypatch, capsys):
    offer(server, monkeypatch)

    def interrupt(self, number):
        raise KeyboardInterrupt

    monkeypatch.setattr(server_module.Resuming, "_count", interrupt)
    assert main(["data", "fetch", "cifar-10", "--to", str(tmp_path), "--yes"]) == 130
    assert "set.tar.gz.part" in capsys.readouterr().err


def test_an_unknown_variant_and_options_of_nsd_are_refused(capsys):
    assert main(["data", "fetch", "cifar-10", "--variant", "matlab"]) == 2
    assert "python, binary" in capsys.readouterr().err
    assert main(["data", "fetch", "cifar-10", "--sessions", "1"]) == 2
    assert "leave out" in capsys.readouterr().err


# --- Folders ------------------------------------------------------------------------------------


def write(path: Path, content: bytes | str = b"x", size: int | None = None) -> Path:
    """Write a file, and lengthen it without using the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    if size is not None:
        os.truncate(path, size)
    return path


def hdf5(path: Path, **shapes: tuple[int, ...]) -> Path:
    """Write datasets of these shapes, which take no room before values are written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, shape in shapes.items():
            file.create_dataset(name.replace("__", "/"), shape, "i2")
    return path


def nifti(path: Path, shape: tuple[int, ...], values=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.zeros(shape, np.int16) if values is None else values
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4), dtype=np.int16), path)
    return path


def only_problem(folder, name=None):
    found = verify(folder, name)
    assert not found.ok
    assert len(found.problems) == 1, found.problems
    return found.problems[0]


@pytest.fixture
def cifar(tmp_path):
    folder = tmp_path / "sets" / "cifar-10-batches-bin"
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        write(folder / f"{name}.bin", size=30_730_000)
    write(folder / "batches.meta.txt", "cat\n")
    return folder


def test_a_whole_folder_is_recognised_from_itself_and_from_above(cifar, capsys):
    for place in (cifar, cifar.parent, cifar.parent.parent):
        found = verify(place)
        assert (found.ok, found.data_set, found.folder) == (True, "cifar-10", str(cifar))
        assert found.readable == ("binary",)
    assert main(["data", "verify", str(cifar)]) == 0
    assert "can be read: binary" in capsys.readouterr().out


@pytest.mark.parametrize("size", [30_729_999, 30_730_001, 0])
def test_a_cifar_file_that_is_one_byte_off_is_found(cifar, size):
    os.truncate(cifar / "data_batch_3.bin", size)
    problem = only_problem(cifar)
    assert problem.file == str(cifar / "data_batch_3.bin")
    assert "30,730,000" in problem.what or problem.what == "is empty"


def test_verify_as_json_has_every_row_and_problem(cifar, capsys):
    (cifar / "data_batch_3.bin").write_bytes(b"")
    assert main(["data", "verify", str(cifar), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is False
    assert result["problems"][0]["file"] == str(cifar / "data_batch_3.bin")
    assert {row["state"] for row in result["rows"]} == {"complete", "damaged"}


def test_a_missing_file_is_named_and_an_unfinished_download_too(cifar):
    (cifar / "test_batch.bin").rename(cifar / "test_batch.bin.part")
    assert "cut off" in only_problem(cifar).what
    (cifar / "test_batch.bin.part").unlink()
    problem = only_problem(cifar)
    assert (problem.file, problem.what) == (str(cifar / "test_batch.bin"), "is missing")


def test_the_python_version_of_cifar_is_judged_by_length_and_end(tmp_path):
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        with write(tmp_path / name, size=30_720_000).open("ab") as file:
            file.write(b"u.")
    write(tmp_path / "batches.meta", b"\x80\x02}u.")
    assert verify(tmp_path).readable == ("python",)
    os.truncate(tmp_path / "data_batch_1", 30_720_001)
    assert "does not end as a pickle" in only_problem(tmp_path).what


def test_an_unknown_folder_and_several_data_sets_are_errors(cifar, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="no files of any of nsd"):
        verify(tmp_path / "empty")
    with pytest.raises(InvalidInputError, match="no files of imagenet"):
        verify(cifar, "imagenet")
    shutil.copytree(cifar, cifar.with_name("copy"), copy_function=os.link)
    with pytest.raises(InvalidInputError, match="several data sets"):
        verify(cifar.parent)
    assert main(["data", "verify", str(tmp_path / "absent")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_folder_beside_a_data_set_is_not_taken_for_it(tmp_path):
    """Folders of algonauts-2019 may have any name."""
    hdf5(tmp_path / "92_Image_Set/target_fmri.mat", EVC_RDMs=(92, 92, 15), IT_RDMs=(92, 92, 15))
    (tmp_path / "other").mkdir()
    with pytest.raises(InvalidInputError, match="no files of any of nsd"):
        verify(tmp_path / "other")
    assert verify(tmp_path).readable == ("fMRI, a folder an image set 92_Image_Set",)
    assert verify(tmp_path / "92_Image_Set").readable == ("fMRI",)


# Sessions, volumes: NSD


@pytest.fixture(scope="module")
def whole_nsd(tmp_path_factory):
    """Subject 2, sessions 1 and 2 of the 1.8 mm volumes, whose dims are 82 × 106 × 84."""
    root = tmp_path_factory.mktemp("whole")
    design = root / "nsddata" / "experiments" / "nsd" / "nsd_expdesign.mat"
    design.parent.mkdir(parents=True)
    savemat(
        design,
        {
            "masterordering": np.zeros((1, 30_000), np.uint16),
            "subjectim": np.zeros((8, 10_000), np.uint32),
            "sharedix": np.zeros((1, 1000), np.uint32),
        },
        do_compression=True,
    )
    for session in (1, 2):
        hdf5(betas_of(root, session), betas=(750, 84, 106, 82))
    nifti(root / "nsddata/ppdata/subj02/func1pt8mm/roi/nsdgeneral.nii.gz", (82, 106, 84))
    return root


@pytest.fixture
def nsd(tmp_path, whole_nsd):
    """A copy to damage."""
    return Path(shutil.copytree(whole_nsd, tmp_path / "nsd"))


def betas_of(root: Path, session: int) -> Path:
    folder = root / "nsddata_betas/ppdata/subj02/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    return folder / f"betas_session{session:02d}.hdf5"


def test_nsd_says_for_each_subject_which_sessions_are_there(nsd, capsys):
    for place in (nsd, nsd.parent, betas_of(nsd, 1).parent, nsd / "nsddata"):
        found = verify(place)
        assert (found.ok, found.folder, found.problems) == (True, str(nsd), ())
    assert found.readable == ("subj02 func1pt8mm, .hdf5 betas_fithrf_GLMdenoise_RR",)
    betas = next(row for row in found.rows if "betas" in row.holds)
    assert (betas.subject, betas.found, betas.expected) == ("subj02", 2, 40)
    assert (betas.state, betas.missing) == ("partial", ("sessions 3-40",))
    assert main(["data", "verify", str(nsd)]) == 0
    assert "sessions 3-40" in capsys.readouterr().out


def test_a_hole_between_sessions_is_a_problem(nsd):
    betas_of(nsd, 2).rename(betas_of(nsd, 3))
    assert only_problem(nsd).file == str(betas_of(nsd, 2))


def test_betas_with_axes_of_the_wrong_order_are_found(nsd):
    hdf5(betas_of(nsd, 2), betas=(750, 82, 106, 84))
    problem = only_problem(nsd)
    assert problem.what == "betas is 750 × 82 × 106 × 84, published is 750 × 84 × 106 × 82"


def test_an_hdf5_file_without_its_dataset_is_found(nsd):
    hdf5(betas_of(nsd, 2), other=(3,))
    assert only_problem(nsd).what == "holds no dataset 'betas'; it holds other"


def test_a_truncated_hdf5_file_is_found(nsd):
    with h5py.File(betas_of(nsd, 2), "w") as file:
        file["betas"] = np.ones(100_000)
    os.truncate(betas_of(nsd, 2), 400_000)
    problem = only_problem(nsd)
    assert problem.file == str(betas_of(nsd, 2))
    assert "truncated" in problem.what


def test_a_cut_design_is_found_and_makes_the_subject_unreadable(nsd):
    design = nsd / "nsddata/experiments/nsd/nsd_expdesign.mat"
    os.truncate(design, design.stat().st_size - 40)
    assert only_problem(nsd).file == str(design)
    assert verify(nsd).readable == ()


@pytest.mark.parametrize("kept", [200, 5_000, -9])
def test_a_cut_volume_is_found(nsd, kept):
    noise = np.random.default_rng(0).integers(-9, 9, (82, 106, 84), np.int16)
    path = nifti(nsd / "nsddata/ppdata/subj02/func1pt8mm/roi/streams.nii.gz", noise.shape, noise)
    assert verify(nsd).ok
    os.truncate(path, kept % path.stat().st_size)
    assert only_problem(nsd).file == str(path)


def test_a_gz_of_several_members_is_no_problem(nsd):
    """Its last bytes give the length of the last member only."""
    path = nsd / "nsddata/ppdata/subj02/func1pt8mm/roi/nsdgeneral.nii.gz"
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole[:1000]) + gzip.compress(whole[1000:]))
    assert verify(nsd).ok
    path.write_bytes(gzip.compress(whole[:1000]) + gzip.compress(whole[1000:-2]))
    assert "its header announces" in only_problem(nsd).what


def test_nothing_but_headers_is_read(nsd, monkeypatch):
    """A session of betas that would take 1 GB is verified, though none of it is on the disk."""
    assert betas_of(nsd, 1).stat().st_size < 10_000
    monkeypatch.setattr(h5py.Dataset, "__getitem__", None)
    monkeypatch.setattr(gzip, "open", None)
    assert verify(nsd).ok


def test_a_surface_needs_both_hemispheres_of_a_session(nsd):
    folder = nsd / "nsddata_betas/ppdata/subj02/fsaverage/betas_fithrf"
    folder.mkdir(parents=True)
    header = nibabel.MGHImage(np.zeros((1, 1, 1), np.float32), np.eye(4)).header
    header.set_data_shape((163_842, 1, 1, 750))
    whole = 284 + 163_842 * 750 * 4
    buffer = io.BytesIO()
    header.write_to(buffer)
    for hemisphere in ("lh", "rh"):
        write(folder / f"{hemisphere}.betas_session01.mgh", buffer.getvalue(), whole)
        area = nibabel.MGHImage(np.zeros((7, 1, 1), np.float32), np.eye(4))
        label = nsd / f"nsddata/freesurfer/fsaverage/label/{hemisphere}.streams.mgz"
        label.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(area, label)
    assert "subj02 fsaverage, .mgh betas_fithrf" in verify(nsd).readable
    os.truncate(folder / "rh.betas_session01.mgh", whole - 1)
    assert f"{whole:,}" in only_problem(nsd).what
    (folder / "rh.betas_session01.mgh").unlink()
    assert only_problem(nsd).file == str(folder / "rh.betas_session01.mgh")


# Tables: THINGS-fMRI

VOXEL_HEADER = 'voxel_id,"glasser-p9-\n46v",nc_singletrial,nc_testset,V1,LO1 (prf)\n'
STIMULUS_HEADER = "trial_type,session,run,subject_id,trial_id,stimulus,concept\n"


@pytest.fixture
def things(tmp_path):
    folder = tmp_path / "things" / "betas_csv"
    hdf5(
        folder / "sub-03_ResponseData.h5",
        ResponseData__block0_values=(189_164, 9_840), ResponseData__block1_values=(189_164, 1),
    )  # fmt: skip
    write(folder / "sub-03_VoxelMetadata.csv", VOXEL_HEADER + "0,0,1.5,2.5,1,0\n")
    write(
        folder / "sub-03_StimulusMetadata.csv",
        STIMULUS_HEADER + "train,1,1,3,0,dog_12s.jpg,dog\n",
    )
    return folder


def test_the_tables_of_things_are_read_from_the_folder_and_the_one_above(things):
    for place in (things, things.parent):
        assert verify(place).ok
    assert verify(things.parent).readable == ("sub-03 betas_csv",)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("VoxelMetadata", VOXEL_HEADER.replace("nc_testset", "nc"), "no column 'nc_testset'"),
        ("VoxelMetadata", VOXEL_HEADER + "0,0,1.5", "last row has 3 of 6 cells"),
        ("StimulusMetadata", STIMULUS_HEADER, "no rows"),
        ("StimulusMetadata", "\x00\x80\x81", "no column"),
        ("StimulusMetadata", "", "is empty"),
    ],
)
def test_a_table_that_is_cut_or_another_is_found(things, name, content, said):
    path = things / f"sub-03_{name}.csv"
    write(path, content)
    problem = only_problem(things)
    assert problem.file == str(path)
    assert said in problem.what


def test_a_subject_without_one_of_its_files_is_incomplete(things):
    (things / "sub-03_VoxelMetadata.csv").unlink()
    assert only_problem(things).file == str(things / "sub-03_VoxelMetadata.csv")
    assert verify(things).readable == ()


def test_responses_of_another_subject_are_found_by_their_number_of_voxels(things):
    (things / "sub-03_ResponseData.h5").rename(things / "sub-01_ResponseData.h5")
    found = {problem.file: problem.what for problem in verify(things).problems}
    said = found[str(things / "sub-01_ResponseData.h5")]
    assert "189164 × 9840, published is 211339 × 9840" in said


# Arrays: THINGS-EEG2 and Algonauts


def test_a_cut_pickle_of_eeg_is_found(tmp_path):
    start = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        start, {"descr": "|O", "fortran_order": False, "shape": ()}
    )
    sizes = {"training": 899_776_000, "test": 217_600_000}
    for part, size in sizes.items():
        name = f"preprocessed_data/sub-10/preprocessed_eeg_{part}.npy"
        with write(tmp_path / name, start.getvalue(), size).open("ab") as file:
            file.write(b"tb.")
    np.save(tmp_path / "image_metadata.npy", {"train_img_files": []}, allow_pickle=True)
    assert verify(tmp_path).readable == ("sub-10 preprocessed_data",)
    path = tmp_path / "preprocessed_data/sub-10/preprocessed_eeg_test.npy"
    os.truncate(path, 200_000_000)
    assert "does not end" in only_problem(tmp_path).what
    os.truncate(path, 1_000_000)
    assert "less than" in only_problem(tmp_path).what


@pytest.fixture
def algonauts(tmp_path, monkeypatch):
    monkeypatch.setitem(challenge._TRAIN, "subj06", 3)
    folder = tmp_path / "subj06"
    for hemisphere, vertices in (("lh", 18_978), ("rh", 20_220)):
        path = folder / f"training_split/training_fmri/{hemisphere}_training_fmri.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.zeros((3, vertices), np.float32))
    for i in range(1, 4):
        image = f"training_split/training_images/train-{i:04d}_nsd-{i + 5:05d}.png"
        write(folder / image)
    (folder / "roi_masks").mkdir()
    np.save(folder / "roi_masks/mapping_streams.npy", {0: "Unknown", 1: "early"})
    return folder


def test_without_the_names_of_the_regions_nothing_can_be_read(algonauts):
    (algonauts / "roi_masks/mapping_streams.npy").unlink()
    assert not verify(algonauts).readable
    assert "mapping_" in str(only_problem(algonauts))


def test_an_npy_shorter_than_its_header_says_is_found(algonauts):
    assert verify(algonauts).readable == ("subj06 challenge",)
    path = algonauts / "training_split/training_fmri/rh_training_fmri.npy"
    os.truncate(path, path.stat().st_size - 4)
    assert only_problem(algonauts).what == (
        "has 242,764 bytes, its header announces 242,768 (3 × 20220 float32)"
    )


def test_swapped_hemispheres_are_found(algonauts):
    folder = algonauts / "training_split/training_fmri"
    (folder / "lh_training_fmri.npy").rename(folder / "tmp.npy")
    (folder / "rh_training_fmri.npy").rename(folder / "lh_training_fmri.npy")
    (folder / "tmp.npy").rename(folder / "rh_training_fmri.npy")
    assert len(verify(algonauts).problems) == 2


def test_a_missing_image_is_found_by_counting(algonauts):
    (algonauts / "training_split/training_images/train-0002_nsd-00007.png").unlink()
    assert "2 files in 1 folders, published are 3" in only_problem(algonauts).what


def test_rdms_of_2019_are_found_in_matlabs_order(tmp_path):
    for n, folder in ((92, "92_Image_Set"), (118, "118_Image_Set")):
        hdf5(tmp_path / folder / "target_fmri.mat", EVC_RDMs=(n, n, 15), IT_RDMs=(n, n, 15))
    assert len(verify(tmp_path).readable) == 2
    hdf5(tmp_path / "92_Image_Set/target_fmri.mat", EVC_RDMs=(15, 92, 92), IT_RDMs=(92, 92, 15))
    assert "EVC_RDMs is 15 × 92 × 92" in only_problem(tmp_path).what


# Folders of images


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    for files in CATALOGUE["tiny-imagenet"].files:
        if files.counts is not None:
            monkeypatch.setitem(files.counts, "", 6 if "train" in files.path else 2)
    for wnid in ("n01443537", "n01629819", "n01641577"):
        for i in range(2):
            write(tmp_path / f"train/{wnid}/images/{wnid}_{i}.JPEG")
    for i in range(2):
        write(tmp_path / f"val/images/val_{i}.JPEG")
    write(tmp_path / "val/val_annotations.txt")
    write(tmp_path / "wnids.txt")
    return tmp_path


def test_a_class_folder_that_lacks_an_image_is_named(tiny):
    assert verify(tiny).ok
    (tiny / "train/n01629819/images/n01629819_1.JPEG").unlink()
    (tiny / "train/n01629819/images/._n01629819_1.JPEG").touch()
    problem = only_problem(tiny)
    assert "5 files in 3 folders, published are 6" in problem.what
    assert "train/n01629819/images holds 1" in problem.what


def test_an_empty_image_is_found(tiny):
    write(tiny / "val/images/val_1.JPEG", b"")
    assert only_problem(tiny).what == "is empty"
    assert verify(tiny).readable == ()


def test_imagenet_is_read_with_its_validation_images_flat_or_in_folders(tmp_path, monkeypatch):
    for files in CATALOGUE["imagenet"].files:
        if files.counts is not None:
            monkeypatch.setitem(files.counts, "", 1)
    write(tmp_path / "train/n01440764/n01440764_18.JPEG")
    flat = write(tmp_path / "val/ILSVRC2012_val_00000001.JPEG")
    kit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    write(kit / "ILSVRC2012_validation_ground_truth.txt", "1\n")
    savemat(kit / "meta.mat", {"synsets": 1})
    assert verify(tmp_path).readable == ("validation images flat, as shipped",)
    (kit / "meta.mat").unlink()
    assert only_problem(tmp_path).file == str(kit / "meta.mat")
    shutil.rmtree(kit.parent)
    (tmp_path / "val/n01440764").mkdir()
    flat.rename(tmp_path / "val/n01440764" / flat.name)
    assert verify(tmp_path).readable == ("validation images in class folders",)
