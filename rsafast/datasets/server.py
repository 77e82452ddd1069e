"""A server that gives files: their sizes, and downloads that go on where they stopped."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsafast_kernels.atomic import write_text

from rsafast.datasets.catalogue.entries import Download
from rsafast.errors import BackendUnavailableError, InvalidInputError

if TYPE_CHECKING:
    import requests

_BLOCK = 1 << 20
_TIMEOUT = (20, 60)  # seconds to connect, and without a byte
_ATTEMPTS = 5  # in a row without a byte
_PAUSE = 1.0  # seconds before the second attempt; doubled at each further one
_TEMPORARY = (408, 429, 500, 502, 503, 504)  # answers of a server that is busy
_ABSENT = (403, 404, 410)  # S3 answers 403 for files that are not there

Say = Callable[[str], None]


def pooch_package() -> Any:
    """Import pooch.

    Raises
    ------
    BackendUnavailableError
        Where it is not installed.
    """
    try:
        import pooch
    except ImportError:
        raise BackendUnavailableError(
            'fetching needs pooch, which is not installed here: pip install "rsafast[data]"'
        ) from None
    pooch.get_logger().setLevel("WARNING")
    return pooch


@contextmanager
def open_session() -> Iterator[requests.Session]:
    """Connections that serve for many files."""
    import requests

    with requests.Session() as session:
        # The bytes as they lie on the server: some servers label .tar.gz as compressed text.
        session.headers["Accept-Encoding"] = "identity"
        yield session


def ask(session: requests.Session, download: Download) -> tuple[bool, int | None]:
    """Whether the server has a file, and its bytes.

    One byte is asked for, as addresses that redirect to signed ones often answer no HEAD.
    """
    import requests

    try:
        headers = {"Range": "bytes=0-0"}
        with session.get(download.url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code in _ABSENT and not download.needed:
                return False, None
            if response.status_code not in (200, 206):
                raise _refused(download.url, response)
            total = _range_of(response)[1] if response.status_code == 206 else _length(response)
            return True, total
    except requests.RequestException as error:
        raise BackendUnavailableError(
            f"{download.url}: the server cannot be reached ({_reason(error)}); check the"
            " connection, then run the command again"
        ) from None


def _refused(url: str, response: requests.Response) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"{url}: the server answers {response.status_code} {response.reason}; if it goes on doing"
        " so, the file has moved: `rsafast data list` names the source"
    )


def _length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _range_of(response: requests.Response) -> tuple[int | None, int | None]:
    """First byte of a partial answer, and the size of the whole file."""
    text = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text.strip())
    if match is None:
        return None, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _reason(error: Exception) -> str:
    """The innermost cause: requests wraps it several times."""
    inner = error.args[0] if error.args else error
    return str(getattr(inner, "reason", inner))


@dataclass(frozen=True, slots=True)
class Resuming:
    """A downloader for pooch that goes on with a partial file.

    The partial file lies beside the target as ``NAME.part``; ``NAME.part.json`` says of which
    version of which address it is a part. A server that ignores Range, or holds another version by
    now, makes it start again.

    Attributes
    ----------
    path : of the file that will be there in the end.
    session : of requests; known_hash : as pooch writes it, or None.
    count : called with bytes and the name of the file; say : called with messages.
    """

    path: Path
    session: requests.Session
    known_hash: str | None = None
    count: Callable[[int, str], None] = lambda _bytes, _name: None
    say: Say = lambda _: None

    @property
    def part(self) -> Path:
        """The partial file."""
        return part_of(self.path)

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        """Download `url`, check it, and move it to `output_file`."""
        # pooch made an empty file of a random name, which a kill would leave behind.
        Path(output_file).unlink(missing_ok=True)
        self._complete(url)
        if self.known_hash is not None and not hash_fits(self.part, self.known_hash):
            raise self._set_aside()
        os.replace(self.part, output_file)
        _state(self.part).unlink(missing_ok=True)

    def _complete(self, url: str) -> None:
        """Stream until everything is there, through interruptions that let some bytes pass."""
        import requests
        import urllib3

        idle = 0
        while True:
            before = size_of(self.part)
            try:
                if self._stream(url):
                    return
                reason = "the connection was cut"
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                reason = _reason(error)
            idle = 0 if size_of(self.part) > before else idle + 1
            if idle == _ATTEMPTS:
                raise BackendUnavailableError(
                    f"{url}: {reason}, {_ATTEMPTS} times without a new byte;"
                    f" {size_of(self.part):,} bytes are kept in {self.part}, and the same command"
                    " goes on with them"
                )
            time.sleep(_PAUSE * 2 ** (idle - 1) if idle else 0)

    def _stream(self, url: str) -> bool:
        """Make one request; whether the file is complete now."""
        import requests

        have, known = self._begun(url)
        if have and have == known.get("size"):
            return True
        headers = {}
        if have:
            headers["Range"] = f"bytes={have}-"
            if known.get("version"):
                headers["If-Range"] = known["version"]
        with self.session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code in _TEMPORARY:
                raise requests.RequestException(f"the server answers {response.status_code}")
            if have and (
                response.status_code == 416
                or (response.status_code == 206 and _range_of(response) != (have, known["size"]))
            ):
                self._start_again("the file on the server is another one by now")
                return False
            if response.status_code not in (200, 206):
                raise _refused(url, response)
            if response.status_code == 200:
                if have:
                    self._start_again("the server sends the file from its beginning")
                known = {"url": url, "size": _length(response), "version": _version(response)}
                write_text(_state(self.part), json.dumps(known))
            self._append(response)
        if known["size"] is not None and size_of(self.part) > known["size"]:
            self._start_again("more bytes came than announced")
            return False
        return known["size"] in (None, size_of(self.part))

    def _begun(self, url: str) -> tuple[int, dict[str, Any]]:
        """Bytes of the partial file and what they are part of; nothing of an unknown one."""
        have = size_of(self.part)
        if not have:
            return 0, {}
        try:
            known = json.loads(_state(self.part).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        size = known.get("size")
        if known.get("url") == url and size is not None and have <= size:
            return have, known
        self._start_again("which file it is a part of cannot be told")
        return 0, {}

    def _append(self, response: requests.Response) -> None:
        try:
            with self.part.open("ab") as file:
                # Raw, so that nothing is decoded on the way. What fails on the way in is raised as
                # an HTTPError of urllib3, so an OSError is the disk's.
                for block in response.raw.stream(_BLOCK, decode_content=False):
                    file.write(block)
                    self._count(len(block))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InvalidInputError(
                f"{self.part}: cannot be written ({error.strerror}); what came is kept. Make room,"
                " and the same command goes on with it"
            ) from None

    def _start_again(self, why: str) -> None:
        have = size_of(self.part)
        self._count(-have)
        self.say(f"{self.part}: {why}; its {have:,} bytes are dropped, and it starts again")
        self.part.unlink()
        _state(self.part).unlink(missing_ok=True)

    def _count(self, number: int) -> None:
        self.count(number, self.path.name)

    def _set_aside(self) -> InvalidInputError:
        """Keep a file with a wrong checksum under a name that nothing reads."""
        names = (f"{self.path.name}.wrong-checksum{i or ''}" for i in range(10**6))
        aside = next(p for name in names if not (p := self.path.with_name(name)).exists())
        algorithm = _algorithm(self.known_hash or "")[0]
        found = pooch_package().file_hash(str(self.part), alg=algorithm)
        os.replace(self.part, aside)
        _state(self.part).unlink(missing_ok=True)
        return InvalidInputError(
            f"{self.path}: came with the checksum {algorithm}:{found}, published is"
            f" {self.known_hash}; what came is kept as {aside.name}. Run the command again; if it"
            " ends the same way, the file on the server has changed"
        )


def part_of(path: Path) -> Path:
    """The partial file of a download."""
    return path.with_name(f"{path.name}.part")


def _state(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _version(response: requests.Response) -> str | None:
    """What tells one version of a file from the next: a strong ETag, else the date."""
    etag = response.headers.get("ETag", "")
    if etag.startswith('"'):
        return etag
    return response.headers.get("Last-Modified")


def _algorithm(known_hash: str) -> tuple[str, str]:
    algorithm, _, digest = known_hash.partition(":")
    return algorithm, digest


def hash_fits(path: Path, known_hash: str) -> bool:
    """Whether a file has the published checksum, such as "md5:..."."""
    algorithm, digest = _algorithm(known_hash)
    return bool(pooch_package().file_hash(str(path), alg=algorithm) == digest.lower())
