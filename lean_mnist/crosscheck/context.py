"""State of one check that its rules share: the function at its inputs, random upstream gradients, allowances."""

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.comparison import FLOOR_ULPS
from lean_mnist.crosscheck.options import LEAST, Options
from lean_mnist.crosscheck.perturbation import DRAWS, perturbed_inputs, perturbed_vjp
from lean_mnist.crosscheck.subjects.arguments import as_real
from lean_mnist.crosscheck.subjects.calls import CallFailed, Evaluated, Subject, Upstream
from lean_mnist.crosscheck.subjects.nodes import custom_nodes
from lean_mnist.crosscheck.subjects.numbers import nearly_same, norm, normal
from lean_mnist.errors import ArgumentError
from lean_mnist.torch_internals import function_of

# Of a call of more numbers than LARGE, oracles are asked in full, and the contract of some rows, of PART numbers.
LARGE, PART = 2**17, 2**14
SCATTER_FACTOR = 10.0  # so many times the scatter under ulp perturbations a difference may be


@dataclass
class Context:
    """One check: the subject, its reference (if any), random probes, and facts found out on the way."""

    subject: Subject
    reference: Subject | None
    names: Sequence[str]
    seed: int
    options: Options = LEAST
    smooth: Subject | None = None  # whose derivative the gradient is meant to be, instead of the subject's own
    fixed_upstream: Upstream | None = None  # to compare gradients for, instead of random ones
    why_not_float64: str = ""  # why the function does not take float64; empty if it does
    lowered: bool = False  # in float64 it computes in about float32 on the way
    coarsest: float = 0.0  # a unit of rounding on the way that is larger than the dtypes say (autocast, TF32)
    noise: dict[object, float] = field(default_factory=dict)  # of one output, by checked input and precision
    kinks: set[int] = field(default_factory=set)  # inputs at whose value a rule met a kink
    evaluated: Evaluated | None = None  # a forward of the subject, if there was one already
    started: float = field(default_factory=lambda: time.monotonic())
    generator: torch.Generator = field(init=False)
    outputs: list[Tensor] = field(init=False)  # of one forward, detached
    differentiable: list[bool] = field(init=False)  # which of them depend on an input
    marked: set[int] = field(init=False)  # outputs that the Function marks non-differentiable
    functions: list[type[Any]] = field(init=False)  # the classes of the Functions in its graph
    given_upstream: list[list[Tensor]] = field(init=False)  # beside the random ones

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)
        outputs = (self.evaluated or self.subject.call()).outputs
        self.evaluated = None
        self.outputs = [y.detach() for y in outputs]
        self.differentiable = [y.requires_grad for y in outputs]
        self.given_upstream = [_like(self.outputs, given) for given in self.options.upstream]
        # Of what a Function itself returns, only what it marks needs no gradient; a wrapper may cut a gradient off.
        alone = isinstance(getattr(self.subject.function, "__self__", None), type) and any(self.differentiable)
        self.marked = {k for k, needs in enumerate(self.differentiable) if alone and not needs}
        made_by = [function_of(node) for node in custom_nodes(outputs)]
        self.functions = [function for function in made_by if function is not None]

    def at(self, inputs: Sequence[Any], words: str, **changes: Any) -> "Context":
        """The same check at other inputs, by one probe, seeded by ``words`` for them. Raises ``CallFailed``."""
        fresh = {"kinks": set(), "options": replace(self.options, probes=1, upstream=()), **changes}
        return replace(
            self, subject=self.subject.at(inputs), seed=self.seed + len(words), noise={},
            reference=None if self.reference is None else self.reference.at(inputs),
            smooth=None if self.smooth is None else self.smooth.at(inputs), **fresh,
        )  # fmt: skip

    def rows(self, index: Tensor) -> "Context":
        """The same check at the rows ``index`` of all ``long`` inputs. Raises ``CallFailed``."""
        inputs = [x.detach()[index.to(x.device)] if i in self.long else x for i, x in enumerate(self.subject.inputs)]
        return self.at(inputs, "", kinks=self.kinks, options=replace(self.options, upstream=()))

    @property
    def length(self) -> int:
        """Of the first checked input."""
        first = self.subject.inputs[self.checked[0]]
        return first.shape[0] if first.dim() else 0

    @property
    def long(self) -> list[int]:
        """The inputs that are as long as the first checked one."""
        first, inputs = self.subject.inputs[self.checked[0]].shape[:1], enumerate(self.subject.inputs)
        return [i for i, x in inputs if isinstance(x, Tensor) and x.dim() and x.shape[:1] == first]

    @property
    def large(self) -> bool:
        """True if it has more than ``LARGE`` numbers."""
        return self.numbers > LARGE

    @property
    def takes_other_sizes(self) -> bool:
        """True if nobody need say that other sizes may be tried: on a CPU, where an index out of range raises.

        On a GPU it is an assertion, after which the process can use the GPU no more.
        """
        return all(x.device.type == "cpu" for x in self.subject.inputs if isinstance(x, Tensor))

    @functools.cached_property
    def base(self) -> tuple[list[Tensor], list[Tensor]]:
        """An upstream gradient that rules share, and the gradients for it."""
        upstream = self.gaussian()
        return upstream, self.subject.vjp(upstream)

    def probe(self) -> tuple[list[Tensor], list[Tensor]]:
        """An upstream gradient, and the gradients for it; of a large call always the same ones."""
        if self.large:
            return self.base
        upstream = self.gaussian()
        return upstream, self.subject.vjp(upstream)

    @functools.cached_property
    def in_float64(self) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs in float64, and the gradients for the shared upstream gradient. Raises ``CallFailed``."""
        evaluated = self.subject.call(dtype=torch.float64)
        return [y.detach() for y in evaluated.outputs], evaluated.gradients(self.checked, self.base[0])

    @functools.cached_property
    def part(self) -> "Context | None":
        """Some rows of a large call, drawn at random, where the function is seen to treat each of them by itself.

        Their outputs and gradients alone are those that they have in the whole call, up to rounding.
        """
        if not self.large or not self.length or self.subject.seed is not None or not self.takes_other_sizes:
            return None
        moving = sum(self.subject.inputs[i].numel() for i in self.long) + sum(y.numel() for y in self.outputs)
        count = max(2, PART * self.length // moving)
        if self.numbers - moving + count * moving // self.length > self.numbers // 8:
            return None
        index = torch.randint(self.length, (count,), generator=self.generator, device="cpu").unique()
        try:
            there = self.rows(index)
            found = there.subject.vjp([v[index.to(v.device)] for v in self.base[0]])
        except (CallFailed, IndexError):
            return None
        pairs = list(zip(there.outputs, self.outputs, strict=False))
        pairs += [(g, whole) for i, g, whole in zip(self.checked, found, self.base[1], strict=True) if i in self.long]
        same = len(there.outputs) == len(self.outputs) and all(
            whole.shape[:1] == (self.length,) and nearly_same(whole[index.to(g.device)], g, self.unit, g.numel() ** 0.5)
            for g, whole in pairs
        )
        return there if same else None

    @property
    def checked(self) -> tuple[int, ...]:
        """The indices of the inputs whose gradients are checked."""
        return self.subject.checked

    @property
    def dtypes(self) -> list[torch.dtype]:
        """The dtypes of the checked inputs and of the outputs."""
        return [*(self.subject.inputs[i].dtype for i in self.checked), *(y.dtype for y in self.outputs)]

    @property
    def gradient_reference(self) -> Subject | None:
        """The function, in plain PyTorch, whose gradients the subject's are held against."""
        return None if self.options.intended else self.smooth or self.reference

    @property
    def unit(self) -> float:
        """The unit of rounding of the coarsest dtype among inputs and outputs, or on the way."""
        return max(self.coarsest, *(torch.finfo(dtype).eps / 2 for dtype in self.dtypes))

    @property
    def numbers(self) -> int:
        """The numbers in all inputs and outputs."""
        return sum(x.numel() for x in (*self.subject.inputs, *self.outputs) if isinstance(x, Tensor))

    @property
    def size(self) -> int:
        """Bytes of all inputs and outputs."""
        tensors = [x for x in (*self.subject.inputs, *self.outputs) if isinstance(x, Tensor)]
        return sum(x.numel() * x.element_size() for x in tensors)

    def gaussian(self) -> list[Tensor]:
        """Upstream gradients, Gaussian, one for each output, exactly representable in its dtype.

        Zeros for outputs that are marked non-differentiable, whatever the reference's are.
        """
        drawn = [normal(y.shape, self.generator, y.device).to(y.dtype) for y in self.outputs]
        return [v * (k not in self.marked) for k, v in enumerate(drawn)]

    def name(self, place: int) -> str:
        """The name of the ``place``-th checked input."""
        return self.names[self.checked[place]]

    def allowances(self, upstream: Upstream, gradients: Sequence[Tensor]) -> list[float]:
        """For each checked input, how far (in 2-norm) rounding may move its gradient.

        Measured with no reference: the gradient's scatter when every result on the way is perturbed by an ulp.
        """
        shifts = [[0.0] for _ in self.checked]
        for _ in range(DRAWS):
            inputs = perturbed_inputs(self.subject, self.generator, self.coarsest or None)
            drawn = perturbed_vjp(self.subject, upstream, inputs, self.generator)
            for shift, a, b in zip(shifts, drawn, gradients, strict=True):
                shift.append(norm(torch.where(a == b, 0, a - b)))  # infinite in the same way is no scatter
        # Beside a pole one may be infinite, which would allow everything.
        largest = [max(filter(math.isfinite, shift)) for shift in shifts]
        return [SCATTER_FACTOR * shift + self.floor(g) for shift, g in zip(largest, gradients, strict=True)]

    def floor(self, gradient: Tensor) -> float:
        """The least that rounding of ``gradient`` may be, in 2-norm, with the tolerance that was asked for."""
        size = norm(torch.where(gradient.isfinite(), gradient, 0))  # beside infinity, the rest still counts
        return (FLOOR_ULPS * self.unit + self.options.tolerance) * size + torch.finfo(gradient.dtype).tiny

    def differing(self, found: Sequence[Tensor], expected: Sequence[Tensor], upstream: Upstream) -> list[int]:
        """The places where two sets of gradients for ``upstream`` differ by more than rounding explains."""
        # Where both are infinite in the same way, they do not differ.
        differences = [
            norm(torch.where(a == b, 0, a.double() - b.double())) for a, b in zip(found, expected, strict=True)
        ]
        suspects = [place for place, e in enumerate(expected) if not differences[place] <= self.floor(e)]
        if not suspects:
            return []
        allowed = self.allowances([None if v is None else v.contiguous() for v in upstream], expected)
        return [place for place in suspects if not differences[place] <= allowed[place]]


def _like(outputs: Sequence[Tensor], given: Upstream) -> list[Tensor]:
    """Upstream gradients in the dtypes and on the devices of ``outputs``; zeros where one is ``None``."""
    real = [None if v is None else as_real(v.detach()) for v in given]
    shapes = [[None if x is None else tuple(x.shape) for x in tensors] for tensors in (outputs, real)]
    if len(real) != len(outputs) or any(found not in (None, own) for own, found in zip(*shapes, strict=True)):
        raise ArgumentError(f"upstream: expected the shapes {shapes[0]} of the outputs, found {shapes[1]}")
    return [torch.zeros_like(y) if v is None else v.to(y) for v, y in zip(real, outputs, strict=True)]
