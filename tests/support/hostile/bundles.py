"""Bundles that name what they would like to have called, or that hold what no check can be asked of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tests.support.hostile.archives import entries_of, packed, shared, text
from tests.support.hostile.attack import Hostile, Sandbox
from tests.support.hostile.fields import ESCAPES, put

Content = dict[str, Any]


def _call(sandbox: Sandbox) -> None:
    from lean_mnist.crosscheck import check_function

    x = torch.arange(1.0, 4.0, dtype=torch.float64, requires_grad=True)
    check_function(torch.square, torch.square, [x], seed=1, names=["x"]).save_bundle(sandbox.work / "call.pt")


def _step(sandbox: Sandbox) -> None:
    from lean_mnist.audit.bundle import save_step_bundle
    from lean_mnist.nn import MLP, FlatParameters
    from lean_mnist.nn.step import Step, put_gradients

    model, batches = MLP((4, 3, 2), seed=1), [(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1]))]
    result = put_gradients(model, batches)
    step = Step(1, model, batches, result.loss, FlatParameters(model).gradient, 0.1, result.tapes)
    save_step_bundle(sandbox.work / "step-1.pt", step, "a message", 7, {"a": 1})


def of_call(change: Callable[[Content], Any], *command: str) -> Callable[[Sandbox], Sequence[str]]:
    """``replay call.pt``, or the command, on an altered bundle of a call."""

    def build(sandbox: Sandbox) -> Sequence[str]:
        _call(sandbox)
        _altered(sandbox, "call.pt", change)
        return command or ("replay", "call.pt")

    return build


def of_step(change: Callable[[Content], Any]) -> Callable[[Sandbox], Sequence[str]]:
    """``replay step-1.pt`` on an altered bundle of a training step."""

    def build(sandbox: Sandbox) -> Sequence[str]:
        _step(sandbox)
        _altered(sandbox, "step-1.pt", change)
        return "replay", "step-1.pt"

    return build


def _altered(sandbox: Sandbox, name: str, change: Callable[[Content], Any]) -> None:
    content = sandbox.content(sandbox.work / name)
    change(content)
    torch.save(content, sandbox.work / name)


def _pickled(name: str, more: bytes) -> Callable[[Sandbox], Sequence[str]]:
    def build(sandbox: Sandbox) -> Sequence[str]:
        (_step if name.startswith("step") else _call)(sandbox)
        entries = entries_of(sandbox.work / name)
        made = [
            (n, old[:-1] + text("versions") + more + b"s." if n.endswith("data.pkl") else old) for n, old in entries
        ]
        (sandbox.work / name).write_bytes(packed(made))
        return "replay", name

    return build


ASKED = ("replay", "--function", "torch:square", "call.pt")
TOUCH = "import os; os.system('touch ../outside/ran')"
NAMED = {
    "cProfile:run": TOUCH,
    "shutil:rmtree": "../outside",
    "os:system": "touch ../outside/ran",
    "trap:run": "",
    "builtins:exec": TOUCH,
    "trap.py:run": "",
    "../outside/trap.py:run": "",
    "subprocess:Popen": "true",
    "pty:spawn": "true",
}


def _names(function: str, argument: str) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content.update(function=function, reference=function, derivative_of=function, has_derivative_of=True)
        content.update(inputs=[argument], requires_grad=[False])

    return change


CALLS: dict[str, Callable[[Content], Any]] = {
    "a function of escapes": put("function", value=ESCAPES),
    "a function that is a tensor": put("function", value=torch.zeros(3)),
    "a reference of escapes": put("reference", value=ESCAPES),
    "a reference that is a tensor": put("reference", value=torch.zeros(3)),
    "names of escapes": put("options", "names", value=[ESCAPES]),
    "names that are a number": put("options", "names", value=3),
    "names that are tensors": put("options", "names", value=[torch.zeros(3)]),
    "options that there are not": put("options", ESCAPES, value=1),
    "a tolerance of NaN": put("options", "tolerance", value=math.nan),
    "a tolerance of infinity": put("options", "tolerance", value=math.inf),
    "a tolerance of words": put("options", "tolerance", value="1"),
    "a skip of all": put("options", "skip", value=["*", ESCAPES]),
    "a seed of 2^70": put("seed", value=2**70),
    "a seed below 0": put("seed", value=-1),
    "true as seed": put("seed", value=True),
    "versions of escapes": put("versions", value={ESCAPES: ESCAPES}),
    "a verdict of escapes": put("verdict", value=ESCAPES),
    "a kind of escapes": put("kind", value=ESCAPES),
    "a kind that is a tensor": put("kind", value=torch.zeros(3)),
    "a version that is a tensor": put("format_version", value=torch.zeros(3)),
    "a format that is a tensor": put("format", value=torch.zeros(3)),
    "an input of 2^33 numbers": put("inputs", value=[torch.zeros(1, dtype=torch.float64).expand(1 << 33)]),
    "inputs 400 deep": lambda content: content.update(inputs=[_deep(400)]),
    "a sparse input": put("inputs", value=[torch.eye(3, dtype=torch.float64).to_sparse()]),
    "a meta input": put("inputs", value=[torch.zeros(3, dtype=torch.float64, device="meta")]),
    "no input": lambda content: content.update(inputs=[], requires_grad=[]),
    "a thousand inputs": lambda content: content.update(inputs=[torch.ones(1)] * 5_000, requires_grad=[True] * 5_000),
    "what needs a gradient, as words": put("requires_grad", value=["x"]),
    "an answer by a whole number": lambda content: content.update(inputs=[3], requires_grad=[True]),
    "no report": lambda content: content.pop("report"),
}
HARMLESS = (
    "a reference of escapes",
    "names of escapes",
    "versions of escapes",
    "a verdict of escapes",
    "a tolerance of infinity",
    "a seed below 0",
    "a seed of 2^70",
    "true as seed",
    "a function of escapes",
    "a function that is a tensor",
    "a reference that is a tensor",
    "no report",
    "a thousand inputs",
    "no input",
    "inputs 400 deep",
)


def _deep(levels: int) -> Any:
    value: Any = torch.ones(1)
    for _ in range(levels):
        value = [value]
    return value


STEPS: dict[str, Callable[[Content], Any]] = {
    "10^9 units": put("architecture", "sizes", value=[4, 10**9, 2]),
    "10^5 layers": put("architecture", "sizes", value=[4, *[1] * 100_000, 2]),
    "an activation of escapes": put("architecture", "activation", value=ESCAPES),
    "a batch of 2^33 rows": lambda content: content["batches"][0].update(x=torch.zeros(1, 1).expand(1 << 33, 4)),
    "10^5 batches": lambda content: content.update(batches=content["batches"] * 100_000),
    "10^5 past batches": lambda content: content.update(past=content["batches"] * 100_000),
    "a label out of range": lambda content: content["batches"][0].update(labels=torch.tensor([0, 1, 0, 1, 10**9])),
    "a label below 0": lambda content: content["batches"][0].update(labels=torch.tensor([0, 1, 0, 1, -1])),
    "labels of words": lambda content: content["batches"][0].update(labels=ESCAPES),
    "no batch": put("batches", value=[]),
    "weights of NaN": lambda content: content["weights"]["layers.0.weight"].fill_(math.nan),
    "weights of escapes": lambda content: content["weights"].update({ESCAPES: torch.zeros(3)}),
    "weights that are sparse": lambda content: content["weights"].update(
        {"layers.0.weight": torch.zeros(3, 4).to_sparse()}
    ),
    "no weights": put("weights", value={}),
    "a message of escapes": put("message", value=ESCAPES),
    "a step of words": put("step", value=ESCAPES),
    "a seed of NaN": put("seeds", "screen", value=math.nan),
    "smoothing of 7": put("loss_options", "label_smoothing", value=7.0),
    "smoothing of escapes": put("loss_options", "label_smoothing", value=ESCAPES),
    "recorded gradients of words": lambda content: content["gradients"].update({"layers.0.weight": ESCAPES}),
    "recorded gradients of 2^33": lambda content: content["gradients"].update(
        {"layers.0.weight": torch.zeros(1).expand(1 << 33)}
    ),
    "what needs a gradient, as words": lambda content: content["requires_grad"].update({"layers.0.weight": "x"}),
    "an architecture that is a list": put("architecture", value=[1]),
}

SAYS = {"a skip of all": "skip"}
FOUND = {"a message of escapes": 0, "weights of NaN": 3, "recorded gradients of 2^33": 0}

HOSTILE = [
    *(
        Hostile(f"replay: names {name}", of_call(_names(name, argument)), says="--function")
        for name, argument in NAMED.items()
    ),
    *(
        Hostile(f"check: names {name}", of_call(_names(name, argument), "check", "call.pt", "torch:square"), says="")
        for name, argument in NAMED.items()
    ),
    *(
        Hostile(f"replay --function: {name}", of_call(change, *ASKED), either=name in HARMLESS, says=SAYS.get(name))
        for name, change in CALLS.items()
    ),
    Hostile("replay: a function of escapes", of_call(CALLS["a function of escapes"]), says="--function"),
    Hostile("replay: a function that is a tensor", of_call(CALLS["a function that is a tensor"])),
    Hostile(
        "check: a function that is a tensor",
        of_call(CALLS["a function that is a tensor"], "check", "call.pt", "torch:square"),
        says="call.pt",
        either=True,
    ),
    *(
        Hostile(f"step: {name}", of_step(change), either=name in FOUND, other=FOUND.get(name, 0))
        for name, change in STEPS.items()
    ),
    Hostile("a call with 2^40 leaves", _pickled("call.pt", shared(40, b"](", b"e"))),
    Hostile("a step with 2^40 leaves", _pickled("step-1.pt", shared(40, b"](", b"e"))),
    Hostile(
        "a call that calls os.system", _pickled("call.pt", b"cos\nsystem\n" + text("touch ../outside/ran") + b"\x85R")
    ),
    Hostile(
        "a step of a bytearray of 4 GiB", _pickled("step-1.pt", b"cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x01\x85R")
    ),
    Hostile(
        "--function of a folder's file",
        of_call(lambda content: None, "replay", "--function", "nothing.py:f", "call.pt"),
        says="nothing.py",
    ),
]
