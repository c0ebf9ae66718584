"""For every test: one thread a process, because the test runner already uses every core; and the planting of bugs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # also of the commands that tests start

import torch

torch.set_num_threads(1)

# In the background (``nohup``, ``&``) these are ignored, as they then are by commands that tests start and interrupt.
for _name, _default in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if (_number := getattr(signal, _name, None)) and signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _default)

# Modules that take more than some five seconds alone on one core (``pytest --durations=0`` says which do), or near it;
# all others are marked ``fast``, and ``pytest -m fast`` answers in little more than a minute on two cores.
SLOW = {
    "audit": (
        "diagnosis", "every_activation", "gradcheck_piece", "native_screen", "randomised", "sensitivity", "step_audit",
    ),
    "benchmarks": ("first_result", "speed"),
    "browser": ("dashboard",),
    "chainrule": ("chainrule_symbolic",),
    "commands": ("check", "verify_selftest"),
    "crosscheck": (
        "arguments", "bundle_and_replay", "compiled", "custom_operators", "diagnosis", "function_check",
        "gradients_from", "large_calls", "module_check", "monitor", "monitor_compiled_and_sharded", "planted_faults",
        "reports", "right_functions", "sharded", "tolerances_and_domains",
    ),
    "docs": ("blocks", "notebooks", "packages", "site"),
    "engine": ("engine", "library", "planted_faults"),
    "enclosure": ("enclosure_arithmetic", "enclosure_networks"),
    "exchange": ("export", "prediction"),
    "faults": ("crashes", "planted", "soak", "hostile_checkpoints", "hostile_files", "hostile_fuzz"),
    "generalization": ("certify", "checker", "checker_forgeries", "coq_certificate"),
    "integrations": ("pytest_plugin",),
    "mutants": ("mutants_corpus", "mutants_functions", "mutants_selftest", "mutants_target"),
    "nn": ("nn_gradcheck",),
    "rendering": ("render",),
    "tests": ("wild",),
    "training": (
        "checkpoint_fields", "checkpoints", "chunks", "command_line", "distributed", "distributed_run", "engine_choice",
        "failures", "memory_in_chunks", "memory_runs", "optimizers", "pac_bayes_run", "quantized_run", "report",
        "resume", "run_folder", "trackers", "trainer", "training_gate",
    ),
    "verification": (
        "coq_bridge", "oracle", "obligations_command", "obligations_planted_faults", "obligations_table", "proofs",
    ),
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of every module that is not slow."""
    for item in items:
        if item.path.stem.removeprefix("test_") not in SLOW.get(item.path.parent.name, ()):
            item.add_marker("fast")


@pytest.fixture
def plant() -> Iterator[Any]:
    """``plant(target, replacement)`` replaces something inside the package until the test ends.

    See ``lean_mnist.mutants.planting``; its type is ``tests.support.planting.Plant``.
    """
    from lean_mnist.mutants import planting

    with contextlib.ExitStack() as stack:
        yield lambda target, replacement: stack.enter_context(planting(target, replacement))
