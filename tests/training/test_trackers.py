"""MLflow and Weights & Biases, by the real packages, in a folder and offline."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lean_mnist import train
from lean_mnist.errors import ConfigError
from lean_mnist.training.arguments import read_arguments
from lean_mnist.training.run import run
from lean_mnist.training.sinks.records import Scalar
from lean_mnist.training.sinks.trackers import FILE, MlflowSink, open_trackers, require_trackers
from tests.support.training_cases import NAME, FinishedRun, call, digits_config, digits_run, interrupted_at

OPTIONS = {"epochs": 2, "log_every": 5, "track_test": True}
mlflow = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="the extra mlflow is missing")
wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the extra wandb is missing")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server, no account."""
    for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def scalars(finished: FinishedRun) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of each number in ``metrics.jsonl``."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in finished.records:
        if isinstance(record["value"], (int, float)):
            found.setdefault(record["name"], []).append((record["step"], float(record["value"])))
    return found


def in_mlflow(root: Path) -> tuple[Any, dict[str, list[tuple[int, float]]]]:
    """The only run of the store in a folder, and steps and values of each of its numbers."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(root / "store").as_uri())
    experiment = client.get_experiment_by_name("lean_mnist")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    history = {key: client.get_metric_history(found.info.run_id, key) for key in found.data.metrics}
    return found, {key: [(m.step, m.value) for m in metrics] for key, metrics in history.items()}


@mlflow
def test_mlflow_has_the_numbers_texts_and_options_of_a_run(tmp_path: Path) -> None:
    finished = digits_run(tmp_path, **OPTIONS, mlflow="store")
    found, numbers = in_mlflow(tmp_path)
    expected = scalars(finished)
    assert numbers == expected
    assert len(expected["train/loss"]) > 3
    assert "certificate/clopper_pearson_risk_7_in_200" in expected
    assert (found.info.run_name, found.info.status) == (NAME, "FINISHED")
    assert found.data.params["batch_size"] == "128"
    texts = {
        str(path.relative_to(tmp_path)).partition("artifacts/")[2] for path in tmp_path.glob("store/*/*/artifacts/**/*")
    }
    assert {"certificate/statement/22.md", "run/configuration/0.md", "outcome.json"} <= texts


@mlflow
def test_a_run_that_is_resumed_goes_on_in_mlflow_and_has_nothing_twice(here: Path) -> None:
    interrupted_at(13, lambda: run(digits_config(**OPTIONS, mlflow="store")))
    before, _ = in_mlflow(here)
    config, resume = read_arguments(["--resume", NAME, "--mlflow", "store", "--quiet"])
    finished = FinishedRun(here, run(config, resume))
    after, numbers = in_mlflow(here)
    assert after.info.run_id == before.info.run_id
    assert numbers == scalars(finished)


@mlflow
def test_what_a_killed_session_sent_is_not_sent_again(here: Path) -> None:
    folder = here / "run"
    folder.mkdir()
    config = digits_config(mlflow="store")
    (sink,) = open_trackers(config, folder, fresh=True)
    for step in (1, 2, 3):
        sink.write(Scalar(step, "x", float(step)))
    sink.flush()
    (again,) = open_trackers(config, folder, fresh=False)  # of a checkpoint at step 1
    for step in (2, 3, 4):
        again.write(Scalar(step, "x", float(step)))
    again.close()
    assert in_mlflow(here)[1] == {"x": [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]}


@mlflow
def test_a_tracker_that_fails_stops_no_run_and_is_told_of_once(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(sink: MlflowSink, records: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(MlflowSink, "_send", fail)
    finished = digits_run(here, **OPTIONS, mlflow="store")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["warning: Mlflow: no route to host; the run goes on, with all records in metrics.jsonl"]
    assert finished.summary_json["finished"]


@mlflow
def test_what_was_sent_before_a_failure_is_not_sent_again_however_often_it_fails(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    (folder := here / "run").mkdir()
    (sink,) = open_trackers(digits_config(mlflow="store"), folder, fresh=True)
    log, failing = MlflowClient.log_batch, False

    def sent_in_part(client: Any, *arguments: Any) -> None:
        log(client, *arguments)
        if failing:
            raise OSError("no answer")

    monkeypatch.setattr(MlflowClient, "log_batch", sent_in_part)
    for step in range(1, 7):
        sink.write(Scalar(step, "x", float(step)))
        failing = step in (1, 2, 4, 5)
        sink.flush()
    assert in_mlflow(here)[1] == {"x": [(step, float(step)) for step in range(1, 7)]}


@wandb
def test_wandb_has_the_numbers_of_a_run_and_goes_on_under_its_name(here: Path) -> None:
    interrupted_at(13, lambda: run(digits_config(**OPTIONS, wandb="offline")))
    config, resume = read_arguments(["--resume", NAME, "--wandb", "offline", "--quiet"])
    finished = FinishedRun(here, run(config, resume))
    name = json.loads((finished.folder / FILE).read_text())["wandb"]
    sessions = sorted((finished.folder / "wandb").glob(f"offline-run-*-{name}"))
    assert len(sessions) in (1, 2)  # both may begin in one second
    numbers: dict[str, list[tuple[int, float]]] = {}
    for path in (finished.folder / "wandb").glob(f"offline-run-*/run-{name}.wandb"):
        for key, pairs in in_wandb(path).items():
            numbers[key] = sorted([*numbers.get(key, []), *pairs])
    assert numbers == scalars(finished)


def in_wandb(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of each number in a file of an offline run."""
    proto: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    found: dict[str, list[tuple[int, float]]] = {}
    for data in log_records(path.read_bytes()[7:]):
        record = proto.Record.FromString(data)
        items = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for key, value in items.items():
            if not key.startswith("_") and isinstance(value, (int, float)):
                found.setdefault(key, []).append((items["_step"], float(value)))
    return found


def log_records(content: bytes) -> Iterator[bytes]:
    """Records of a log in LevelDB's format: blocks of 32 kB, of which the first lacks a header of 7 bytes."""
    place, parts = 0, b""
    while place + 7 <= len(content):
        left = 32768 - (place + 7) % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


@pytest.mark.parametrize(("name", "value"), [("mlflow", "store"), ("wandb", "offline")])
def test_a_missing_package_is_one_line_before_anything_is_written(
    name: str, value: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == name else find(wanted))
    result = call(train.main, ["--dataset", "digits", f"--{name}", value], monkeypatch, capsys)
    assert result.status == 2
    assert result.err.startswith(f"error: --{name} {value}: expected the package {name}; to have it: ")
    assert len(result.err.splitlines()) == 1
    assert not list(here.iterdir())
    require_trackers(digits_config())  # nothing is asked for


@mlflow
@pytest.mark.parametrize("content", ["[]", '{"mlflow": "../x"}', '{"mlflow": 3}', "{"])
def test_names_that_no_run_wrote_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ConfigError, match=FILE):
        list(open_trackers(digits_config(mlflow=str(tmp_path / "store")), tmp_path, fresh=False))


@mlflow
def test_a_place_that_is_none_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "digits", "--epochs", "1", "--quiet", "--mlflow", "gopher://x"]
    result = call(train.main, arguments, monkeypatch, capsys)
    assert result.status == 2
    assert result.err.startswith("error: --mlflow gopher://x: ")
    assert len(result.err.splitlines()) == 1
