"""Hostile data, networks, certificates, configurations and command lines, and what stands in place of files."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.hostile.attack import Found, Hostile, Sandbox, faults
from tests.support.hostile.results import entries, named, results
from tests.support.training_cases import REPOSITORY

GROUPS = ("archives", "fields", "bundles", "places", "data_files", "networks", "certificates", "texts")


@pytest.mark.parametrize(("group", "name"), named("places", "data_files", "networks", "certificates", "texts"))
def test_a_hostile_file_does_nothing(group: str, name: str) -> None:
    assert results(group)[name]["faults"] == []


def test_attacks_have_names_of_their_own() -> None:
    for group in GROUPS:
        names = [hostile.name for hostile in entries(group)]
        assert len(names) == len(set(names))


# -- those who watch see what there is to see -------------------------------------------------------------------------

REFUSED = Found(2, "", "error: best.pt: no\n", 0.1, 0, 0, [], ("evaluate", "best.pt"))
HOSTILE = Hostile("x", lambda sandbox: ())


@pytest.mark.parametrize(
    "planted",
    [
        {"status": 1},
        {"status": 0, "errors": ""},
        {"status": -9},
        {"errors": "error: best.pt: no\nand more\n"},
        {"errors": "Traceback (most recent call last):\n"},
        {"errors": "error: best.pt: \x1b[2J\n"},
        {"errors": "error: \u202ebest.pt\n"},
        {"errors": "error: something\n"},
        {"errors": f"error: best.pt{' ' * 5_000}\n"},
        {"output": "\x1b[31m"},
        {"memory": 100 << 20},
        {"events": ["os.system"]},
    ],
    ids=str,
)
def test_what_is_not_as_it_should_be_is_seen(planted: dict[str, Any]) -> None:
    assert faults(HOSTILE, REFUSED) == []
    assert faults(HOSTILE, dataclasses.replace(REFUSED, **planted)) != []


def _led_astray(sandbox: Sandbox) -> Sequence[str]:
    # The user names the trap, so that it is run: what a file must not bring about.
    (sandbox.work / "trap.py").write_text((sandbox.work / "trap.py").read_text() + "import os; os.system('true')\n")
    return "check", "trap.py:run", "--inputs", "randn(3,req)"


def test_programs_imports_and_writes_are_seen(tmp_path: Path) -> None:
    code = (
        "import json, sys; from dataclasses import asdict; from pathlib import Path\n"
        "from tests.support.hostile.attack import *; from tests.faults.test_hostile_files import _led_astray\n"
        "import torch; torch.set_num_threads(1)\n"
        "Path(sys.argv[1]).mkdir(); print(json.dumps(asdict(attack(Hostile('x', _led_astray), Path(sys.argv[1])))))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "honest")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    events = json.loads(done.stdout)["events"]
    assert any(event.startswith("os.system") for event in events)
    assert any(event.startswith("open ") and "outside" in event for event in events)
    assert "the folder outside is not as it was" in events
