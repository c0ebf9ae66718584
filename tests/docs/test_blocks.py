"""Every command and every block of code in the documents runs, and prints what is shown; others say why they do not.

Numbers in what is shown may differ where they depend on the machine: those with an exponent, times, and percentages. In
what commands print any number may.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.documents import ROOT, Block, blocks, differs, documents
from tests.support.shared_data import folder_with

# Commands that are not run, by what they begin with or contain, and why. Their options are looked up all the same.
NOT_RUN = {
    r"-m benchmarks\.": "measures for minutes to hours",
    r"\.venv": "makes an environment and downloads PyTorch; continuous integration runs the commands of the README",
    r"^(make|cd proofs)\b": "needs Coq; continuous integration runs it",
    r"^pip |^python3 -m venv": "installs packages",
    r"^python -m pytest": "is the suite",
    r"^\.?(\S*/)?tensorboard": "serves until it is stopped",
    r"-m lean_mnist\.pacbayes$": "trains for minutes; tests/training/test_pac_bayes_run.py runs a smaller one",
    r"--resume\s*(#|$)": "goes on with the reader's run; tests/training/test_resume.py goes on with some",
    r"^torchrun": "needs two processes and MNIST; tests/training/test_distributed_run.py runs it on digits",
    r"wrong_gradient_in_peft": "needs peft 0.21.2; a test below runs it where that is installed",
    r"-m lean_mnist\.learners$": "takes minutes; tests/generalization/test_learners.py runs a part",
    r"<|\b(NETWORK|FOLDER|FILE|RUN|OUT\.v|CHECKPOINT)\b|my_package|params-EMNIST|net\.pt": "names the reader's files",
}
# Blocks of code and of printed lines that are not run by themselves, by document and a part of them, and why.
NOT_ALONE = {
    ("README.md", "mnist: test accuracy"): "printed by the command in its first screen",
    ("docs/monitor.md", "GradientMismatch: 1 (Norm)"): "tests/integrations/test_documentation.py runs this page",
    ("docs/monitor.md", "class RMSNorm"): "tests/integrations/test_documentation.py runs this page",
    ("docs/monitor.md", "import GradientMonitor"): "tests/integrations/test_documentation.py runs this page",
    ("docs/monitor.md", "lightning"): "tests/integrations/test_documentation.py runs it where Lightning is installed",
    ("docs/monitor.md", "transformers"): "tests/integrations/test_documentation.py runs it where they are installed",
    ("docs/monitor.md", ">>> print(monitor.summary())"): "printed by a long run",
    (
        "docs/monitor.md",
        "intended={",
    ): "names the reader's model; tests/crosscheck/test_monitor_intents.py has these options",
    ("docs/distributed.md", "error: "): "tests/training/test_distributed_run.py looks for this line",
    ("docs/runs.md", "error: "): "tests/training and tests/faults look for this line",
    ("docs/runs.md", "warning: "): "tests/training/test_checkpoints.py looks for this line",
    ("docs/elsewhere.md", "synthetic 1"): "printed by a command that takes minutes",
    ("docs/faults.md", "from pathlib import Path"): "names the reader's trainer; tests/faults/planted.py is one",
    ("proofs/README.md", "coqchk"): "takes half an hour",
}


def reason(block: Block, text: str) -> str | None:
    """Why a command or block is not run, if it is not."""
    if block.not_run:
        return block.not_run
    if block.language == "console":
        return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, text)), None)
    return next((why for (name, part), why in NOT_ALONE.items() if name == block.document and part in text), None)


BLOCKS = {str(path.relative_to(ROOT)): blocks(path) for path in documents()}
OF_MNIST = ("docs/first_ten_minutes.md",)  # all others are run on digits, the same everywhere
RUN = [
    name
    for name, each in BLOCKS.items()
    if any(
        not reason(b, text) for b in each for text in ([b.text] if b.language == "python" else [c for c, _ in b.steps])
    )
]


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of somebody who follows a document, with this package's commands on the path."""
    folder, programs = tmp_path / "reader", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    for name, call in {"python": "", "lean-mnist": " -m lean_mnist"}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{call} "$@"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{folder}")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LEAN_MNIST_DATA", raising=False)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("document", RUN)
def test_blocks_run_and_print_what_is_shown(document: str, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if document in OF_MNIST:
        monkeypatch.setenv("LEAN_MNIST_DATA", str(folder_with("MNIST/raw")))
    names: dict[str, Any] = {"__name__": "documentation"}
    printed = None
    for block in BLOCKS[document]:
        if block.language == "console":
            for command, shown in block.steps:
                if reason(block, command) is None:
                    run_command(block, command, shown)
        elif block.language == "python" and reason(block, block.text) is None:
            if file := re.match(r"# (\w+\.py)\n", block.text):
                (reader / file[1]).write_text(block.text, encoding="utf-8")
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(block.text, block.name, "exec"), names)
            printed = output.getvalue()
            continue
        elif block.language == "text" and printed is not None:
            wrong = differs(block.text.splitlines(), printed, 0.05)
            assert not wrong, f"{block.name}: {wrong}"
        printed = None


