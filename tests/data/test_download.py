"""Downloads, through torchvision, from a server on the loopback interface; and all the ways they can fail."""

import contextlib
import gzip
import hashlib
import http.server
import io
import os
import socket
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets

from lean_mnist.data import official
from lean_mnist.data.datasets import load_dataset
from lean_mnist.data.official import LAYOUTS
from lean_mnist.errors import DataError, DataUnavailable

WriteSet = Callable[..., tuple[np.ndarray, ...]]  # the fixture write_set of conftest.py


class Server:
    """Serves ``files``; a name in ``cut`` is sent only in half."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                content = owner.files.get(name)
                if content is None:
                    self.send_error(403)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(OSError):  # whoever only probed has hung up
                    self.wfile.write(content[: len(content) // 2] if name in owner.cut else content)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(loopback: None) -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def serve(server: Server, write_set: WriteSet, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> Any:
    """``serve(name)``: puts a small set on the server and points torchvision's class there."""

    def put(name: str) -> None:
        root = tmp_path_factory.mktemp("served")
        layout = LAYOUTS[name]
        write_set(root, name)
        packed = {f"{file}.gz": gzip.compress((root / layout.raw / file).read_bytes()) for file in layout.files}
        torchvision_class = getattr(torchvision.datasets, layout.folder)
        if name == "emnist-digits":
            archive = io.BytesIO()
            with zipfile.ZipFile(archive, "w") as file:
                for member, content in {
                    **packed,
                    "emnist-letters-train-labels-idx1-ubyte.gz": gzip.compress(b"?"),
                }.items():
                    file.writestr(f"gzip/{member}", content)
            server.files["gzip.zip"] = archive.getvalue()
            monkeypatch.setattr(torchvision_class, "url", f"{server.url}gzip.zip")
            monkeypatch.setattr(torchvision_class, "md5", md5(archive.getvalue()))
            return
        server.files.update(packed)
        if name == "qmnist":
            pairs = [(server.url + file, md5(content)) for file, content in packed.items()]
            monkeypatch.setattr(torchvision_class, "resources", {"train": pairs[:2], "test": pairs[2:]})
            return
        monkeypatch.setattr(torchvision_class, "resources", [(file, md5(content)) for file, content in packed.items()])
        monkeypatch.setattr(torchvision_class, "mirrors", [server.url])

    return put


