"""``check_function``: hold the backward of any ``torch.autograd.Function`` against the derivative of its forward.

The rules are in ``lean_mnist.crosscheck.rules``: oracles, each with an error of its own instead of a chosen tolerance,
and the contract that every Function owes. This module validates the question and asks them in turn. ``check_module``
asks it of a module with its parameters.
"""

import functools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lean_mnist.crosscheck import rules
from lean_mnist.crosscheck.bundles.bundle import Question, load_bundle, question_of
from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.numerics.in_float64 import why_not_float64
from lean_mnist.crosscheck.options import Options, VaryBatch, VarySizes, seed_from
from lean_mnist.crosscheck.questions import checked_inputs, first_call, require_callable, require_same_shapes
from lean_mnist.crosscheck.report import (
    GRADIENT,
    Finding,
    FunctionReport,
    Severity,
    Verdict,
    failed,
    not_applicable,
    note,
)
from lean_mnist.crosscheck.rules.finite_differences import COPIES
from lean_mnist.crosscheck.rules.reference_gradients import escape_probability
from lean_mnist.crosscheck.subjects.arguments import Arguments, Inputs
from lean_mnist.crosscheck.subjects.calls import (
    CallFailed,
    GradientSource,
    NotChecked,
    Subject,
    generators_put_back,
    one_line,
)
from lean_mnist.crosscheck.subjects.modules import ModuleFunction, TensorPlaces
from lean_mnist.errors import ArgumentError, nearest
from lean_mnist.torch_internals import compiling_often, graphs_compiled

# Names that ``skip`` may hold.
RULES = tuple(name for rule in rules.RULES for name in (rule.name, *rule.also))


