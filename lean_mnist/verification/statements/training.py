"""The path that trains: the gradient that an engine of steps puts in place, in the dtypes that train, at every depth.

Everything runs as a run does: a network whose parameters are parts of one vector, steps as written and, in float32 and
where there is a compiler, in C, several batches a step, an update between them. Numbers are chosen so that nothing
rounds, and all that is found is compared with fractions by ``==``; or they are any numbers, and PyTorch's autograd is
the reference.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lean_mnist.audit.reference import NetworkLoss, reference_gradients
from lean_mnist.chainrule import mlp
from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.data.batches import HotBatch
from lean_mnist.nn import MLP, FlatParameters, flatten_parameters
from lean_mnist.nn.engine.library import CannotCompile
from lean_mnist.nn.engine.native import NativeEngine
from lean_mnist.nn.step import Batch, StepEngine, StepResult, put_flat_gradients
from lean_mnist.nn.update import Update
from lean_mnist.training.config import Config, optimizers
from lean_mnist.verification import assumptions as rests_on
from lean_mnist.verification.methods.networks import RationalNetwork
from lean_mnist.verification.methods.numeric import normal
from lean_mnist.verification.model import Method, NotEstablished, Refuted, Statements
from lean_mnist.verification.statements.gradients import OURS

OBLIGATIONS = checked = Statements("training", "The path that trains")
BATCH = 4  # examples of a batch: a power of two, so that a mean of whole numbers does not round


@dataclass
class Run:
    """A network with its parameters in one vector, and the two engines of its steps: as written, and in C.

    ``dtype`` is that of the steps: 16 bits are computed by a twin in float32's stead, as ``--precision bfloat16`` does.
    """

    model: MLP
    dtype: torch.dtype

    def __post_init__(self) -> None:
        self.parameters = FlatParameters(self.model, self.dtype)
        self.parameters.vector.data.zero_()  # from where an update leads to any numbers without rounding
        self.parameters.vector_to_network()
        config = Config(optimizer="sgd", lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0)
        optimizer = optimizers.build_optimizer(config, [self.parameters.vector])
        self.update = Update(self.parameters.network, optimizer, flat=self.parameters)
        self.hot = HotBatch(BATCH, self.model.sizes[0])
        compute = functools.partial(put_flat_gradients, self.parameters)
        self.as_written = StepEngine(compute, self.update, lambda: False)
        self.native: NativeEngine | None = None
        self.missing = ""  # why there are no steps in C, where there should be
        if self.dtype == torch.float32:
            try:
                self.native = NativeEngine(self.parameters, self.update, lambda: False, self.hot, threads=1)
            except CannotCompile as error:
                self.missing = f"; none of them in C: {error}"

    def move_to(self, vector: Tensor) -> None:
        """An update, by the optimizer, that ends with these weights in the order of ``flatten_parameters``."""
        before = [p.detach().clone() for p in self.model.parameters()]
        sizes = [p.numel() for p in before]
        for old, new, p in zip(before, vector.split(sizes), self.model.parameters(), strict=True):
            assert p.grad is not None
            p.grad.copy_(old - new.view_as(old))
        self.update.apply(1.0)

    def gradients(self) -> dict[str, Tensor]:
        """``.grad`` of every parameter of the model, which is where an optimizer finds it."""
        return {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}

    def steps(self, before: Any, first: Batch, after: Any, second: Batch) -> Iterator[tuple[str, int, StepResult]]:
        """Every way to take a step: its name, 0 at weights ``before`` or 1 ``after`` an update, and its result."""
        self.move_to(before)
        yield "as written", 0, self.as_written.step([first])
        if self.native is not None:
            yield "in C", 0, self._in_c(self.native, first)
        self.move_to(after)
        if self.native is not None:
            yield "in C after an update", 1, self._in_c(self.native, second)
        (x, labels) = second
        yield "with its batch in two", 1, self.as_written.step([(x[:1], labels[:1]), (x[1:], labels[1:])])

    def _in_c(self, engine: NativeEngine, batch: Batch) -> StepResult:
        self.hot.features.copy_(batch[0])
        self.hot.labels.copy_(batch[1])
        result = engine.step([(self.hot.features, self.hot.labels)])
        if engine.refused:
            raise Refuted("a step in C is not that of the chain rule", engine.refused)
        return result


# Whole numbers: the logits are multiples of 1024, so that e^(s_k − max s) is 0 in every dtype but for the largest, and
# softmax is exactly 0 and 1; with it the gradient in the logits is a fraction. The options are powers of two.
_FAR = 1024
SIZES = ((3, 4), (3, 1, 4), (2, 2, 2, 2), (2, 3, 1, 2, 4), (2, 2, 2, 2, 2, 2), (3, 2, 1, 2, 2, 2, 4))
OPTIONS = ((0.0, 0.0), (0.5, 2**-10))
DTYPES = {torch.float64: 53, torch.float32: 24, torch.bfloat16: 8}  # bits of a number
WHOLE = [  # with an option the numbers have more digits than 8 bits hold
    case
    for case in itertools.product(SIZES, (True, False), OPTIONS, DTYPES)
    if case[2:] != (OPTIONS[1], torch.bfloat16)
]


def _whole_network(seed: int, sizes: Sequence[int], bias: bool) -> RationalNetwork:
    network = RationalNetwork.random(seed, sizes, "relu", BATCH, bias)
    for array in (network.x, *(a for layer in network.layers for a in layer if a is not None)):
        array[...] = np.sign(array) * (abs(array) > Fraction(1, 2)) * Fraction(1)  # −1, 0 and 1: at the kink, too
    for weight, _ in network.layers[:-1]:
        weight[0] = abs(weight[0])  # so that not everything dies on its way through narrow layers
    for array in network.layers[-1]:
        if array is not None:
            array *= _FAR
    return network


def _exact(network: RationalNetwork, options: tuple[float, float]) -> tuple[Fraction, dict[str, Any], int] | None:
    """Mean loss, gradients by name, and bits that no sum of terms exceeds; ``None`` if two logits are the largest."""
    smoothing, penalty = map(Fraction, options)
    s, tape = mlp.mlp_forward(network.x, network.layers, ACTIVATIONS["relu"])
    classes = s.shape[1]
    one_hot = np.array([[Fraction(int(c == y)) for c in range(classes)] for y in network.labels], dtype=object)
    largest = s == s.max(1)[:, None]
    if (largest.sum(1) > 1).any():
        return None
    target = (1 - smoothing) * one_hot + smoothing / classes
    d_s = (largest * Fraction(1) - target + penalty * s) / BATCH
    losses = ((s.max(1)[:, None] - s) * target + penalty / 2 * s * s).sum(1)
    found = mlp.mlp_backward(tape, network.layers, ACTIVATIONS["relu"], d_s)
    names = ((f"layers.{n}.{part}", g) for n, pair in enumerate(found.layers)
             for part, g in zip(("weight", "bias"), pair, strict=True) if g is not None)  # fmt: skip
    return losses.sum() / BATCH, dict(names), _bits(network, d_s)


def _bits(network: RationalNetwork, d_s: Any) -> int:
    """Bits that hold every partial sum of forward and backward, in whatever order its terms are added."""
    layers = [(abs(w), None if b is None else abs(b)) for w, b in network.layers]
    _, tape = mlp.mlp_forward(abs(network.x), layers, ACTIVATIONS["identity"])
    back = mlp.mlp_backward(tape, layers, ACTIVATIONS["identity"], abs(d_s))
    unit = Fraction(1, max(value.denominator for value in d_s.flat))  # of the upstream gradient of the last layer
    *below, last = [[g for g in pair if g is not None] for pair in back.layers]
    scaled = [(unit, last), (unit * _FAR, [*back.d_inputs, *itertools.chain(*below)]),
              (Fraction(1), tape.pre_activations[:-1]), (Fraction(_FAR), tape.pre_activations[-1:])]  # fmt: skip
    return max(int(array.max() / step).bit_length() for step, arrays in scaled for array in arrays)


def _whole_case(sizes: Sequence[int], bias: bool, options: tuple[float, float], bits: int) -> list[Any]:
    """Two networks, each with a batch for it and what is exact of it, for which ``bits`` a number are enough."""
    found: list[Any] = []
    for seed in range(400):
        network = _whole_network(seed, sizes, bias)
        exact = _exact(network, options)
        if exact is not None and exact[2] <= bits and any((g != 0).any() for g in list(exact[1].values())[:1]):
            found.append((network, *exact[:2]))
            if len(found) == 2:
                return found
    raise NotEstablished(f"no network {sizes} was found whose numbers fit into {bits} bits")


def _vector(network: RationalNetwork, dtype: torch.dtype) -> Tensor:
    parts = [array.reshape(-1) for layer in network.layers for array in layer if array is not None]
    return torch.tensor(np.concatenate(parts).astype(float), dtype=dtype)


def _batch(network: RationalNetwork, dtype: torch.dtype) -> Batch:
    return torch.tensor(network.x.astype(float), dtype=dtype), torch.from_numpy(network.labels)


@checked(
    OURS,
    f"on {len(WHOLE)} networks of whole numbers, 1 to {max(map(len, SIZES)) - 1} layers deep and some of them 1 unit "
    "wide, with and without biases, smoothing and penalty, in float64, float32 and bfloat16, as written and, with a "
    "compiler, in C",
    Method.EXACT,
    rests_on=(rests_on.FRACTIONS, rests_on.IEEE, rests_on.CASES),
)
def whole_numbers() -> str:
    """the gradient in ``.grad`` and the loss of every kind of step are those on fractions."""
    compared, missing = 0, ""
    for sizes, bias, options, dtype in WHOLE:
        held = torch.float32 if dtype == torch.bfloat16 else dtype
        cases = _whole_case(sizes, bias, options, DTYPES[dtype])
        model = MLP(sizes, bias=bias, dtype=held, label_smoothing=options[0], logit_penalty=options[1])
        run = Run(model, dtype)
        missing = missing or run.missing
        run.as_written.step([_batch(cases[0][0], dtype)])  # so that every parameter has a gradient
        given: Any = [part for network, *_ in cases for part in (_vector(network, held), _batch(network, dtype))]
        for way, which, result in run.steps(*given):
            _, loss, exact = cases[which]
            place = f"{'-'.join(map(str, sizes))}, {dtype}, {'' if bias else 'no '}biases, options {options}, {way}"
            found = run.gradients()
            if found.keys() != exact.keys():
                raise Refuted("a parameter has no gradient", f"{sorted(found)} instead of {sorted(exact)}, {place}")
            for name, one, other in [("loss", result.loss, np.array(loss)), *((n, found[n], exact[n]) for n in exact)]:
                compared += one.numel()
                if one.double().tolist() != other.astype(float).tolist():
                    raise Refuted(
                        f"{name} is not that on fractions",
                        f"{place}: {one.tolist()} instead of {other.astype(float).tolist()}"[:300],
                    )
    return f"{compared:,} numbers, equal with =={missing}"


# Any numbers: sizes, activation, options, bias, dtype.
ANY_SIZES = ((784, 128, 10), (12, 9, 8, 8, 7, 6, 5), (12, 7))
ANY = [
    (sizes, name, options, bias, dtype)
    for n, (sizes, name) in enumerate(itertools.product(ANY_SIZES, ACTIVATIONS))
    for options, bias, dtype in (
        (((0.0, 0.0), True, torch.float32), ((0.1, 0.01), False, torch.float32), ((0.1, 0.0), True, torch.float64))
        if sizes[0] < 100 or n % 7 in (0, 4) else (((0.0, 0.0), True, torch.float32),)
    )
]  # fmt: skip
ANY_ULPS = 64.0


@checked(
    "network_gradient_correct",
    f"on {len(ANY)} networks (784-128-10 and 6 layers among them), all activations, float32 and float64, as written "
    f"and, with a compiler, in C, to {ANY_ULPS:.0f} units of rounding of each gradient's norm",
    Method.FLOATS,
    rests_on=(rests_on.AUTOGRAD, rests_on.CASES, rests_on.TORCH),
)
def any_numbers() -> str:
    """the gradient in ``.grad`` of every kind of step is the reference's."""
    largest, missing = 0.0, ""
    for case, (sizes, name, options, bias, dtype) in enumerate(ANY):
        generator = torch.Generator().manual_seed(case)
        smoothing, penalty = options
        model = MLP(sizes, name, bias=bias, dtype=dtype, seed=case, label_smoothing=smoothing, logit_penalty=penalty)
        given = [
            flatten_parameters(model) + 0.1 * normal(generator, sum(map(Tensor.numel, model.parameters()))).to(dtype)
            for _ in range(2)
        ]
        batches = [
            (normal(generator, BATCH, sizes[0]).to(dtype), torch.randint(sizes[-1], (BATCH,), generator=generator))
            for _ in range(2)
        ]
        run = Run(model, dtype)
        missing = missing or run.missing
        run.as_written.step([batches[0]])
        for way, which, _ in run.steps(given[0], batches[0], given[1], batches[1]):
            layers = [(w.detach(), None if b is None else b.detach()) for w, b in model.weights_and_biases()]
            loss = NetworkLoss(name, smoothing, penalty)
            exact = reference_gradients(loss, layers, *batches[which], dtype=torch.float64).gradients
            for (parameter, found), expected in zip(run.gradients().items(), exact, strict=True):
                unit = torch.finfo(dtype).eps * max(float(expected.norm()), 1e-30)
                error = float((found.double() - expected).norm()) / unit
                if not error <= ANY_ULPS:
                    place = f"{parameter} of {'-'.join(map(str, sizes))} {name}, {dtype}, {way}"
                    raise Refuted("a gradient differs from the reference", f"by {error:.0f} units of its norm: {place}")
                largest = max(largest, error)
    return f"largest difference {largest:.1f} units of rounding of the gradient's norm{missing}"
