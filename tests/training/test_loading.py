"""Loading of a run in a line, however it is named."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lean_mnist import load_checkpoint, load_dataset
from lean_mnist.errors import ArgumentError, CheckpointError
from lean_mnist.training.config.places import checkpoint_path
from tests.support.training_cases import FinishedRun


def test_a_run_is_found_by_its_name_folders_and_files(short_run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(short_run.root)
    for which in ("", "a-run", "checkpoints/a-run", "runs/a-run", short_run.folder, short_run.best, "./runs/a-run/"):
        assert checkpoint_path(which).resolve() == short_run.best.resolve(), which
    assert checkpoint_path("checkpoints/a-run/last.pt") == Path("checkpoints/a-run/last.pt")
    monkeypatch.chdir("/")
    assert checkpoint_path(short_run.folder) == short_run.best


def test_the_latest_run_is_the_default_and_last_pt_stands_for_best_pt(tmp_path: Path) -> None:
    for age, path in enumerate(("old/best.pt", "new/last.pt", "older/best.pt")):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_bytes(b"")
        os.utime(tmp_path / path, (0, [2, 3, 1][age]))
    assert checkpoint_path("", tmp_path) == tmp_path / "new" / "last.pt"


def test_what_is_no_run_is_one_line(short_run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(short_run.root)
    with pytest.raises(CheckpointError, match=r"^a-rum: expected a run, as in checkpoints, .*did you mean 'a-run'"):
        load_checkpoint("a-rum")
    with pytest.raises(CheckpointError, match=r"^none\.pt: expected a checkpoint, found: No such file or directory$"):
        load_checkpoint("none.pt")
    with pytest.raises(CheckpointError, match=r"^nowhere: no run in it, expected a folder with best\.pt or last\.pt$"):
        load_checkpoint(checkpoints_dir="nowhere")


def test_raw_pixels_in_logits_and_probabilities_out(short_run: FinishedRun) -> None:
    network = load_checkpoint(short_run.best)
    images = load_dataset("digits").test.images
    logits = network.logits(images)
    assert int((logits.argmax(1) != load_dataset("digits").test.labels).sum()) == short_run.summary.test.errors
    assert torch.equal(network.logits(images.numpy()), logits)
    assert torch.equal(network.probabilities(images), logits.double().softmax(1))
    assert (network.image_shape, network.maximum, network.class_names) == ((8, 8), 16, tuple("0123456789"))
    for wrong in (images.float(), images[0], images[:, :7], np.zeros((2, 28, 28), dtype=np.uint8)):
        with pytest.raises(ArgumentError, match=r"^images: \w+ of shape .*, expected uint8 of shape \(B, 8, 8\)$"):
            network.logits(wrong)
