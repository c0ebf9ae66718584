"""The wheel and the sdist: they hold the whole package, work from any folder, and the checker needs Python alone."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from lean_mnist import __version__
from tests.support.documents import ROOT

HEAVY = ("torch", "torchvision", "numpy", "scipy", "sklearn", "tensorboard", "tyro", "msgspec", "flint")


def run(*command: str, cwd: Path, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LEAN_MNIST_DATA")}
    done = subprocess.run(
        command, cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``*.whl``, ``*.tar.gz`` and the wheel unpacked in ``site``."""
    for name in ("setuptools", "wheel"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name} to build")
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    for name in ("setup.py", "setup.cfg", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "lean_mnist", source / "lean_mnist", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "setup.py", "-q", "sdist", "-d", str(folder), "bdist_wheel", "-d", str(folder), cwd=source)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder


def test_both_hold_every_file_of_the_package(built: Path) -> None:
    ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "lean_mnist").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    wheel = {str(path.relative_to(built / "site")) for path in (built / "site").rglob("*") if path.is_file()}
    assert ours - wheel == set()
    assert ours - names == set()
    assert {"setup.cfg", "README.md", "LICENSE"} <= names
    assert not {name.partition("/")[0] for name in wheel} - {"lean_mnist", f"lean_mnist-{__version__}.dist-info"}


def test_the_metadata_say_what_it_is(built: Path) -> None:
    (text,) = [path.read_text(encoding="utf-8") for path in (built / "site").glob("*.dist-info/METADATA")]
    assert f"\nVersion: {__version__}\n" in text
    assert "\nRequires-Python: >=3.10\n" in text
    assert "\nClassifier: Programming Language :: Python :: 3.14\n" in text
    assert "\nKeywords: " in text
    (entries,) = [path.read_text(encoding="utf-8") for path in (built / "site").glob("*.dist-info/entry_points.txt")]
    assert "lean-mnist = lean_mnist.__main__:" in entries


def test_a_run_from_an_empty_folder_and_its_certificate_by_python_alone(built: Path, tmp_path: Path) -> None:
    site = str(built / "site")
    where = run(sys.executable, "-c", "import lean_mnist; print(lean_mnist.__file__)", cwd=tmp_path, PYTHONPATH=site)
    assert where.startswith(site)
    train = ["-m", "lean_mnist", "train", "--dataset", "digits", "--epochs", "1", "--run-name", "a", "--quiet"]
    run(sys.executable, *train, cwd=tmp_path, PYTHONPATH=site)
    certificate = tmp_path / "runs" / "a" / "certificate.json"
    # -S: without site-packages, as in an environment where nothing is installed
    checked = run(
        sys.executable, "-S", "-m", "lean_mnist.generalization.checker", str(certificate), cwd=tmp_path, PYTHONPATH=site
    )
    assert "holds" in checked
    alone = shutil.copy(built / "site" / "lean_mnist" / "generalization" / "checker.py", tmp_path)
    again = run(sys.executable, "-I", "-S", str(alone), str(certificate), cwd=tmp_path)
    assert again.splitlines()[1:] == checked.splitlines()[1:]  # behind the line that says how long it took
    assert "holds" in again


def test_the_checker_imports_none_of_the_heavy_packages(tmp_path: Path) -> None:
    code = "import sys, json, lean_mnist.generalization.checker; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT)))
    assert [name for name in HEAVY if name in loaded] == []


def test_an_import_of_a_heavy_package_is_found(tmp_path: Path) -> None:
    code = "import sys, json, lean_mnist.nn; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT)))
    assert "torch" in loaded
