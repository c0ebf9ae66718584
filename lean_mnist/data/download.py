"""Downloading with torchvision's own classes (their mirrors, their checksums), so that failure is quick and clean.

The servers are first probed, in background threads with a bounded wait: a name look-up without a network can hang far
longer than any socket timeout. Only finished, verified files are moved to where later runs look.
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
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lean_mnist.data.layout import Layout

PROBE_SECONDS = 5.0  # how long to wait for the first server that answers
STALL_SECONDS = 10.0  # how long a running download may stand still

# Options of torchvision's class, one construction each, where it takes more than a plain one to bring all four files.
_CONSTRUCTIONS = {"QMNIST": [{"what": "train"}, {"what": "test"}], "EMNIST": [{"split": "digits"}]}
_FAILURES = (OSError, RuntimeError, EOFError, http.client.HTTPException, zipfile.BadZipFile, zlib.error)


class DownloadError(Exception):
    """The message says why, in one line without the data set's name."""


def download(layout: Layout, data_dir: Path) -> None:
    """Bring the four files of ``layout`` below ``data_dir``, which is made if need be.

    Raises :class:`DownloadError` if no server answers or the transfer, its checksum or writing fails. Whatever
    happens, ``data_dir`` then holds what it held before.
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
