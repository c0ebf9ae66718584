"""Every example runs as it stands, and shows what it says."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = {path.stem: path for path in (Path(__file__).resolve().parents[1] / "examples").glob("*.py")}


def output(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    runpy.run_path(str(EXAMPLES[name]))
    return capsys.readouterr().out


def test_there_is_a_test_of_each() -> None:
    needs_peft = "wrong_gradient_in_peft"  # which tests do without
    assert set(EXAMPLES) == {"simple_network", "serialisation", "inspect_gradient", needs_peft}


def test_simple_network(capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(r"([\d.]+)% of 360 test images are read right", output("simple_network", capsys))
    assert found is not None
    assert float(found[1]) > 94


def test_serialisation(capsys: pytest.CaptureFixture[str]) -> None:
    lines = output("serialisation", capsys).splitlines()
    assert lines[0] == "101,770 numbers; the first layer's weights are the first 100,352"
    assert lines[1] == "read back: the same, bit for bit"


def test_inspect_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    values = [float(text) for text in re.findall(r"([+-]0\.\d{12})$", output("inspect_gradient", capsys), re.MULTILINE)]
    assert len(values) == 3
    assert abs(values[0]) > 0.01
    assert values[1] == pytest.approx(values[0], abs=1e-9)
    assert values[2] == pytest.approx(values[0], abs=1e-11)
