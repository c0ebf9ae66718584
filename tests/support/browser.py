"""TensorBoard as a person sees it: the real program, opened by a headless Chromium, page by page."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

_OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
# TensorBoard's elements have their words in shadow roots, which ``innerText`` leaves out.
_DEEP_TEXT = """element => {
  const words = [];
  const walk = node => {
    if (node.nodeType === Node.TEXT_NODE && node.textContent.trim()) words.push(node.textContent.trim());
    if (node.shadowRoot) walk(node.shadowRoot);
    for (const child of node.childNodes) if (!["STYLE", "SCRIPT"].includes(child.nodeName)) walk(child);
  };
  walk(element);
  return words.join("\\n");
}"""
_SCROLL_BACK = """() => {
  const walk = node => {
    node.scrollTop = 0;
    for (const child of [...(node.shadowRoot?.children ?? []), ...node.children]) walk(child);
  };
  walk(document.documentElement);
}"""
_SECONDS = 60.0  # to wait for whatever has to appear, on a busy machine


class EmptyPage(AssertionError):
    """A page on which nothing is drawn where something should be."""


def chromium() -> str | None:
    """The program, if Playwright is there to steer it."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return found if importlib.util.find_spec("playwright") else None


@contextlib.contextmanager
def tensorboard(logs: Path) -> Iterator[str]:
    """The address of a TensorBoard of its own that shows ``logs``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logs.name, "--host", "127.0.0.1"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": logs.parent}
    program = subprocess.Popen([*command, "--port", str(port)], **quiet)  # in that folder, because pages show the path
    try:
        address = f"http://127.0.0.1:{port}"
        _until(lambda: _answers(address), f"{address}: no answer")
        yield address
    finally:
        program.terminate()
        program.wait()


def _answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/data/environment", timeout=5):
        return True
    return False


def _until(
    done: Callable[[], Any], otherwise: str, seconds: float = _SECONDS, pause: Callable[[float], Any] = time.sleep
) -> None:
    """Wait for ``done``; raises ``EmptyPage`` where it does not come about."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise EmptyPage(otherwise)
        pause(0.25)


def colours(picture: bytes) -> int:
    """Pixels of a PNG that are not grey: those of lines, bars and areas, and none of axes, grids and texts."""
    pixels = np.asarray(PIL.Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    return int(((pixels.max(2) - pixels.min(2)) > 24).sum())


def shades(picture: bytes) -> int:
    """Different colours of a PNG."""
    pixels = np.asarray(PIL.Image.open(io.BytesIO(picture)).convert("RGB")).reshape(-1, 3)
    return len(np.unique(pixels, axis=0))


def ink(picture: bytes) -> int:
    """Dark pixels of a PNG."""
    return int((np.asarray(PIL.Image.open(io.BytesIO(picture)).convert("L")) < 128).sum())


@contextlib.contextmanager
def opened(
    playwright: Any, logs: Path, *, patience: float = _SECONDS, size: tuple[int, int] = (1440, 900), scale: float = 1
) -> Iterator[Dashboard]:
    """The pages of a TensorBoard that shows ``logs``; ``scale`` device pixels are one of the page."""
    with tensorboard(logs) as address:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(_OPTIONS))
        try:
            page = browser.new_page(viewport={"width": size[0], "height": size[1]}, device_scale_factor=scale)
            yield Dashboard(address, page, patience)
        finally:
            browser.close()


