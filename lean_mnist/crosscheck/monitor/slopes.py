"""The gradients of a call, or of each Function in it alone, against directional differences, by few evaluations."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.monitor.intents import Intents
from lean_mnist.crosscheck.monitor.reasons import NotApplicable, Reason
from lean_mnist.crosscheck.monitor.recorded_calls import RecordedCall, nodes_to_check
from lean_mnist.crosscheck.numerics.differences import SAFETY, Outcome, past_kinks, slope_test
from lean_mnist.crosscheck.numerics.in_float64 import same_in_float64
from lean_mnist.crosscheck.numerics.step_sizes import Line, noise_of
from lean_mnist.crosscheck.report import Finding, Verdict, not_applicable, passed
from lean_mnist.crosscheck.rules.finite_differences import DIFFERENCES
from lean_mnist.crosscheck.subjects.calls import Evaluated, Subject, Upstream
from lean_mnist.crosscheck.subjects.nodes import intercepted, leaves_reached_from
from lean_mnist.crosscheck.subjects.numbers import dot
from lean_mnist.torch_internals import function_of

STEPS = (2.0**-10, 2.0**-12)  # of two differences that mostly do, in units of the inputs' size
ENOUGH = 0.05  # the share of what rounding explains to which a slope need be known


def differences(
    ctx: Context, upstream: Upstream, gradients: Sequence[Tensor], forward: Subject | None = None
) -> list[Finding]:
    """Differences along one random line; where they meet a kink (zeros before a ReLU), at a perturbed point too.

    ``gradients`` are those of all checked inputs for ``upstream``. If they are wrong jointly, each is asked alone.
    ``forward`` is what differences are taken of, if not of the function itself.
    """
    own = ctx.dtypes[0]
    precision = torch.float64 if own == torch.float64 or same_in_float64(ctx) else own

    def judge_at(subject: Subject, places: Sequence[int] = range(len(gradients))) -> Outcome:
        claimed = gradients if subject is ctx.subject else subject.vjp(upstream)
        slope = slope_test(
            subject, places, upstream, claimed, ctx.generator, precision=precision, unit=ctx.unit,
            noise=functools.partial(noise_of, quick=True), enough=ENOUGH,
            forward=None if forward is None else forward.at(subject.inputs), at_once=_agrees,
        ).slope  # fmt: skip
        return Outcome.both(slope)

    outcome, at = past_kinks(judge_at, ctx.subject, ctx.generator)
    wrong, findings = outcome.slope.verdict is Verdict.FAILED, list[Finding]()
    if wrong and len(gradients) > 1:
        alone = [replace(judge_at(at, [place]).slope, subject=ctx.name(place)) for place in range(len(gradients))]
        findings = [slope for slope in alone if slope.verdict is Verdict.FAILED]
    findings = findings or [replace(outcome.slope, subject=", ".join(map(ctx.name, range(len(gradients)))))]
    words = ", at a perturbed point" * (at is not ctx.subject and wrong)
    words += f", by differences in {str(precision).removeprefix('torch.')}"
    return [replace(finding, text=finding.text + words, rule=DIFFERENCES, oracle=True) for finding in findings]


def _agrees(line: Line, gradients: Sequence[Tensor], rounding: float) -> Finding | None:
    """Agreement to what rounding explains, from two central differences in float64; ``None`` if there is none.

    What they do not settle (a kink, a function that computes in a lower precision on the way, a wrong gradient) is left
    to all step sizes and an estimate of the noise.
    """
    if line.points[0].dtype != torch.float64:
        return None
    larger, smaller = (
        line.change(line.evaluate(line.at(h)[0]), line.evaluate(line.at(-h)[0])) / (2 * h) for h in STEPS
    )
    slope = smaller + (smaller - larger) / ((STEPS[0] / STEPS[1]) ** 2 - 1)  # Richardson's extrapolation
    claimed, error = dot(line.directions, gradients), SAFETY * abs(slope - smaller) + rounding
    if not (abs(slope - claimed) <= error <= 2 * rounding):
        return None
    return passed(f"slope {slope:.9g}, gradient {claimed:.9g} (error estimate {error:.2e})")


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