def check_function(
    function: Callable[..., Any],
    reference: Callable[..., Any] | None,
    inputs: Inputs | str | Path,
    *,
    names: Sequence[str] | None = None,
    seed: int | None = None,
    probes: int = 3,
    replays: int = 8,
    vary_batch: VaryBatch = False,
    vary_sizes: VarySizes | None = None,
    skip: Collection[str] = (),
    fail_on: str = "error",
    intended: str = "",
    derivative_of: Callable[..., Any] | None = None,
    tolerance: float = 0.0,
    gradients_from: GradientSource = None,
    time_limit: float = math.inf,
    max_memory: float = math.inf,
    fast: bool = False,
    upstream: Sequence[Sequence[Tensor | None]] = (),
) -> FunctionReport:
    """Check ``function`` (say ``MyFunction.apply``) and its gradients against ``reference``, in plain PyTorch.

    For random upstream gradients ``v`` (Gaussian, from ``seed``, a fresh one each time if not given), ``function``'s
    outputs and ``vᵀ ∂outputs/∂input`` for every input that requires a gradient are compared with those of ``reference``
    in float64; ``reference`` in the inputs' own precision says how much rounding explains. Then come forward-mode
    derivatives of the reference, adaptive finite differences and a Taylor test of the function itself,
    ``torch.autograd.gradcheck`` where it suits, and the contract every Function owes: linear in the upstream gradient,
    blind to layouts, changing nothing in place, repeatable, right for each subset of inputs, differentiable twice or
    refusing to be, right under autocast or refusing it.

    With ``reference=None`` the backward is held against the function's own forward, which itself is not checked.

    Args:
        inputs: arguments of both functions, on any device: a list, or a mapping of keyword arguments, with tensors
            also inside of lists and dicts. Floating and complex tensors with ``requires_grad`` are checked, complex
            ones as their real and imaginary parts (a last dimension of 2). Or the path of a bundle that ``record``
            wrote: its inputs, and its upstream gradients as further probes.
        names: of the inputs, for the report.
        probes: how many random upstream gradients (and directions); the report says what so many are worth.
        replays: how often the same call is repeated, to see that it repeats itself.
        vary_batch: check other batch sizes too (0, 1, 3, 17, 35). ``True``: of all inputs that are as long as the first
            checked one; or the indices of the inputs whose dimension 0 is the batch; or a function from size to inputs.
        vary_sizes: check other sizes (1, 2, 15, 16, 17, 33) of these dimensions too: from indices or names of inputs to
            a dimension or several. Those that have one length now are of one length then.
        skip: names of ``RULES`` that are not to be asked, because the Function means to break them.
        fail_on: the least severity that makes the report fail: ``"error"`` (a first-order gradient is wrong),
            ``"warning"`` (silently wrong in another use that PyTorch allows), or ``"note"``.
        intended: a word for why the gradient is meant not to be the derivative, such as ``"surrogate"``
            (straight-through estimators, gradient reversal, natural gradients). The oracles are not asked then, the
            contract is. A Function can say so itself by a class attribute of this name.
        derivative_of: a function of the same inputs, in plain PyTorch, whose derivative the gradient is meant to be
            (the sigmoid behind a step's surrogate gradient). Gradients are compared with its; also a class attribute.
        tolerance: a relative error that gradients, and outputs beside the reference's, may have besides rounding, as
            those of iterative solvers do.
        gradients_from: where gradients are read that ``torch.autograd.grad`` does not return: ``"backward"`` (``.grad``
            after ``.backward()``; so too, with a note, where nothing is said and only that runs), ``"main_grad"``, or
            a function from a tensor to its gradient, called after ``.backward()``.
        time_limit: in seconds; rules are asked in the order of their worth for their cost, what does not fit is listed.
        max_memory: in bytes, beside the inputs; rules that would take more are left out, and listed.
        fast: ask the rules of most worth for their cost only (those that are registered as ``fast``).
        upstream: further upstream gradients, as of a training run: lists of a tensor, or ``None``, for every output.

    The report's verdict is ``FAILED``, ``PASSED``, or, where no oracle applied to some input, ``INCONCLUSIVE``.
    Raises ``ArgumentError`` if the question makes no sense (no input requires a gradient, outputs of other shapes, a
    function that raises on these inputs); a wrong gradient is not an error but a report that is not ``ok``.
    """
    require_callable("function", function)
    if reference is not None:
        require_callable("reference", reference)
    if isinstance(inputs, (str, Path)):
        inputs, recorded = question_of(Path(inputs), load_bundle(Path(inputs)))
        names, upstream = names or recorded.get("names"), upstream or recorded.get("upstream", ())
    arguments = Arguments.of(inputs, names)
    given, named = arguments.flat(inputs), {} if names is None else {"names": list(names)}
    owner = _function_class(function)
    options = Options(
        probes=probes, replays=replays, vary_batch=vary_batch, vary_sizes=vary_sizes, skip=skip, fail_on=fail_on,
        tolerance=tolerance,
        intended=intended or getattr(owner, "intended", None) or "",
        derivative_of=derivative_of or getattr(owner, "derivative_of", None), gradients_from=gradients_from,
        time_limit=time_limit, max_memory=max_memory, fast=fast, upstream=upstream,
    )  # fmt: skip
    for rule in skip:
        if rule not in RULES:
            raise ArgumentError(f"skip: expected names of RULES, found {rule!r}{nearest(rule, RULES)}")
    checked = checked_inputs(given, arguments.names)
    seed = seed_from(seed)
    own, kept = ([x.detach().clone() if isinstance(x, Tensor) else x for x in given] for _ in range(2))
    asked = {**named, **vars(options), "skip": list(skip)}
    needs = tuple(i in checked for i in range(len(given)))
    question = Question(function, reference, arguments.nested(kept), needs, asked)
    with generators_put_back(), compiling_often():
        graphs = graphs_compiled()
        subject = Subject(function, "function", own, checked, arguments=arguments, source=options.gradients_from)
        try:
            findings, judged_by = _ask(_context(subject, reference, arguments.names, seed, options))
        except Exception as error:
            reason = NotChecked.of(error)
            if reason is None:
                raise
            findings = [not_applicable(str(reason), rule="backward")]
            judged_by = {arguments.names[i]: () for i in checked}
    if graphs_compiled() > graphs:
        text = "other layouts, sizes and subsets of inputs, autocast and second derivatives were asked of it uncompiled"
        findings.append(note(f"{text}; see check_compiled", rule="compilation"))
    worth = f"{escape_probability(probes):.1e}"
    remark = f"{probes} probes: an error 100 times what rounding explains passes them with probability below {worth}"
    if reference is None:
        remark += "; no reference, so the forward itself was not checked"
    oracles = tuple(rule.name for rule in rules.RULES if rule.oracle and rule.name not in skip)
    return FunctionReport(
        tuple(findings), seed, remark, Severity(fail_on), options.intended, judged_by, oracles, question=question
    )


def _context(
    subject: Subject, reference: Callable[..., Any] | None, names: Sequence[str], seed: int, options: Options
) -> Context:
    """The check's state, once the functions are seen to run, and to give outputs of the same shapes."""
    first = first_call(subject, seed)
    plain = replace(subject, clones=False, source=None)
    other = smooth = None
    if reference is not None:
        other = replace(plain, function=reference, role="reference")
        require_same_shapes(first, other)
    if options.derivative_of is not None:
        smooth = replace(plain, function=options.derivative_of, role="derivative_of")
        require_same_shapes(first, smooth)
    return Context(subject, other, names, seed, options, smooth, evaluated=first)


def _judged_by(ctx: Context, findings: Sequence[Finding]) -> dict[str, tuple[str, ...]]:
    """The oracles that applied to each checked input; to one without entries there is nothing to apply."""
    looked = [finding for finding in findings if finding.oracle and finding.verdict is not Verdict.NOT_APPLICABLE]
    sizes = {ctx.name(place): ctx.subject.inputs[i].numel() for place, i in enumerate(ctx.checked)}
    nothing = not any(sizes.values())
    return {
        name: tuple(dict.fromkeys(f.rule for f in looked if size and f.subject in (name, "")))
        for name, size in sizes.items()
        if size or nothing
    }


