"""The Functions inside of a recorded call, each on its own: where the call as a whole tells nothing of some of them."""

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.monitor.intents import Intents
from lean_mnist.crosscheck.monitor.reasons import NotApplicable, Reason
from lean_mnist.crosscheck.monitor.recorded_calls import RecordedCall, nodes_to_check
from lean_mnist.crosscheck.monitor.slopes import differences
from lean_mnist.crosscheck.report import Finding, Verdict, not_applicable
from lean_mnist.crosscheck.rules.finite_differences import DIFFERENCES
from lean_mnist.crosscheck.subjects.calls import Evaluated, Subject, Upstream
from lean_mnist.crosscheck.subjects.interception import intercepted
from lean_mnist.crosscheck.subjects.nodes import leaves_reached_from
from lean_mnist.torch_internals import function_of


def check_functions(
    recorded: RecordedCall, subject: Subject, upstream: Upstream, intents: Intents, seed: int
) -> list[Finding]:
    """Differences of every Function that ``recorded`` calls, at the arguments that a replay gives it.

    Those whose gradient is meant to be no derivative are left out. Raises ``NotApplicable`` where that leaves none.
    """
    functions, arguments = set(recorded.functions.values()), dict[Any, list[Any]]()

    def keep(_: type[Any], ctx: Any, given: list[Any]) -> None:
        arguments[ctx] = [
            x.detach().clone().requires_grad_(needs) if isinstance(x, Tensor) else x
            for x, needs in zip(given, ctx.needs_input_grad, strict=True)
        ]

    with intercepted(functions, keep):
        evaluated = subject.call()
    nodes = [node for node in nodes_to_check(evaluated.outputs, set()) if function_of(node) in functions]
    came: dict[Any, tuple[Tensor | None, ...]] = {}
    for node in nodes:
        node.register_hook(functools.partial(lambda node, _, gradients: came.__setitem__(node, gradients), node))
    # Also those that the caller does not know of: a node runs only where its gradient is asked for.
    leaves = leaves_reached_from(nodes)
    Evaluated(leaves, evaluated.outputs, leaves).gradients(range(len(leaves)), upstream)
    findings = []
    for node in nodes:
        function = function_of(node)
        if function is None or intents.of_function(function).word:
            continue
        if node in came and node in arguments:
            findings += _check(function, arguments[node], came[node], intents, seed)
        else:
            findings.append(not_applicable(f"no gradient came to {function.__name__}", rule=DIFFERENCES))
    for function in functions - {function_of(node) for node in nodes}:
        if not intents.of_function(function).word:
            findings.append(not_applicable(f"{function.__name__} is not called again", rule=DIFFERENCES))
    if not findings:
        raise NotApplicable(Reason.NOT_REPEATABLE, "its state has changed, or is not kept")
    if any(finding.verdict is Verdict.NOT_APPLICABLE for finding in findings):  # then nothing is said of all
        findings = [replace(finding, oracle=False) for finding in findings]
    return findings


def _check(
    function: Any, arguments: list[Any], came: tuple[Tensor | None, ...], intents: Intents, seed: int
) -> list[Finding]:
    needing = tuple(i for i, x in enumerate(arguments) if isinstance(x, Tensor) and x.requires_grad)
    inputs = [_in_full_precision(x) for x in arguments]
    subject = Subject(function.apply, function.__name__, inputs, needing, seed % 2**63)
    results = function.apply(*(x.detach().clone() if isinstance(x, Tensor) else x for x in inputs))
    floats = [
        isinstance(y, Tensor) and y.is_floating_point() for y in (results if isinstance(results, tuple) else (results,))
    ]
    upstream = [_in_full_precision(v) for v, is_float in zip(came, floats, strict=True) if is_float]
    ctx = Context(subject, None, [f"input {i} of {function.__name__}" for i in range(len(inputs))], seed)
    smooth = intents.of_function(function).smooth
    forward = None if smooth is None else Subject(smooth, "derivative_of", inputs, needing)
    return differences(ctx, upstream, subject.vjp(upstream), forward)


def _in_full_precision(x: Any) -> Any:
    if isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16):
        return x.detach().float().requires_grad_(x.requires_grad)
    return x