@pytest.mark.parametrize("existing", [False, True], ids=["fresh folder", "folder in use"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_downloads_once_and_moves_finished_files_into_place(
    tmp_path: Path, serve: Any, server: Server, name: str, existing: bool
) -> None:
    serve(name)
    own, layout = tmp_path / "a" / "b", LAYOUTS[name]
    others = ["note.txt"] if existing else []
    if existing:
        (own / layout.raw).mkdir(parents=True)
        (own / layout.raw / "note.txt").write_text("mine")
    before = socket.getdefaulttimeout()
    first = load_dataset(name, own)
    assert socket.getdefaulttimeout() == before
    assert (len(first.train), len(first.test)) == (24, 12)
    assert [path.name for path in own.iterdir()] == [layout.folder]  # no temporary folder stays
    assert sorted(os.listdir(own / layout.raw)) == sorted([*layout.files, *others])
    server.files.clear()
    assert load_dataset(name, own).fingerprint() == first.fingerprint()


def expect_unavailable(name: str, own: Path) -> str:
    before = socket.getdefaulttimeout()
    with pytest.raises(DataUnavailable) as caught:
        load_dataset(name, own)
    assert socket.getdefaulttimeout() == before
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"Data set '{name}' not found")
    return message


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_file_that_fails_its_checksum(tmp_path: Path, serve: Any, server: Server, name: str) -> None:
    serve(name)
    last = list(server.files)[-1]
    server.files[last] = server.files[last][:-1] + b"!"
    assert "File not found or corrupted" in expect_unavailable(name, tmp_path / "own")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("existing", [False, True], ids=["fresh folder", "folder in use"])
def test_a_transfer_that_breaks_off_leaves_nothing(tmp_path: Path, serve: Any, server: Server, existing: bool) -> None:
    serve("mnist")
    server.cut = {"t10k-images-idx3-ubyte.gz"}
    if existing:
        (tmp_path / "own").mkdir()
    expect_unavailable("mnist", tmp_path / "own")
    assert [path.name for path in tmp_path.rglob("*")] == (["own"] if existing else [])
    server.cut = set()  # and a later run is not in its way
    assert len(load_dataset("mnist", tmp_path / "own").train) == 24


def test_an_interrupted_download_leaves_nothing(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    serve("mnist")

    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(official, "_move_into_place", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_dataset("mnist", tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert socket.getdefaulttimeout() is None


def test_a_server_that_falls_silent(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe succeeds, then a socket of the download waits in vain: the time limit on sockets ends it."""
    serve("mnist")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setattr(official, "STALL_SECONDS", 0.1)
        monkeypatch.setattr(official, "probe", lambda urls: None)
        mirror = f"http://127.0.0.1:{mute.getsockname()[1]}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [mirror])
        assert "timed out" in expect_unavailable("mnist", tmp_path / "own")
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_counts_as_no_answer(tmp_path: Path, serve: Any, server: Server) -> None:
    serve("mnist")
    server.files.clear()
    assert f"download failed (127.0.0.1:{server.http.server_port}: HTTP 403)" in expect_unavailable(
        "mnist", tmp_path / "own"
    )
    assert list(tmp_path.iterdir()) == []


def test_data_dir_that_cannot_be_made(tmp_path: Path, serve: Any) -> None:
    serve("mnist")
    (tmp_path / "file").write_text("")
    assert "Not a directory" in expect_unavailable("mnist", tmp_path / "file" / "own")


def test_no_space_left(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    serve("mnist")

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", full)
    assert "download failed ([Errno 28] No space left on device)" in expect_unavailable("mnist", tmp_path / "own")


def test_a_hanging_name_look_up_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*arguments: Any, **options: Any) -> None:
        release.wait(30)
        raise urllib.error.URLError("released")

    monkeypatch.setattr(urllib.request, "urlopen", hang)
    started = time.monotonic()
    try:
        with pytest.raises(official.DownloadError) as caught:
            official.probe(["http://one", "http://two"], seconds=0.1)
        assert time.monotonic() - started < 5
    finally:
        release.set()
    assert str(caught.value) == "one: no answer within 0.1 s, two: no answer within 0.1 s"


def test_one_answer_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(url: str, timeout: float) -> io.BytesIO:
        if url == "http://good":
            return io.BytesIO()
        raise urllib.error.URLError(OSError(101, "Network is unreachable"))

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    official.probe(["http://bad", "http://good"])
    with pytest.raises(official.DownloadError, match=r"^bad: Network is unreachable$"):
        official.probe(["http://bad"])


def test_candidate_urls_are_those_torchvision_would_use() -> None:
    for name, layout in LAYOUTS.items():
        urls = official.candidate_urls(getattr(torchvision.datasets, layout.folder))
        assert urls
        for url in urls:
            assert url.startswith("http")
            assert url.endswith("gzip.zip" if name == "emnist-digits" else f"{layout.files[0]}.gz")


def test_layouts_are_torchvisions(tmp_path: Path, write_set: WriteSet) -> None:
    """torchvision itself reads the small sets that these tests write, and means the same by them."""
    options = {"qmnist": ({"what": "train"}, {"what": "test10k"}), "emnist-digits": ({"split": "digits"},) * 2}
    for name, layout in LAYOUTS.items():
        write_set(tmp_path, name)
        ours = load_dataset(name, tmp_path)
        torchvision_class = getattr(torchvision.datasets, layout.folder)
        train_options, test_options = options.get(name, ({}, {}))
        for split, theirs in (
            (ours.train, torchvision_class(tmp_path, train=True, **train_options)),
            (ours.test, torchvision_class(tmp_path, train=False, **test_options)),
        ):
            images = theirs.data.transpose(1, 2) if layout.transposed else theirs.data
            labels = theirs.targets[:, 0] if name == "qmnist" else theirs.targets
            assert (split.images == images).all()
            assert (split.labels == labels).all()


def test_unavailable_is_a_data_error() -> None:
    assert issubclass(DataUnavailable, DataError)
