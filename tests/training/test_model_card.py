"""The model card beside the checkpoints: true to the run, in plain text, with metadata that a hub reads."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest

from lean_mnist.data.datasets import load_dataset
from lean_mnist.training.checkpoints import load_checkpoint
from lean_mnist.training.objectives.model_card import FILE, body, model_card
from lean_mnist.training.objectives.summary import Summary
from tests.support.training_cases import FinishedRun


def card_of(run: FinishedRun, **changes: object) -> str:
    checkpoint = load_checkpoint(run.best)
    summary: Summary = dataclasses.replace(run.summary, **changes)  # type: ignore[arg-type]
    return model_card(summary, checkpoint.model, checkpoint.normalization, load_dataset("digits"))


def test_every_run_leaves_one_and_names_it(short_run: FinishedRun) -> None:
    written = (short_run.best.parent / FILE).read_text(encoding="utf-8")
    assert written == card_of(short_run)
    assert short_run.summary_json["files"]["card"] == f"checkpoints/a-run/{FILE}"
    recorded = [record for record in short_run.records if record["name"] == "run/model_card"]
    assert [record["value"] for record in recorded] == [body(written)]


def test_it_says_what_the_run_measured(short_run: FinishedRun) -> None:
    text, test = card_of(short_run), short_run.summary.test
    metadata = text.split("---\n")[1]
    assert re.search(r"^datasets: \[\"digits\"\]$", metadata, re.MULTILINE)
    assert f"value: {test.accuracy}, verified: false" in metadata
    for expected in (
        "# 64-128-10 network for digits",
        f"{test.accuracy:.2%} of 360 test images ({test.errors} errors; 95 % interval",
        "The test split was looked at once.",
        "digits, the official data, known by their SHA-256. 1,318 examples to learn from, 119 to select, 360 to test.",
        "Pixels are 0 to 16",
        "| epochs | 2 |",
        "python -m lean_mnist.certify --check runs/a-run/certificate.json",
        "those that were checked while it trained are right",
        "(expected calibration error).\n",
    ):
        assert expected in text, expected
    certificate = short_run.summary_json["certificate"]
    assert all(line.replace("_", "\\_") in text for line in certificate["statement"])
    assert "Assumed:" in text
    assert "--check 'my runs/certificate.json'` derives" in card_of(short_run, folder=Path("my runs"))


def test_what_is_not_there_is_said(short_run: FinishedRun) -> None:
    text = card_of(short_run, certificate="why <not>")
    assert "## Certificate\n\nNone: why \\<not\\>." in text
    state = short_run.summary.state
    unchecked = dataclasses.replace(
        state, checks=dataclasses.replace(state.checks, screens=0, comparisons=0, gradchecks=0)
    )
    text = card_of(short_run, state=unchecked)
    assert "None were due: nothing is known of its gradients." in text
    assert "are right" not in text
    failed = dataclasses.replace(state, checks=dataclasses.replace(state.checks, failures=1))
    assert "a check of them FAILED while it trained" in card_of(short_run, state=failed)
    assert "proved within" not in card_of(short_run, state=failed)


@pytest.mark.parametrize(
    ("bound", "said"), [(1.801e-7, "1.9e-07"), (1.8e-7, "1.8e-07"), (0.0, ""), (math.inf, ""), (math.nan, "")]
)
def test_a_proved_bound_is_rounded_up_and_not_said_where_there_is_none(
    bound: float, said: str, short_run: FinishedRun
) -> None:
    state = short_run.summary.state
    state = dataclasses.replace(state, checks=dataclasses.replace(state.checks, largest_bound=bound))
    for text in (card_of(short_run, state=state), str(dataclasses.replace(short_run.summary, state=state))):
        found = re.search(r"proved within (\S+) of the exact gradient", " ".join(text.split()))
        assert (found[1] if found else "") == said


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "[x](javascript:y)", "a|b\n# c", "\x1b[31m"])
def test_names_out_of_files_are_no_commands(name: str, short_run: FinishedRun) -> None:
    checkpoint, dataset = load_checkpoint(short_run.best), load_dataset("digits")
    own = dataclasses.replace(dataset, class_names=(name, *dataset.class_names[1:]))
    summary = dataclasses.replace(short_run.summary, class_names=own.class_names)
    text = model_card(summary, checkpoint.model, checkpoint.normalization, own)
    assert name not in text
    assert json.dumps(text).count("\\u001b") == 0
