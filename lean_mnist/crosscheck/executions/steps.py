"""One forward and backward of a model or function: all its results by name, and their comparison with another's."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lean_mnist.crosscheck.diagnosis import diagnose
from lean_mnist.crosscheck.numerics.reference_outputs import ReferenceValues
from lean_mnist.crosscheck.perturbation import Perturbing
from lean_mnist.crosscheck.report import Finding, Verdict, failed
from lean_mnist.crosscheck.subjects.arguments import Arguments, Inputs, as_complex, as_real, floating_outputs, is_float
from lean_mnist.crosscheck.subjects.calls import as_leaf, seed_everything
from lean_mnist.crosscheck.subjects.numbers import normal
from lean_mnist.errors import ArgumentError

Model = Callable[..., Any]
Results = dict[str, Tensor]


def whole(x: Tensor) -> Tensor:
    """``x`` as a real tensor; of one that lies distributed over several devices, all of it."""
    return as_real(x.full_tensor() if hasattr(x, "full_tensor") else x)


@dataclass(frozen=True)
class Step:
    """A forward and a backward at ``inputs``, for ``Σ_k ⟨v_k, output_k⟩ / B`` with random ``v_k`` and batch size ``B``.

    ``B`` is the length of an output's dimension 0, so that the loss is a mean over examples as in training.
    """

    arguments: Arguments
    inputs: list[Any]
    seed: int
    part: tuple[int, int] = (0, 1)  # where the inputs are one of so many equal parts of a batch: which, and of how many

    @classmethod
    def at(cls, inputs: Inputs, seed: int) -> "Step":
        """The step at ``inputs``, of which tensors keep their layout."""
        arguments = Arguments.of(inputs)
        flat = [as_complex(x) if i in arguments.complex else x for i, x in enumerate(arguments.flat(inputs))]
        return cls(replace(arguments, complex=frozenset()), flat, seed)  # complex leaves, as a program has them

    def of(self, model: Model, dtype: torch.dtype | None = None, module: nn.Module | None = None) -> Results:
        """Outputs, gradients and buffers, by name. Parameters and buffers are those of ``module``, or of ``model``."""
        module = module or (model if isinstance(model, nn.Module) else None)
        needing = [isinstance(x, Tensor) and x.requires_grad for x in self.inputs]
        leaves = [as_leaf(x, dtype, needs) for x, needs in zip(self.inputs, needing, strict=True)]
        seed_everything(self.seed)
        with torch.enable_grad():
            outputs = floating_outputs(self.arguments.call(model, leaves), "model")
            terms = [self._term(k, y) for k, y in enumerate(outputs) if y.requires_grad]
            if terms:
                torch.stack(terms).sum().backward()
        wanted = {n: x for n, x, needs in zip(self.arguments.names, leaves, needing, strict=True) if needs}
        parameters, buffers = ({}, {}) if module is None else (module.named_parameters(), module.named_buffers())
        needed = [(name, p) for name, p in dict(parameters).items() if p.requires_grad]
        wanted.update((f"the model's {name}" if name in wanted else name, p) for name, p in needed)
        results = {f"output {k}": whole(y.detach()) for k, y in enumerate(outputs)}
        results.update((f"buffer {n}", whole(b).clone()) for n, b in dict(buffers).items() if is_float(b))
        for name, x in wanted.items():
            results[f"gradient of {name}"] = whole(torch.zeros_like(x) if x.grad is None else x.grad).detach()
            x.grad = None
        return results

    def _term(self, k: int, y: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed + k) % 2**63)
        size, (place, parts) = y.shape[0] if y.dim() else 1, self.part
        v = normal((size * parts, *y.shape[1:]) if y.dim() else (), generator, y.device)
        v = v[place * size : (place + 1) * size] if y.dim() else v
        v = ((32 * v).round() / 32).to(y.dtype)  # exactly representable in bfloat16: the same in every precision
        return (whole(y) * v).sum().double() / max(size, 1)


@dataclass(frozen=True)
class Expected:
    """The results of the trusted execution: in float64, in its own precision, and with ulp perturbations."""

    names: list[str]
    values: ReferenceValues
    words: tuple[str, str]  # what is checked (the rule's name), and what it is held against
    random: bool  # whether the model draws random numbers

    @classmethod
    def of(cls, model: Model, step: Step, words: tuple[str, str], tolerance: float = 0.0) -> "Expected":
        """Execute ``step`` on copies of ``model``. Raises ``ArgumentError`` if it has nothing to differentiate."""
        own = step.of(copied(model))
        if not any(name.startswith("gradient of ") for name in own):
            raise ArgumentError("model: expected a parameter or an input that requires a gradient, found none")
        again = replace(step, seed=step.seed + 1).of(copied(model))
        random = any(n.startswith("output ") and not torch.equal(own[n], again[n]) for n in own)
        exact = dict(own) if random else _in_float64(model, step) or dict(own)
        generator = torch.Generator().manual_seed(step.seed)

        def redraw() -> list[Tensor]:
            with Perturbing(generator):
                drawn = step.of(copied(model))
            return [drawn[name] for name in own]

        values = ReferenceValues([exact[n].double() for n in own], list(own.values()), redraw, tolerance)
        return cls(list(own), values, words, random)

    def findings(self, found: Mapping[str, Tensor], where: str = "") -> list[Finding]:
        """A finding for each result: whether rounding explains its difference."""
        missing = [name for name in self.names if name not in found]
        if missing:
            return [failed(f"without {', '.join(missing)}", where, rule=self.words[0])]
        return [self._finding(place, name, found[name], where) for place, name in enumerate(self.names)]

    def _finding(self, place: int, name: str, ours: Tensor, where: str) -> Finding:
        expected, own = self.values.exact[place], self.values.baseline[place]
        rule = self.words[0]
        if ours.shape != own.shape or ours.dtype != own.dtype:
            kinds = [f"{tuple(x.shape)} in {x.dtype}" for x in (ours, own)]
            text = f"{where}{self.words[0]} has {kinds[0]}, {self.words[1]} {kinds[1]}"
            return failed(text, name, rule=rule, oracle=True)
        divergence = self.values.recheck(place, name + where, ours)
        text = divergence.said(*self.words)
        if divergence.passed:
            return Finding(Verdict.PASSED, text, name, None, rule, divergence, oracle=True)
        return failed(text, name, diagnose(ours, expected), rule, divergence, oracle=True)


def worst(findings: Sequence[Finding]) -> list[Finding]:
    """Of several findings about one result the gravest."""

    def gravity(finding: Finding) -> tuple[bool, float]:
        return finding.verdict is Verdict.FAILED, 0.0 if finding.divergence is None else finding.divergence.share

    subjects = dict.fromkeys(finding.subject for finding in findings)
    return [max((f for f in findings if f.subject == subject), key=gravity) for subject in subjects]


def copied(model: Model) -> Model:
    """A copy of a module, so that no gradient or state of the user's is touched; a function as it is."""
    if not isinstance(model, nn.Module):
        return model
    try:
        twin = copy.deepcopy(model)
    except Exception as error:
        raise ArgumentError(f"model: expected one that copy.deepcopy copies; it raised {error}") from error
    for p in twin.parameters():
        p.grad = None
    return twin


def _in_float64(model: Model, step: Step) -> Results | None:
    """The results in float64; ``None`` where it does not run in it."""
    twin = copied(model)
    try:
        return step.of(twin.double() if isinstance(twin, nn.Module) else twin, torch.float64)
    except ArgumentError:
        raise
    except Exception:
        return None
