"""TensorBoard in a real browser: every page has what it promises, and a page with nothing on it is found out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from lean_mnist.training.sinks.dashboard import LAYOUT
from tests.support.browser import PAGES, Dashboard, EmptyPage, chromium, opened
from tests.support.faults.events import records_of
from tests.support.training_cases import digits_run

pytestmark = pytest.mark.skipif(chromium() is None, reason="the extra browser (playwright) or chromium is missing")

RUNS = {"plain": {}, "small": {"hidden": (16,), "lr": 0.02}}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short runs of different settings."""
    root = tmp_path_factory.mktemp("logs")
    for name, changes in RUNS.items():
        digits_run(root, epochs=6, run_name=name, check="full", check_every=10, log_every=5, **changes)
    return root / "runs"


@pytest.fixture(scope="module")
def playwright() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as found:
        yield found


@pytest.fixture(scope="module")
def dashboard(playwright: Any, logs: Path) -> Iterator[Dashboard]:
    with opened(playwright, logs) as found:
        yield found


def test_it_opens_with_the_loss_and_draws_every_chart_histogram_and_picture(dashboard: Dashboard, logs: Path) -> None:
    shown = dashboard.time_series()
    assert shown[:3] == [
        "1 overview/1 training loss", "1 overview/2 validation loss", "1 overview/3 validation accuracy"
    ]  # fmt: skip
    written: set[str] = set()
    for name in RUNS:
        tags = EventAccumulator(str(logs / name)).Reload().Tags()
        written |= {*tags["scalars"], *tags["images"], *tags["histograms"]}
    assert set(shown) == written


def test_scalars_begin_with_the_overview(dashboard: Dashboard) -> None:
    assert dashboard.scalars()[0].endswith("1 training loss")


def test_custom_scalars_show_the_whole_layout(dashboard: Dashboard) -> None:
    assert set(dashboard.custom_scalars()) == {title for charts in LAYOUT.values() for title in charts}


def test_pictures(dashboard: Dashboard) -> None:
    shown = dashboard.images()
    for name in ("confusion", "first layer weights", "least certain", "misread"):
        assert any(title.startswith(f"5 pictures/{name}") for title in shown)


def test_histograms_of_the_layers(dashboard: Dashboard) -> None:
    assert {title.partition(" plain")[0].partition(" small")[0] for title in dashboard.histograms()} >= {
        f"2 layer 0/{tensor} {what}" for tensor in ("weight", "bias") for what in ("values", "gradients")
    }


def test_a_curve_of_precision_and_recall_for_each_class(dashboard: Dashboard) -> None:
    assert dashboard.pr_curves() == [f"precision_recall/{number}" for number in range(10)]


def test_certificate_and_model_are_told_in_words(dashboard: Dashboard) -> None:
    texts = " ".join(dashboard.text())
    assert "certified error at most" in texts
    assert "misreads at most" in texts


def test_runs_are_compared_by_what_differs_and_by_what_is_certified(dashboard: Dashboard) -> None:
    cells = dashboard.hparams()
    head = cells[: cells.index("plain")]
    assert {"hidden", "lr", "optimizer", "certified error", "test accuracy"} <= set(head)
    assert head.index("optimizer") < head.index("certified error") < head.index("test accuracy")
    assert {"[128]", "[16]", "0.10000", "0.020000", "sgd"} <= set(cells)


def test_the_hidden_layer_is_a_cloud_of_pictures(dashboard: Dashboard) -> None:
    words = dashboard.projector()
    assert "last_hidden_layer" in words
    assert {"360x128", "360x16"} & set(words)


# -- a log with nothing in it ---------------------------------------------------------------------------------------


def emptied(logs: Path, into: Path, *tags: str) -> Path:
    """A copy of a run whose events have none of these tags; nothing but the layout if no tag is given."""
    shutil.copytree(logs / "plain", into / "plain")
    for path in (into / "plain").iterdir():
        if not path.name.startswith("events."):
            path.unlink()
            continue
        kept = [_without(record, tags) for record in records_of(path) if record]
        with path.open("wb") as file:
            writer = RecordWriter(file)
            for record in kept:
                writer.write(record)
    return into


def _without(record: bytes, tags: tuple[str, ...]) -> bytes:
    """The event without the values of these tags, without all but the layout if there are none."""
    event = Event.FromString(record)
    for value in [value for value in event.summary.value if value.tag != "custom_scalars__config__"]:
        if not tags or value.tag in tags:
            event.summary.value.remove(value)
    found: bytes = event.SerializeToString()
    return found


def test_an_empty_page_is_found_out(playwright: Any, logs: Path, tmp_path: Path) -> None:
    with opened(playwright, emptied(logs, tmp_path), patience=3) as dashboard:
        for page in PAGES:
            with pytest.raises(EmptyPage):
                getattr(dashboard, page)()


def test_a_single_empty_chart_is_named(playwright: Any, logs: Path, tmp_path: Path) -> None:
    log = emptied(logs, tmp_path, "1 overview/7 examples per second")
    with (
        opened(playwright, log, patience=5) as dashboard,
        pytest.raises(EmptyPage, match="examples per second: nothing is drawn"),
    ):
        dashboard.custom_scalars()
