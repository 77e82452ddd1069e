"""Fetching published data sets: resumed where it stopped, checked, unpacked, never overwriting.

pooch keeps the folder and compares checksums; its downloader is replaced by one that goes on with a
partial file (HTTP Range), because its own starts again at every interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rsafast_kernels.atomic import PathInput, alone

from rsafast.datasets.archives import check_free, megabytes, unpack
from rsafast.datasets.catalogue import data_set
from rsafast.datasets.catalogue.entries import DataSet, Download
from rsafast.datasets.catalogue.nsd import nsd_downloads
from rsafast.datasets.server import (
    Resuming,
    Say,
    ask,
    hash_fits,
    open_session,
    part_of,
    pooch_package,
    size_of,
)
from rsafast.errors import InvalidInputError
from rsafast.progress import track

if TYPE_CHECKING:
    import requests



@dataclass(frozen=True, slots=True, kw_only=True)
class NsdSelection:
    """What of NSD to fetch; nothing of it is fetched without a selection.

    Attributes
    ----------
    subjects : such as ("subj01",).
    sessions : counted from 1, the same of every subject.
    space, betas : folders of the betas; betas_fithrf_GLMdenoise_RR is "b3".
    stimuli : also the images, 39.6 GB.
    """

    subjects: tuple[str, ...]
    sessions: tuple[int, ...]
    space: str = "func1pt8mm"
    betas: str = "betas_fithrf_GLMdenoise_RR"
    stimuli: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `fetch` will do.

    Attributes
    ----------
    data_set : entry of the catalogue; target : folder.
    downloads : what is not there yet; sizes : their bytes, None where the server does not tell.
    done : names of what is there already.
    absent : names of files that some subjects have and that the server lacks.
    """

    data_set: DataSet
    target: Path
    downloads: tuple[Download, ...]
    sizes: tuple[int | None, ...]
    done: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def present(self) -> int:
        """Bytes that are here: of partial files, and of archives that were not unpacked."""
        paths = [self.target / download.name for download in self.downloads]
        return sum(size_of(path) or size_of(part_of(path)) for path in paths)

    @property
    def total(self) -> int:
        """Bytes of all downloads as far as sizes are known, those that are here included."""
        return sum(size or 0 for size in self.sizes)


def plan(
    name: str,
    target: PathInput,
    *,
    variant: str | None = None,
    nsd: NsdSelection | None = None,
    progress: bool = False,
) -> Plan:
    """Find out what there is to download, and ask the server for the sizes.

    Parameters
    ----------
    name : of a data set in the catalogue.
    target : folder in which it will lie; made by `fetch`.
    variant : such as "python" or "binary" for cifar-10; by default the first in the catalogue.
    nsd : what of NSD.
    progress : show a bar on stderr.

    Raises
    ------
    InvalidInputError
        A data set without an open address (the message says where a person gets it), an unknown
        variant, NSD without a selection, files in `target` that are not those published, or a disk
        that is too small.
    BackendUnavailableError
        A server that cannot be reached; pooch is not installed.
    """
    pooch_package()
    entry = data_set(name)
    place = Path(target).expanduser().resolve()
    wanted = _chosen(entry, variant, nsd)
    done = [d for d in wanted if d.gives and (place / d.gives).is_dir()]
    open_ = [d for d in wanted if d not in done]
    downloads, sizes, absent = [], [], []
    with open_session() as session, track(len(open_), "asking for sizes", progress) as advance:
        for download in open_:
            there, size = ask(session, download)
            advance(1)
            path = place / download.name
            if not there:
                absent.append(download.name)
                continue
            if path.exists():
                _check_existing(path, download, size)
            if path.exists() and not download.gives:
                done.append(download)
            else:
                downloads.append(download)
                sizes.append(size)
    found = Plan(
        data_set=entry, target=place, downloads=tuple(downloads), sizes=tuple(sizes),
        done=tuple(d.name for d in done), absent=tuple(absent),
    )  # fmt: skip
    _check_space(found)
    return found


