"""``torch.autograd.gradcheck`` on a piece of the step: a few examples, features and units, cut from batch and weights.

gradcheck compares with finite differences, so it needs float64, few numbers, and no unit near its kink.
"""

import enum
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from lean_mnist.audit.reference import REFERENCE_ACTIVATIONS, NetworkLoss
from lean_mnist.chainrule.losses import softmax_cross_entropy
from lean_mnist.nn import functional
from lean_mnist.nn.step import Layers, names_of_layers

EXAMPLES, FEATURES, UNITS, CLASSES = 3, 5, 4, 4
# gradcheck moves each number by 1e-6; a unit this far from its kink stays on its side.
KINK_MARGIN = 1e-4
# Not 1, because a backward may have a branch for 1, and no power of two, because those hide lost digits.
UPSTREAM = 1.7
# A hundred times tighter than gradcheck's own, which let a gradient scaled by 1.001 pass; float64 keeps them with ease.
RELATIVE, ABSOLUTE = 1e-5, 1e-7


class GradcheckVerdict(enum.Enum):
    """Outcomes of gradcheck on a piece of a step."""

    PASSED = "passed"
    FAILED = "failed"
    KINK = "kink"  # no piece keeps clear of the kinks


@dataclass(frozen=True)
class GradcheckResult:
    """Verdict of gradcheck on a piece of a step, and why where it has not passed."""

    verdict: GradcheckVerdict
    message: str = ""

    @property
    def passed(self) -> bool:
        """True if nothing is known to be wrong."""
        return self.verdict is not GradcheckVerdict.FAILED


@torch.no_grad()
def cut_piece(
    loss: NetworkLoss, layers: Layers, x_BD: Tensor, labels_B: Tensor
) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor | None]]] | None:
    """Inputs, labels and layers of a small network cut from this one, in float64; ``None`` if kinks are in the way."""
    x = x_BD[:EXAMPLES].detach().to(torch.float64)
    columns = x.abs().sum(0).topk(min(FEATURES, x.shape[1])).indices
    x = x[:, columns]
    h, cut, activation = x, [], REFERENCE_ACTIVATIONS[loss.activation]
    *hidden, (last, last_bias) = [(w.double(), None if b is None else b.double()) for w, b in layers]
    for weight, bias in hidden:
        weight = weight[:, columns]
        z = F.linear(h, weight, bias)
        clearance = z.abs().amin(0) if len(z) else torch.ones(z.shape[1], dtype=z.dtype)
        clearest = clearance.topk(min(UNITS, z.shape[1]))
        if activation.below_kink is not None and float(clearest.values.min()) < KINK_MARGIN:
            return None
        columns = clearest.indices
        cut.append((weight[columns], None if bias is None else bias[columns]))
        h = activation.value(z[:, columns])
    classes, labels = _classes(labels_B[:EXAMPLES], len(last))
    cut.append((last[classes][:, columns], None if last_bias is None else last_bias[classes]))
    return x, labels, cut


def _classes(labels_B: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """A few classes, those of the examples among them, and the labels renumbered to fit."""
    present = labels_B.unique()
    others = [c for c in range(classes) if c not in present.tolist()][: max(0, CLASSES - len(present))]
    chosen = torch.cat([present, torch.tensor(others, dtype=present.dtype, device=present.device)])
    return chosen, (labels_B[:, None] == chosen[None, :]).to(torch.int64).argmax(1)


def gradcheck_piece(loss: NetworkLoss, layers: Layers, x_BD: Tensor, labels_B: Tensor) -> GradcheckResult:
    """Run ``torch.autograd.gradcheck``, slow mode, on the hand-written loss of a piece of this step."""
    piece = cut_piece(loss, layers, x_BD, labels_B)
    if piece is None:
        why = "every piece of this step has a unit too near its kink for finite differences"
        return GradcheckResult(GradcheckVerdict.KINK, why)
    x, labels, cut = piece
    inputs = [tensor.requires_grad_() for tensor in (x, *(p for layer in cut for p in layer if p is not None))]
    names = ["x", *(name for pair in names_of_layers(cut) for name in pair if name is not None)]
    rule = softmax_cross_entropy(loss.label_smoothing, loss.logit_penalty)

    def hand_written(x: Tensor, *flat: Tensor) -> Tensor:
        parameters = iter(flat)
        again = [(next(parameters), None if bias is None else next(parameters)) for _, bias in cut]
        return UPSTREAM * functional.mlp_loss(x, labels, again, loss.activation, rule)

    with torch.enable_grad():
        try:
            # Finite differences lose about 1e-10 of the loss to rounding.
            absolute = max(ABSOLUTE, 1e-9 * abs(float(hand_written(*inputs).detach())))
            with _UpstreamAsFactor():
                torch.autograd.gradcheck(hand_written, inputs, rtol=RELATIVE, atol=absolute)
        except GradcheckError as error:
            return GradcheckResult(GradcheckVerdict.FAILED, _explain(str(error), hand_written, inputs, names))
    return GradcheckResult(GradcheckVerdict.PASSED)


class _UpstreamAsFactor(TorchFunctionMode):
    """Upstream gradients given to ``torch.autograd.grad`` are factors of its outputs: grad(y, x, g) is grad(y·g, x).

    For scalars that is the same to the last bit. To compare their shapes PyTorch imports SymPy, half a second.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.autograd.grad and (given := kwargs.pop("grad_outputs", None)) is not None:
            outputs, inputs = args
            upstream = (given,) if isinstance(given, Tensor) else given
            args = [y * g for y, g in zip(outputs, upstream, strict=True)], inputs
        return function(*args, **kwargs)


def _explain(message: str, function: Callable[..., Tensor], inputs: Sequence[Tensor], names: Sequence[str]) -> str:
    """One line from gradcheck's message: which tensor, and the entry where the two derivatives differ most."""
    which = re.search(r"with respect to input (\d+)", message)
    if which is None:
        return f"gradcheck: {' '.join(message.split())}"
    index = int(which[1])
    analytical = torch.autograd.grad(function(*inputs), inputs[index])[0].contiguous()
    numerical = torch.empty_like(analytical)
    with torch.no_grad():
        for place in range(numerical.numel()):
            moved = []
            for step in (1e-6, -1e-6):
                x = inputs[index].clone()
                x.view(-1)[place] += step
                moved.append(function(*inputs[:index], x, *inputs[index + 1 :]))
            numerical.view(-1)[place] = (moved[0] - moved[1]) / 2e-6
    worst = int((analytical - numerical).abs().nan_to_num(nan=math.inf).argmax())
    ours, differences = float(analytical.view(-1)[worst]), float(numerical.view(-1)[worst])
    return f"gradcheck: {names[index]}: hand-written {ours:.9g}, finite differences {differences:.9g}"
