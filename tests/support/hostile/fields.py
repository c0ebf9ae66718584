"""Checkpoints with the right hash whose fields are not what they should be: tensors, sizes, numbers, names, places."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.support.hostile.attack import Hostile, Sandbox

Content = dict[str, Any]
ESCAPES = "\x1b[2J\x1b[31mall is well\n\u202eholds\x07"
WEIGHT = "layers.0.weight"


def of_best(change: Callable[[Content], Any]) -> Callable[[Sandbox], Sequence[str]]:
    """``evaluate best.pt`` with other content and the hash of it."""
    return lambda sandbox: ("evaluate", str(sandbox.forge(sandbox.best, change, hashed=change not in BOMBS)))


def of_last(change: Callable[[Content], Any]) -> Callable[[Sandbox], Sequence[str]]:
    """``train --resume last.pt`` with other content and the hash of it."""
    return lambda sandbox: ("train", "--resume", str(sandbox.forge(sandbox.half, change, hashed=change not in BOMBS)))


def put(*path: str | int, value: Any) -> Callable[[Content], None]:
    """A change of one field."""

    def change(content: Content) -> None:
        place: Any = content
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value

    return change


def weight(make: Callable[[], Tensor]) -> Callable[[Sandbox], Sequence[str]]:
    """``evaluate best.pt`` with another first weight."""

    def change(content: Content) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content["model"][WEIGHT] = make()

    return of_best(change)


def _shared(levels: int) -> Any:
    value: Any = [1]
    for _ in range(levels):
        value = [value, value]
    return value


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def _unhashed(field: str, make: Callable[[], Any]) -> Callable[[Sandbox], Sequence[str]]:
    """``evaluate best.pt`` with a field over which no hash can be computed here."""

    def build(sandbox: Sandbox) -> Sequence[str]:
        content = sandbox.content(sandbox.best)
        content[field] = make()
        torch.save(content, sandbox.best)
        return "evaluate", str(sandbox.best)

    return build


def _elsewhere(name: str) -> Callable[[Sandbox], Sequence[str]]:
    """``--resume`` of a checkpoint that says that its run is outside."""

    def build(sandbox: Sandbox) -> Sequence[str]:
        return of_last(put("config", name, value=str(sandbox.outside)))(sandbox)

    return build


TENSORS: dict[str, Callable[[], Tensor]] = {
    "stride 0": lambda: torch.zeros(1).expand(4, 64),
    "not contiguous": lambda: torch.zeros(64, 4).t(),
    "overlapping rows": lambda: torch.zeros(67).as_strided((4, 64), (1, 1)),
    "sparse": lambda: torch.zeros(4, 64).to_sparse(),
    "sparse rows": lambda: torch.zeros(4, 64).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(4, 64), 0.1, 0, torch.qint8),
    "meta": lambda: torch.empty(4, 64, device="meta"),
    "complex": lambda: torch.zeros(4, 64, dtype=torch.complex64),
    "whole numbers": lambda: torch.zeros(4, 64, dtype=torch.int64),
    "booleans": lambda: torch.zeros(4, 64, dtype=torch.bool),
    "eight bits": lambda: torch.zeros(4, 64).to(torch.float8_e4m3fn),
    "NaN": lambda: torch.full((4, 64), math.nan),
    "infinities": lambda: torch.full((4, 64), math.inf),
    "transposed": lambda: torch.zeros(64, 4),
    "no rows": lambda: torch.zeros(0, 64),
    "three dimensions": lambda: torch.zeros(4, 64, 1),
    "a number": lambda: torch.tensor(1.0),
}
EITHER = ("stride 0", "not contiguous", "overlapping rows")

FIELDS: dict[str, Callable[[Content], Any]] = {
    "an architecture of 10^9 units": put("architecture", "sizes", value=[64, 10**9, 10]),
    "an architecture of 10^18 units": put("architecture", "sizes", value=[64, 10**18, 10]),
    "an architecture of 100,000 layers": put("architecture", "sizes", value=[64, *[1] * 100_000, 10]),
    "sizes below 0": put("architecture", "sizes", value=[64, -4, 10]),
    "sizes that are words": put("architecture", "sizes", value=ESCAPES),
    "an activation of escapes": put("architecture", "activation", value=ESCAPES),
    "a field of escapes": put("architecture", ESCAPES, value=1),
    "10^5 fields": lambda content: content["architecture"].update({f"a{k}": k for k in range(100_000)}),
    "a tensor as activation": put("architecture", "activation", value=torch.zeros(3)),
    "a layer of escapes": lambda content: content["model"].update({ESCAPES: torch.zeros(3)}),
    "2^30 numbers of stride 0 in the metrics": put("metrics", "x", value=torch.zeros(1).expand(1 << 30)),
    "2^30 numbers of stride 0 in the model": put("model", WEIGHT, value=torch.zeros(1).expand(1 << 30)),
    "2^40 leaves in the metrics": put("metrics", "x", value=_shared(40)),
    "dictionaries 300 deep": put("metrics", "x", value=_deep(300)),
    "a format version of escapes": put("format_version", value=ESCAPES),
    "a format version that is a tensor": put("format_version", value=torch.zeros(3)),
    "a format version of 10,000 digits": put("format_version", value=10**10_000),
    "a model that is a list": put("model", value=[torch.zeros(3)]),
    "an empty model": put("model", value={}),
    "a normalization of NaN": put("normalization", "scale", value=math.nan),
    "a normalization by 0": put("normalization", "scale", value=0.0),
    "a normalization of a tensor": put("normalization", "mean", value=torch.zeros(2, 2)),
    "a normalization by 1e300": put("normalization", "scale", value=1e300),
    "a normalization clipped at 1e300": put("normalization", "clip", value=1e300),
    "a normalization by 1e-320": put("normalization", "scale", value=1e-320),
    "a kind of escapes": put("normalization", "kind", value=ESCAPES),
    "data of escapes": put("data", "name", value=ESCAPES),
    "data that is a list": put("data", value=[1]),
    "data without a name": put("data", value={}),
    "data in a folder above": put("data", "name", value="../../etc"),
    "a hash of data that is a list": put("data", "sha256", value=["x"]),
    "a verdict of escapes": put("crosscheck", "verdict", value=ESCAPES),
    "a crosscheck that is a number": put("crosscheck", value=3),
    "hidden of 10^6 widths": put("config", "hidden", value=[1] * 1_000_000),
    "a learning rate of NaN": put("config", "lr", value=math.nan),
    "epochs of 10,000 digits": put("config", "epochs", value=10**10_000),
    "a seed of 2^64": put("config", "seed", value=2**64),
    "a seed of -1": put("config", "seed", value=-1),
    "a run name that climbs": put("config", "run_name", value="../../x"),
    "a run name of escapes": put("config", "dataset", value=ESCAPES),
    "a field that there is not": put("config", ESCAPES, value=1),
    "a config that is a list": put("config", value=[]),
    "a nested field": put("config", "lr", value={"a": 1}),
    "keys that are numbers": put("config", 7, value=1),
    "a hash of 10^6 letters": lambda content: content.update(metrics="x" * 1_000_000),
    "a null byte": put("config", "data_dir", value="a\0b"),
}
SAYS = {"a normalization by 1e-320": "finite"}
EITHER_FIELDS = (
    "a normalization by 1e-320",
    "a seed of -1",
    "a null byte",
    "a hash of data that is a list",
    "10^5 fields",
    "a field of escapes",
)

STATES: dict[str, Callable[[Content], Any]] = {
    "steps below 0": put("training", "state", "step", value=-5),
    "10^18 steps": put("training", "state", "step", value=10**18),
    "a word as step": put("training", "state", "step", value="5"),
    "half a step": put("training", "state", "step", value=0.5),
    "an epoch that is none": put("training", "state", "epoch", value=10**12),
    "a batch that is none": put("training", "state", "batch", value=10**12),
    "true as a number of examples": put("training", "state", "examples", value=True),
    "a sum of NaN": put("training", "state", "epoch_loss_sum", value=math.nan),
    "an end of escapes": put("training", "state", "finished", value=ESCAPES),
    "warnings of escapes": put("training", "state", "warned", value=[ESCAPES]),
    "looks of errors below 0": put(
        "training", "state", "test_looks", value=[{"step": 1, "purpose": "final", "errors": -3}]
    ),
    "looks that are numbers": put("training", "state", "test_looks", value=[1, 2]),
    "a look of escapes": put("training", "state", "test_looks", value=[{"step": 1, "purpose": ESCAPES, "errors": 3}]),
    "a best that is a number": put("training", "state", "best", value=7),
    "a best of more than all": put("training", "state", "best", "correct", value=10**9),
    "checks that are a list": put("training", "state", "checks", value=[1]),
    "checks of a field more": put("training", "state", "checks", ESCAPES, value=1),
    "no state": lambda content: content["training"].pop("state"),
    "training that is a list": put("training", value=[1]),
    "random numbers of another size": put("training", "rng", value=torch.zeros(7, dtype=torch.uint8)),
    "random numbers of floats": put("training", "rng", value=torch.zeros(5056)),
    "random numbers that are none": put("training", "rng", value=torch.full((5056,), 255, dtype=torch.uint8)),
    "an optimizer that is a list": put("training", "optimizer", value=[1]),
    "an optimizer of other groups": put("training", "optimizer", "param_groups", value=[]),
    "an optimizer of 2^33 numbers": lambda content: content["training"]["optimizer"]["state"].update(
        {0: {"momentum_buffer": torch.zeros(1).expand(1 << 33)}}
    ),
    "an optimizer of NaN": lambda content: [
        each["momentum_buffer"].fill_(math.nan) for each in content["training"]["optimizer"]["state"].values()
    ],
    "an optimizer with a rate of words": put("training", "optimizer", "param_groups", 0, "lr", value=ESCAPES),
    "an optimizer with a rate of NaN": put("training", "optimizer", "param_groups", 0, "lr", value=math.nan),
    "another data set": put("data", "sha256", value="0" * 64),
    "a fingerprint of escapes": put("data", "sha256", value=ESCAPES),
}

# What is in them is printed, and printed escaped.
EITHER_STATES = {"warnings of escapes": 0, "an end of escapes": 0, "an optimizer of NaN": 3}

# Of which no hash can be computed here.
BOMBS = tuple(change for name, change in {**FIELDS, **STATES}.items() if name.startswith("2^") or "2^33" in name)

HOSTILE = [
    *(Hostile(f"weights: {name}", weight(make), either=name in EITHER) for name, make in TENSORS.items()),
    *(
        Hostile(
            f"field: {name}",
            of_best(change),
            either=name in EITHER_FIELDS,
            other=3 * (name in SAYS),
            says=SAYS.get(name),
        )
        for name, change in FIELDS.items()
    ),
    *(
        Hostile(
            f"state: {name}", of_last(change), either=name in EITHER_STATES, other=EITHER_STATES.get(name, 0), says=""
        )
        for name, change in STATES.items()
    ),
    Hostile("a bomb without its hash", _unhashed("metrics", lambda: {"x": _shared(40)})),
    Hostile("a sparse tensor without its hash", _unhashed("metrics", lambda: {"x": torch.eye(3).to_sparse()})),
    Hostile("a hash that is a tensor", _unhashed("content_sha256", lambda: torch.zeros(3))),
    Hostile("a hash that is a list of itself", _unhashed("content_sha256", lambda: ["0" * 64])),
    Hostile("runs_dir outside", _elsewhere("runs_dir"), says="--runs-dir"),
    *(Hostile(f"{name} outside", _elsewhere(name), either=True) for name in ("checkpoints_dir", "data_dir")),
    Hostile(
        "certify: looks of escapes",
        lambda sandbox: (
            "certify",
            str(
                sandbox.forge(
                    sandbox.best, put("metrics", "test_looks", value=[{"step": 0, "purpose": ESCAPES, "errors": 1}])
                )
            ),
        ),
    ),
    Hostile(
        "certify: looks that are a number",
        lambda sandbox: ("certify", str(sandbox.forge(sandbox.best, put("metrics", "test_looks", value=3)))),
    ),
    Hostile(
        "certify: no looks",
        lambda sandbox: ("certify", str(sandbox.forge(sandbox.best, lambda c: c["metrics"].pop("test_looks")))),
    ),
]