def fetch(found: Plan, *, progress: bool = True, say: Say = lambda _: None) -> tuple[Path, ...]:
    """Download what a plan lists, check it and unpack archives.

    Parameters
    ----------
    found : what `plan` returned.
    progress : show a bar with rate and time left on stderr.
    say : called with one line whenever something happens that a person should know.

    Returns
    -------
    tuple of Path
        The files, and the folders of archives that were unpacked. Archives are kept.

    Raises
    ------
    InvalidInputError
        Another process fetches into the folder; a checksum that is not the published one (what came
        is kept under another name); a full disk; an archive that would write outside the folder.
    BackendUnavailableError
        The server cannot be reached, or cuts the connection again and again. What came is kept, and
        the next call goes on with it.
    """
    try:
        found.target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(
            f"{found.target}: cannot be made ({error.strerror}); choose another folder"
        ) from None
    with alone(found.target, "fetches into it"), open_session() as session:
        # What is here already is left out of the bar, which would take it for speed.
        total = max(1, (found.total - found.present) // 10**6)
        with track(total, f"MB of {found.data_set.name}", progress) as advance:
            count = megabytes(advance)
            files = [_download(d, found.target, session, count, say) for d in found.downloads]
        return tuple(
            unpack(file, found.target, download.gives, progress) if download.gives else file
            for file, download in zip(files, found.downloads, strict=True)
        )


def how_to_get(entry: DataSet) -> str:
    """Where a person gets a data set, and which files must lie where: several lines of text."""
    doi = f", doi:{entry.doi}" if entry.doi else ""
    lines = [
        f"rsafast does not download {entry.name}. Get it from: {entry.source}{doi}",
        f"access: {entry.access}; licence: {entry.licence}; size: {entry.size}",
        "Put the files into one folder, as published, in one of these layouts:",
    ]
    for layout in entry.layouts:
        lines.append(f"  {layout.name}:")
        lines += [
            f"    {files.path}  ({files.holds}{'' if files.needed else '; optional'})"
            for files in layout.files
        ]
    lines.append(f"Then check them: rsafast data verify FOLDER --as {entry.name}")
    return "\n".join(lines)


# --- What to fetch ------------------------------------------------------------------------------


def _chosen(entry: DataSet, variant: str | None, nsd: NsdSelection | None) -> Sequence[Download]:
    if entry.name == "nsd":
        if nsd is None or not nsd.subjects or not nsd.sessions:
            raise InvalidInputError(
                "nsd is fetched in parts; say which with --subject subj01 and --sessions 1-3"
            )
        if variant is not None:
            raise InvalidInputError("nsd has no variants; choose with --space and --betas")
        files = [
            download
            for subject in nsd.subjects
            for download in nsd_downloads(subject, nsd.sessions, nsd.space, nsd.betas, nsd.stimuli)
        ]
        return list({download.name: download for download in files}.values())
    if nsd is not None:
        raise InvalidInputError(
            f"{entry.name} is fetched whole; leave out --subject, --sessions, --space, --betas and"
            " --stimuli"
        )
    if not entry.downloads:
        raise InvalidInputError(how_to_get(entry))
    chosen = next(iter(entry.downloads)) if variant is None else variant
    if chosen not in entry.downloads:
        raise InvalidInputError(
            f"--variant {variant!r}: {entry.name} has {', '.join(entry.downloads)}"
        )
    return [entry.downloads[chosen]]


def _check_existing(path: Path, download: Download, size: int | None) -> None:
    """Refuse a file of the same name that is another one; it is never overwritten."""
    if download.known_hash is not None:
        wrong = not hash_fits(path, download.known_hash)
    else:
        wrong = size is not None and size != path.stat().st_size
    if wrong:
        raise InvalidInputError(
            f"{path}: is there and is not the published file ({path.stat().st_size:,} bytes"
            + (f", on the server {size:,}" if size is not None else "")
            + "); move it away, then run the command again"
        )


def _check_space(found: Plan) -> None:
    """Refuse to start what the disk cannot hold: the files, and what archives unpack to."""
    needed = max(0, found.total - found.present)
    for download, size in zip(found.downloads, found.sizes, strict=True):
        if download.gives:
            # What an archive gives is hardly ever smaller than itself.
            needed += max(download.unpacked or 0, size or 0)
    check_free(found.target, needed, "the files")


# --- One file -----------------------------------------------------------------------------------


def _download(
    download: Download,
    target: Path,
    session: requests.Session,
    count: Callable[[int, str], None],
    say: Say,
) -> Path:
    pooch = pooch_package()
    path = target / download.name
    keeper = pooch.create(
        path=target, base_url="", registry={download.name: download.known_hash},
        urls={download.name: download.url},
    )  # fmt: skip
    downloader = Resuming(path, session, download.known_hash, count, say)
    return Path(keeper.fetch(download.name, downloader=downloader))