def run_command(block: Block, command: str, shown: list[str]) -> None:
    status = re.search(r"# status (\d+)", command)
    done = subprocess.run(
        ["bash", "-c", command], text=True, encoding="utf-8", check=False, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == int(status[1] if status else 0), f"{block.name}: {command}\n{done.stdout}"
    if any(line.strip() for line in shown):
        wrong = differs(shown, done.stdout, None)
        assert not wrong, f"{block.name}: {command}: {wrong}"


def test_the_bug_in_peft_is_found_as_shown() -> None:
    pytest.importorskip("peft", reason="needs peft 0.21.2, which the extra `wild` brings")
    if importlib.metadata.version("peft") != "0.21.2":
        pytest.skip("another version of peft than 0.21.2")
    (block,) = [b for b in BLOCKS["README.md"] if "wrong_gradient_in_peft" in b.text]
    (_, shown) = block.steps[-1]
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / "wrong_gradient_in_peft.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert not (wrong := differs(shown, done.stdout, 0.05)), wrong


def test_every_block_is_of_a_known_kind() -> None:
    """A block of another kind would be passed over."""
    odd = [b.name for each in BLOCKS.values() for b in each if b.language not in ("python", "console", "text", "json")]
    assert odd == []


def test_every_printed_line_is_checked_or_has_a_reason() -> None:
    for each in BLOCKS.values():
        before = None
        for block in each:
            if block.language == "text":
                of_python = before is not None and before.language == "python"
                assert of_python or reason(block, block.text), f"{block.name}: printed by no block, and no reason"
            before = block


def test_every_reason_is_used() -> None:
    commands = [command for each in BLOCKS.values() for b in each if b.language == "console" for command, _ in b.steps]
    assert [pattern for pattern in NOT_RUN if not any(re.search(pattern, command) for command in commands)] == []
    texts = [(b.document, b.text) for each in BLOCKS.values() for b in each if b.language != "console"]
    assert [(name, part) for name, part in NOT_ALONE if not any(name == d and part in text for d, text in texts)] == []


def modules_called() -> dict[str, set[str]]:
    """Modules that commands in the documents start, and the options that they are given."""
    called: dict[str, set[str]] = {}
    for each in BLOCKS.values():
        for block in each:
            for command, _ in block.steps if block.language == "console" else []:
                for part in re.split(r"&&|;|\|", command):
                    if found := re.search(r"-m ((?:lean_mnist|benchmarks)\S*)(.*)", part):
                        options = re.findall(r"(?<=\s)--[a-z][a-z-]*", found[2].partition("#")[0])
                        called.setdefault(found[1], set()).update(options)
    return called


@cache
def help_of(module: str) -> str:
    for option in ("--help-all", "--help"):
        command = [sys.executable, "-m", module, option]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
        if done.returncode == 0:
            return done.stdout
    raise AssertionError(f"{module} --help: {done.stderr}")


@pytest.mark.parametrize("module", sorted(modules_called()))
def test_the_options_of_every_command_exist(module: str) -> None:
    found = importlib.util.find_spec(module)
    assert found is not None
    if options := modules_called()[module]:
        source = Path(found.origin or "").read_text(encoding="utf-8")  # of sub-commands
        text = help_of(module).replace("--[no-]", "--no-") + help_of(module).replace("[no-]", "") + source
        assert sorted(option for option in options if option not in text) == []


def test_a_block_that_prints_something_else_is_found() -> None:
    assert differs(["loss 0.15, 255 of 297"], "loss 0.15, 255 of 297\n", 0.05) == ""
    assert differs(["loss 0.15, 255 of 297"], "loss 0.15, 155 of 297\n", 0.05) != ""
    assert differs(["loss 0.15, 255 of 297"], "loss 0.99, 155 of 297\n", None) == ""
    assert differs(["FAILED …", "…", "passed: 3"], "FAILED (seed 0)\n  ERROR\n\npassed: 3\n", 0.05) == ""
    assert differs(["FAILED …", "passed: 3"], "passed\npassed: 3\n", None) != ""
    assert differs(["(error estimate 6.0e-08), 0.1 s, 7.4%"], "(error estimate 1.0e-09), 2.1 s, 1%\n", 0.05) == ""
