"""The named data sets: the four files of each (torchvision's layout), their official SHA-256, and their download.

Of the official hashes those are here that could be established. Downloads use torchvision's own classes (their mirrors,
their checksums); the servers are first probed, in background threads with a bounded wait, because a name look-up
without a network can hang far longer than any socket timeout.
"""

import contextlib
import http.client
import os
import queue
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lean_mnist.errors import DataError
from lean_mnist.reading.text import shown

PROBE_SECONDS = 5.0  # how long to wait for the first server that answers
STALL_SECONDS = 10.0  # how long a running download may stand still

# Options of torchvision's class, one construction each, where it takes more than a plain one to bring all four files.
_CONSTRUCTIONS = {"QMNIST": [{"what": "train"}, {"what": "test"}], "EMNIST": [{"split": "digits"}]}
_FAILURES = (OSError, RuntimeError, EOFError, http.client.HTTPException, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Layout:
    """The files of one data set, unpacked names; each may also lie there as ``NAME.gz``."""

    folder: str  # name of torchvision's class, which is also the name of the folder that holds ``raw``
    files: tuple[str, str, str, str]  # training images, training labels, test images, test labels
    transposed: bool = False  # images are stored column by column and have to be turned upright
    test_limit: int | None = None  # only the first so many examples of the test files are the test split
    class_names: tuple[str, ...] = ()  # one a class, where they are no digits

    @property
    def raw(self) -> str:
        """Folder of the raw files, below torchvision's root."""
        return f"{self.folder}/raw"


def _files(train: str, test: str, labels: str = "labels-idx1-ubyte") -> tuple[str, str, str, str]:
    images = "images-idx3-ubyte"
    return f"{train}-{images}", f"{train}-{labels}", f"{test}-{images}", f"{test}-{labels}"


_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

LAYOUTS: dict[str, Layout] = {
    "mnist": Layout("MNIST", _files("train", "t10k")),
    "fashion-mnist": Layout("FashionMNIST", _files("train", "t10k"), class_names=_CLOTHES),
    "kmnist": Layout("KMNIST", _files("train", "t10k"), class_names=tuple("おきすつなはまやれを")),
    # QMNIST's test file holds 60,000 digits. The first 10,000 are those of MNIST's test split, torchvision's "test10k".
    "qmnist": Layout("QMNIST", _files("qmnist-train", "qmnist-test", "labels-idx2-int"), test_limit=10_000),
    "emnist-digits": Layout("EMNIST", _files("emnist-digits-train", "emnist-digits-test"), transposed=True),
}

PARTS = ("training images", "training labels", "test images", "test labels")

#: SHA-256 of the unpacked IDX file of each of ``PARTS``; for ``digits`` of those that certificates write.
OFFICIAL_SHA256: dict[str, tuple[str, str, str, str]] = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "digits": (
        "5553194a2c3035ccdbcca666c6d57d689bcd30eb1008d89df7d2a420f3f99aca",
        "758ea24dda58850b7a23dc99bf34b7d9eb0e6b680563fbe5406b73b826d71243",
        "47b60a4cc7331c65fcc4f43274e67ae4228677489b5d49413fc3f0036656cfd6",
        "34128b0eac0fff7f74f52eea4c879f532d754c733fdf8ef29f74075e51a5611f",
    ),
}

#: ``Dataset.fingerprint`` of the same data, by which they are known without being hashed once more.
FINGERPRINTS: dict[str, str] = {
    "mnist": "7e7fce5ba8cc6f9049d0c4c721ac501da22392bcf8db7206c16808a2c0fe5c2e",
    "digits": "b373fc17e151bcecc231747e5c9e29d521be7b4f0cd22dde91150b2bdfa04113",
}


class Origin(Enum):
    """Provenance of data, as far as their content shows it."""

    OFFICIAL = "official"  # every example of both splits is that of the official files
    UNKNOWN = "unknown"