class Dashboard:
    """Pages of the TensorBoard at ``address``.

    Each method opens one, sees that something is drawn on every chart that it shows there, and returns their titles.
    It raises ``EmptyPage``, with the chart's title, where nothing is within ``patience`` seconds.
    """

    def __init__(self, address: str, page: Any, patience: float) -> None:
        self._address, self.page, self._patience = address, page, patience

    def _until(self, done: Callable[[], Any], otherwise: str, seconds: float | None = None) -> None:
        # Playwright hears of what happens in the browser while it waits, and not while Python sleeps.
        _until(done, otherwise, self._patience if seconds is None else seconds, self.pause)

    def pause(self, seconds: float) -> None:
        """Let the browser work."""
        self.page.wait_for_timeout(1000 * seconds)

    def to_the_top(self) -> None:
        """Scroll everything back, and wait until nothing moves."""
        self.page.evaluate(_SCROLL_BACK)
        self.pause(2)

    def open(self, name: str) -> None:
        """Go to a page as if from nowhere."""
        self.page.goto("about:blank")
        self.page.goto(f"{self._address}/{f'#{name}' if name else ''}")

    def _there(self, selector: str) -> list[Any]:
        self._until(lambda: self.page.locator(selector).count(), f"{selector}: there is none")
        found: list[Any] = self.page.locator(selector).all()
        return found

    def _drawn(self, card: Any, name: str, plot: str, least: int, measure: Callable[[bytes], int]) -> str:
        """See that ``plot`` of a card has ``least`` by ``measure``."""

        def done() -> bool:
            card.scroll_into_view_if_needed()
            return card.locator(plot).count() and measure(card.locator(plot).first.screenshot()) >= least

        self._until(done, f"{name}: nothing is drawn")
        return name

    def _cards(self, cards: str, plot: str, least: int, measure: Callable[[bytes], int] = colours) -> list[str]:
        return [
            self._drawn(card, self._words(card).split("\n")[0], plot, least, measure) for card in self._there(cards)
        ]

    def _words(self, card: Any) -> str:
        """The words on a card, which come some time after it."""
        card.scroll_into_view_if_needed()
        self._until(lambda: card.evaluate(_DEEP_TEXT), "a card without words")
        words: str = card.evaluate(_DEEP_TEXT)
        return words

    def time_series(self, sections: int = 99) -> list[str]:
        """The page that TensorBoard opens with: tags in the order of the page, of its first ``sections``."""
        self.open("")
        names = []
        self._there("metrics-card-group-toolbar")
        for group in self.page.locator(".card-group:has(metrics-card-group-toolbar)").all()[:sections]:
            if not group.locator("card-view").count():
                group.locator("metrics-card-group-toolbar button").first.click()
            while True:
                self._until(lambda group=group: group.locator("card-view").count(), "a section is empty")  # type: ignore[misc]
                for card in group.locator("card-view").all():
                    card.scroll_into_view_if_needed()
                    title = card.locator("tb-truncated-path").first.get_attribute(
                        "title", timeout=1000 * self._patience
                    )
                    names.append(title)
                    self._drawn(card, title, "line-chart, tb-histogram, img", 12, colours)
                further = group.locator("button.next:not([disabled])")
                if not further.count():
                    break
                further.first.click()
        return names

    def scalars(self) -> list[str]:
        """The charts of the sections that are open."""
        self.open("scalars")
        return self._cards("tf-scalar-card", "vz-line-chart2", 12)

    def custom_scalars(self) -> list[str]:
        """Charts of the layout, all of them."""
        self.open("custom_scalars")
        kinds = ("multi-line", "margin")
        return self._cards(", ".join(f"tf-custom-scalar-{kind}-chart-card" for kind in kinds), "vz-line-chart2", 12)

    def images(self) -> list[str]:
        """The pictures of the first page."""
        self.open("images")
        return self._cards("tf-image-loader", "img", 10, shades)

    def histograms(self) -> list[str]:
        """The distributions of the sections that are open."""
        self.open("histograms")
        return self._cards("tf-histogram-loader", "vz-histogram-timeseries", 50)

    def pr_curves(self) -> list[str]:
        """A curve for each class."""
        self.open("pr_curves")
        return self._cards("tf-pr-curve-card", "vz-line-chart2", 100)

    def text(self) -> list[str]:
        """Texts of the sections that are open."""
        self.open("text")
        texts = [self._words(loader) for loader in self._there("tf-text-loader:has(tf-markdown-view)")]
        for words in texts:
            if len(words.split()) < 5:
                raise EmptyPage(f"{words}: no text")
        return texts

    def hparams(self) -> list[str]:
        """The cells of the table, row by row, the heads first."""
        self.open("hparams")
        self._there("tf-hparams-table-view vaadin-grid-cell-content")
        self.pause(1)  # rows are filled in one by one
        cells = self.page.locator("tf-hparams-table-view vaadin-grid-cell-content").all()
        return [text for cell in cells if cell.is_visible() and (text := cell.inner_text().strip())]

    def projector(self) -> list[str]:
        """The words beside the cloud of points, which are drawn by WebGL."""

        def frame() -> Any:
            found = [frame for frame in self.page.frames if "projector_binary" in frame.url]
            loaded = found and re.search(r"\d+x\d+", found[0].locator("body").evaluate(_DEEP_TEXT))
            return found[0] if loaded else None

        cloud = {"x": 330, "y": 180, "width": 780, "height": 660}  # between the panels
        end = time.monotonic() + self._patience
        while time.monotonic() < end:
            self.open("projector")  # of a server that was just started the page is not there yet
            with contextlib.suppress(EmptyPage):
                self._until(frame, "projector: no points", min(20, self._patience))
                self._until(lambda: ink(self.page.screenshot(clip=cloud)) > 2000, "projector: no points")
                words: list[str] = frame().locator("body").evaluate(_DEEP_TEXT).split("\n")
                return words
        raise EmptyPage("projector: no points are drawn")


PAGES = (
    "time_series", "scalars", "custom_scalars", "images", "histograms", "pr_curves", "text", "hparams", "projector",
)  # fmt: skip
