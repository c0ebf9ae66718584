"""Pictures of the dashboard for the documentation: three runs on MNIST, TensorBoard, and a headless Chromium.

    python -m benchmarks.screenshots [--into docs] [--runs FOLDER]

The first run is the default one; the others differ in what *HParams* compares. ``--runs`` shows runs that are there.
Needs the extra ``browser`` and Chromium.
"""

import argparse
import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.browser import Dashboard, chromium, opened

RUNS = {
    "default": [],
    "half-the-rate": ["--lr", "0.05", "--epochs", "10"],
    "small": ["--hidden", "32", "--epochs", "10"],
    "adam": ["--optimizer", "adam", "--epochs", "10"],
}
SIZE = (1440, 1080)


def main() -> None:
    """Make the runs if need be, and a picture of each page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=Path("docs"))
    parser.add_argument("--runs", type=Path)
    options = parser.parse_args()
    if chromium() is None:
        sys.exit("error: expected playwright (the extra browser) and chromium on PATH")
    from playwright.sync_api import sync_playwright

    options.into.mkdir(parents=True, exist_ok=True)
    with _runs(options.runs) as runs, tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        alone = Path(folder, "runs")
        shutil.copytree(runs / "default", alone / "default")
        for logs, pictures in ((alone, OF_ONE_RUN), (runs, OF_ALL_RUNS)):
            with opened(playwright, logs, size=SIZE, scale=1.25) as dashboard:
                for name, show in pictures.items():
                    path = options.into / f"dashboard{name and f'-{name}'}.png"
                    show(dashboard)
                    dashboard.to_the_top()
                    _save(dashboard.page.screenshot(), path)
                    print(f"written {path}, {path.stat().st_size // 1000} kB")


@contextlib.contextmanager
def _runs(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, more in RUNS.items():
            command = [sys.executable, "-m", "lean_mnist.train", "--dataset", "mnist", "--quiet", "--run-name", name]
            where = ["--runs-dir", f"{folder}/runs", "--checkpoints-dir", f"{folder}/checkpoints"]
            subprocess.run([*command, *where, *more], check=True)
        yield Path(folder, "runs")


def _save(screenshot: bytes, path: Path) -> None:
    """With 256 colours, which are enough for a page, a file is a third as large."""
    from PIL import Image

    with Image.open(io.BytesIO(screenshot)) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _overview(dashboard: Dashboard) -> None:
    dashboard.time_series(sections=1)
    dashboard.page.get_by_role(
        "button", name="Settings"
    ).last.click()  # closes their panel, so that charts have its place


def _hparams(dashboard: Dashboard) -> None:
    dashboard.page.set_viewport_size({"width": 1960, "height": 560})  # a wide table of few rows
    dashboard.hparams()


OF_ONE_RUN: dict[str, Callable[[Dashboard], Any]] = {
    "": _overview,
    "custom-scalars": Dashboard.custom_scalars,
    "images": Dashboard.images,
    "histograms": Dashboard.histograms,
    "precision-recall": Dashboard.pr_curves,
    "projector": Dashboard.projector,
    "text": Dashboard.text,
}
OF_ALL_RUNS: dict[str, Callable[[Dashboard], Any]] = {"hparams": _hparams}


if __name__ == "__main__":
    main()