def _function_class(function: Callable[..., Any]) -> type[Any] | None:
    """The class behind ``MyFunction.apply``, whose attributes may describe its gradient."""
    owner = getattr(function, "__self__", None)
    return owner if isinstance(owner, type) and issubclass(owner, torch.autograd.Function) else None


def _ask(ctx: Context) -> tuple[list[Finding], Mapping[str, tuple[str, ...]]]:
    """The findings of all rules that are to be asked, and that time and memory allow; and what judged which input."""
    options = ctx.options
    try:
        refused = ctx.subject.refused_by_grad(ctx.probe)
    except CallFailed as failure:
        findings = [failed(f"{failure}{_named_input(failure, ctx)}", rule="backward")]
        return findings, _judged_by(ctx, findings)
    for subject in (ctx.subject, ctx.reference, ctx.smooth):
        if subject is not None:
            subject.deadline = ctx.started + options.time_limit
    try:
        fits = COPIES * ctx.size <= options.max_memory
        ctx.why_not_float64 = why_not_float64(ctx if fits or ctx.part is None else ctx.part)
    except Exception as error:
        reason = NotChecked.of(error)
        if reason is None:
            raise
        ctx.why_not_float64 = str(reason)
    findings = list[Finding]()
    if options.intended:
        text = f"{options.intended}: the gradient is meant not to be the derivative, and is compared with none"
        findings.append(note(text, rule="intended"))
    if refused:
        text = f"read from .grad after .backward(), because with torch.autograd.grad its {refused}"
        findings.append(note(text, rule="gradients_from"))
    for rule in rules.RULES:
        # An oracle is not asked of what is meant not to be the derivative, but for outputs.
        if rule.name in options.skip or (options.intended and rule.oracle and rule.name != GRADIENT):
            continue
        wrong = any(found.oracle and found.verdict is Verdict.FAILED for found in findings)
        if rule.if_right and (wrong or options.intended):
            why = "the gradient itself is wrong" if wrong else "the gradient is meant not to be the derivative"
            findings.append(not_applicable(why, rule=rule.name))
            continue
        findings += [finding for finding in rule.findings(ctx) if finding.rule not in options.skip]
    return findings, {} if options.intended else _judged_by(ctx, findings)


def _named_input(failure: CallFailed, ctx: Context) -> str:
    """PyTorch says at which index a gradient has a wrong shape; of ``MyFunction.apply`` that is an input."""
    found = re.search(r"invalid gradient at index (\d+)", one_line(failure.error, 1000))
    if found is None or _function_class(ctx.subject.function) is None:
        return ""
    index = int(found[1])
    return f" (index {index} is {ctx.names[index]})" if index < len(ctx.names) else ""


Reference = nn.Module | Callable[..., Any]


def check_module(
    module: nn.Module, inputs: Inputs, reference: Reference | None = None, **options: Any
) -> FunctionReport:
    """Check the gradients of ``module``, in the inputs and parameters that require one, as ``check_function`` does.

    It runs as it is, with its hooks, in its mode, and with its buffers as they are at every call; parameters and
    buffers are put back in the end. The report calls parameters by their names.

    Args:
        module: any module; in training mode its random numbers are seeded before every call.
        inputs: arguments of its forward, a list or a mapping of keywords.
        reference: a module in plain PyTorch whose parameters have the same names, or a function of the module, whose
            parameters it reads, and of the inputs. Without it the backward is held against the forward.
        options: of ``check_function``. ``names`` are those of the inputs, whose indices come before the parameters'.

    Raises ``ArgumentError`` as ``check_function`` does.
    """
    if not isinstance(module, nn.Module):
        raise ArgumentError(f"module: expected a torch.nn.Module, found {type(module).__name__}")
    lazy = [name for name, p in module.named_parameters() if is_lazy(p)]
    if lazy:
        raise ArgumentError(f"module: expected initialised parameters, found {lazy[0]}, lazy; call the module once")
    names = Arguments.of(inputs, options.pop("names", None)).top
    keywords, given = (list(inputs), list(inputs.values())) if isinstance(inputs, Mapping) else (None, list(inputs))
    places = TensorPlaces(module)
    own = list(places.tensors)
    other: ModuleFunction | None = None
    if isinstance(reference, nn.Module):
        theirs = TensorPlaces(reference)
        if list(theirs.tensors) != own:
            raise ArgumentError(
                f"reference: expected parameters and buffers {', '.join(own)}, found {', '.join(theirs.tensors)}"
            )
        other = ModuleFunction(reference, theirs, own, keywords)
    elif reference is not None:
        require_callable("reference", reference)
        # While it runs, the module holds the tensors to compute with.
        other = ModuleFunction(functools.partial(reference, module), places, own, keywords)
    try:
        values, options["names"] = [*given, *places.tensors.values()], [*names, *own]
        return check_function(ModuleFunction(module, places, own, keywords), other, values, **options)
    finally:
        places.set(places.tensors)
        if isinstance(reference, nn.Module):
            theirs.set(theirs.tensors)
