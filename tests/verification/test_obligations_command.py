"""``python -m lean_mnist.verify``: what it prints, where, and the status it exits with."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from lean_mnist import verify as command
from lean_mnist.errors import LeanMnistError
from lean_mnist.invocation import typed
from lean_mnist.verification import report, verify
from lean_mnist.verification.model import ObligationFailed, Truth
from tests.support.obligations_cases import an_obligation, breaks, holds, is_false
from tests.support.training_cases import Result

Run = Callable[..., Result]


def _pretend(monkeypatch: pytest.MonkeyPatch, *obligations: object) -> None:
    monkeypatch.setattr(report, "obligations", lambda: list(obligations))


def test_a_part_of_the_table(call: Run) -> None:
    found = call("--only", "layer.*")
    assert found.status == 0
    assert "Layer properties" in found.out
    assert "layer.matvec-linear" in found.out
    assert "Loss properties" not in found.out
    assert "9 of 9 obligations hold (6 proved by SymPy, 3 checked on floats)" in found.out
    lines = found.err.splitlines()
    assert len(lines) == 9
    assert lines[0] == "1 of 9: layer.affine"


def test_json_is_alone_on_standard_output(call: Run) -> None:
    found = call("--only", "original", "--json")
    assert found.status == 0
    document = json.loads(found.out)
    assert document["ok"]
    assert [row["verdict"] for row in document["obligations"]] == ["refuted"] * 4
    assert found.err


@pytest.mark.parametrize("json_wanted", [False, True])
def test_a_refuted_obligation_is_told_and_exits_3(
    call: Run, monkeypatch: pytest.MonkeyPatch, json_wanted: bool
) -> None:
    _pretend(monkeypatch, an_obligation(holds), an_obligation(is_false, name="loss.other"))
    found = call(*(["--json"] if json_wanted else []))
    assert found.status == 3
    last = found.err.splitlines()[-1]
    assert last == "error: 1 of 2 obligations failed: loss.other (REFUTED)"
    if json_wanted:
        document = json.loads(found.out)
        assert (document["ok"], document["failed"]) == (False, ["loss.other"])
    else:
        assert "→ it is not so: 2 instead of 3 at x = 1" in found.out
        assert found.out.count("proved by SymPy") == 2, "what was refuted is not called proved"
        assert "not established" in found.out
        summary = "1 of 2 obligations hold (1 proved by SymPy); FAILED: 1 of 2 obligations failed: loss.other (REFUTED)"
        assert summary in found.out.replace("\n", " ")


def test_code_under_test_that_breaks_is_an_error_and_exits_3(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, an_obligation(breaks))
    found = call()
    assert found.status == 3
    assert "ERROR" in found.out
    assert "→ ZeroDivisionError: in the code under test" in found.out
    assert found.err.splitlines()[-1] == "error: 1 of 1 obligations failed: loss.some (ERROR)"


@pytest.mark.parametrize("run", [holds, breaks])
def test_a_false_statement_that_is_not_refuted_fails(
    call: Run, monkeypatch: pytest.MonkeyPatch, run: Callable[[], str]
) -> None:
    _pretend(
        monkeypatch,
        an_obligation(is_false, Truth.REFUTED, "original.one"),
        an_obligation(run, Truth.REFUTED, "original.two"),
    )
    found = call()
    assert found.status == 3
    assert "original.two" in found.err.splitlines()[-1]
    assert "1 false statements" in found.out


def test_nothing_checked_is_a_failure(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not report.ObligationReport((), (), 0.0).ok
    _pretend(monkeypatch)
    found = call()
    assert (found.status, found.err.splitlines()[-1]) == (3, "error: nothing was checked")


def test_a_failed_obligation_is_an_error_for_people() -> None:
    assert issubclass(ObligationFailed, LeanMnistError)
    assert ObligationFailed.exit_status == 3


BAD = [
    (("--only", "los"), "--only: expected an id, a pattern such as 'loss.*', or one of "),
    (("--only", "los"), "(did you mean 'loss'?)"),
    (("--only",), "--only"),
    (("--ony", "loss"), "--ony: no such option (did you mean '--only'?)"),
    (("loss",), "'loss': unexpected argument"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_usage_gives_one_line_and_exits_2(call: Run, arguments: tuple[str, ...], message: str) -> None:
    found = call(*arguments)
    assert (found.status, found.out) == (2, "")
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1
    assert message in found.err


def test_without_sympy_it_says_what_to_install(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sympy", None)
    found = call()
    assert (found.status, found.out) == (2, "")
    install = typed("python -m pip", "install", "sympy")
    assert found.err == f"error: lean_mnist.verify proves with SymPy, which is missing: {install}\n"


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, encoding="utf-8", env=environment, timeout=120,
        check=False,
    )  # fmt: skip


def test_help_loads_neither_torch_nor_sympy() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from lean_mnist import verify\n"
        "try: verify.main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'sympy', 'numpy'} & set(sys.modules)\n"
    )
    found = _python("-c", code)
    assert found.returncode == 0, found.stderr
    for option in ("--only", "--coq", "--json", "--selftest"):
        assert option in found.stdout


def test_as_a_program_that_loads_sympy_when_it_is_needed() -> None:
    code = (
        "import sys, runpy, lean_mnist.verification\n"
        "assert 'sympy' not in sys.modules\n"
        "sys.argv = ['verify', '--only', 'loss.nonnegative']\n"
        "runpy.run_module('lean_mnist.verify', run_name='__main__')\n"
    )
    found = _python("-W", "error", "-c", code)
    assert found.returncode == 0, found.stderr
    assert "loss ≥ 0" in found.stdout
    assert found.stderr == "1 of 1: loss.nonnegative\n"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_one_line_that_ends_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    command.show_progress(3, 10, "loss.convex")
    command.show_progress(10, 10, "")
    written = terminal.getvalue()
    assert "\n" not in written
    assert "3 of 10 checked, now loss.convex" in written
    assert written.endswith("\r" + " " * 79 + "\r")


def test_an_interrupt_is_not_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    _pretend(monkeypatch, an_obligation(interrupted))
    with pytest.raises(KeyboardInterrupt):
        verify()


def test_seconds_are_those_of_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> str:
        time.sleep(0.01)
        return ""

    _pretend(monkeypatch, an_obligation(slow))
    found = verify()
    assert found.seconds >= found.results[0].seconds >= 0.01