def locate(folder: Path, files: tuple[str, str, str, str]) -> list[Path] | None:
    """The four ``files`` in ``folder``, in the order of :attr:`Layout.files`; ``None`` if none of them is there.

    Where both an unpacked file and its ``.gz`` exist the unpacked one is taken, as torchvision does. Raises
    :class:`DataError` if some but not all are there, and if the system refuses to say what is there.
    """
    try:
        os.scandir(folder).close()
    except PermissionError as error:
        raise DataError(f"{shown(folder)}: expected a folder that can be read, found: {error.strerror}") from None
    except OSError:
        return None
    there = {name: path for name in files for path in (folder / f"{name}.gz", folder / name) if os.path.exists(path)}
    if not there:
        return None
    if len(there) < len(files):
        missing = shown(folder / next(name for name in files if name not in there))
        beside = f"expected beside {next(iter(there.values())).name}; found {len(there)} of 4 files"
        raise DataError(f"{missing}: missing (neither it nor its .gz is there), {beside}")
    return list(there.values())


class DownloadError(Exception):
    """The message says why, in one line without the data set's name."""


def download(layout: Layout, data_dir: Path) -> None:
    """Bring the four files of ``layout`` below ``data_dir``, which is made if need be.

    Raises :class:`DownloadError` if no server answers or the transfer, its checksum or writing fails; ``data_dir`` then
    holds what it held before.
    """
    import torchvision.datasets

    torchvision_class = getattr(torchvision.datasets, layout.folder)
    probe(candidate_urls(torchvision_class))
    made = not data_dir.exists()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=data_dir, prefix=".download-", ignore_cleanup_errors=True) as temporary,
            _socket_timeout(STALL_SECONDS),
        ):
            for options in _CONSTRUCTIONS.get(layout.folder, [{}]):
                torchvision_class(temporary, download=True, **options)
            _move_into_place(Path(temporary, layout.raw), data_dir / layout.raw, layout.files)
    except _FAILURES as error:
        if made:
            with contextlib.suppress(OSError):
                data_dir.rmdir()  # only if empty
        raise DownloadError(_one_line(error)) from error


def candidate_urls(torchvision_class: Any) -> list[str]:
    """One address per server from which ``torchvision_class`` would download; any that answers will do."""
    if "url" in vars(torchvision_class):  # EMNIST: a single archive, and mirrors inherited from MNIST that do not apply
        return [torchvision_class.url]
    resources = torchvision_class.resources
    if isinstance(resources, dict):  # QMNIST: whole addresses
        return [resources["train"][0][0]]
    return [mirror + resources[0][0] for mirror in torchvision_class.mirrors]


def probe(urls: list[str], seconds: float = PROBE_SECONDS) -> None:
    """Return as soon as one of ``urls`` answers; raise :class:`DownloadError` after at most ``seconds`` if none does.

    A refusal (HTTP 403 from a proxy, say) counts as no answer: the download would meet it too.
    """
    answers: queue.Queue[tuple[str, str | None]] = queue.Queue()

    def ask(url: str) -> None:
        try:
            with urllib.request.urlopen(url, timeout=seconds):
                answers.put((url, None))
        except Exception as error:  # whatever it is, this thread must report it: the caller counts the answers
            answers.put((url, _one_line(error)))

    for url in urls:
        threading.Thread(target=ask, args=(url,), daemon=True, name=f"probe {url}").start()
    deadline = time.monotonic() + seconds
    silent = dict.fromkeys(urls, f"no answer within {seconds:g} s")
    for _ in urls:
        try:
            url, fault = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if fault is None:
            return
        silent[url] = fault
    raise DownloadError(", ".join(f"{urlsplit(url).netloc}: {fault}" for url, fault in silent.items()))


def _move_into_place(source: Path, target: Path, files: tuple[str, ...]) -> None:
    """Move the unpacked ``files``, and nothing else, from ``source`` to ``target``: at one stroke if possible."""
    for path in source.iterdir():
        if path.name not in files:
            path.unlink()  # the packed originals, and EMNIST's other splits
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(source, target)  # all four appear at once
    except OSError:  # the folder exists and holds something else, so one by one
        for name in files:
            os.replace(source / name, target / name)


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision opens its connections without a timeout: give them one, and take it back afterwards."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _one_line(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()  # it holds the connection open
        return f"HTTP {error.code}"
    reason: object = error
    if isinstance(error, urllib.error.URLError):
        reason = error.reason.strerror or error.reason if isinstance(error.reason, OSError) else error.reason
    return " ".join(str(reason).split()) or type(error).__name__
