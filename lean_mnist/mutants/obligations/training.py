"""Faults of tensors, of the path that trains, of types, and of the claims of convergence."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from lean_mnist.mutants.native import in_c
from lean_mnist.mutants.obligations.making import (
    Fault,
    changed,
    changed_gradients,
    dense_fault,
    float32_fault,
    on_torch,
    only_in,
    option_fault,
    small_counts_as_negative,
    weights_times,
)
from lean_mnist.mutants.planting import Replacements
from lean_mnist.nn import parameters
from lean_mnist.verification.statements.convergence import CEILING, CLAIMS, SIGMA2

# Of kernels.c: the sum that is the gradient of a bias.
_FIRST_OF_BIAS = "for (int64_t i = 0; i < net->examples; i++)\n            for (int64_t j = begin"


def _columns_first(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().T.reshape(-1) if p.ndim == 2 else p.detach() for p in model.parameters()])


def _one_place_further() -> Replacements:
    """Flattening and its inverse, both one place further on."""
    original = parameters.unflatten_parameters
    return {
        "nn.parameters.unflatten_parameters": lambda vector, model: original(vector.roll(1), model),
        **changed("nn.parameters.flatten_parameters", lambda vector, model: vector.roll(-1)),
    }


def _in_place_fault(change: Callable[[list[torch.Tensor]], list[torch.Tensor]]) -> Replacements:
    """``change(gradients)`` of what is copied to the vector that trains."""
    original = parameters.FlatParameters.gradients_to_vector
    return {"nn.parameters.FlatParameters.gradients_to_vector": lambda self, found: original(self, change(list(found)))}


def _biases_exchanged(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """The gradients of the first two biases exchanged, if they are of one size."""
    if len(gradients) > 3 and gradients[1].shape == gradients[3].shape:
        gradients[1], gradients[3] = gradients[3], gradients[1]
    return gradients


def _odd_batches(right: Any, loss_B: Any, d_mean: Any) -> Any:
    size = loss_B.shape[0]
    return right * (size / (size + 1)) if isinstance(loss_B, torch.Tensor) and size % 2 else right


TRAINING = [
    Fault(
        "on tensors, the mean of the logits is subtracted and not the largest",
        on_torch("row_shift", lambda self, x: x.detach().mean(1, keepdim=True)),
        ("tensors.loss-bounds", "tensors.loss", "original.log-sum-exp-stable", "original.reported-loss"),
    ),
    Fault(
        "on tensors, the bias is left out",
        on_torch("affine", lambda self, x, weight, bias: x @ weight.T),
        ("training.whole-numbers", "gradient.network-full-size"),
    ),
    Fault(
        "on tensors, values below 0.3 count as negative",
        small_counts_as_negative(0.3),
        ("tensors.activations", "gradient.network-full-size"),
    ),
    Fault(
        "on tensors, tanh is evaluated in float32",
        on_torch("tanh", lambda x: torch.tanh(x.float()).to(x.dtype)),
        ("tensors.elementary", "tensors.activations"),
    ),
    Fault(
        "a node scales its gradient by 1.001",
        changed_gradients("nn.functions.MLPFunction.backward", lambda g: g * 1.001),
        ("tensors.gradcheck",),
    ),
    Fault(
        "the node that trains scales its gradient by 0.99",
        changed_gradients("nn.functions.MLPLossFunction.backward", lambda g: g * 0.99),
        ("gradient.network-gradcheck", "gradient.network-full-size", "gradient.central-difference-network"),
    ),
    Fault(
        "parameters are flattened column by column",
        {"nn.parameters.flatten_parameters": _columns_first},
        ("types.round-trip",),
    ),
    Fault("the vector is stored one place further on, consistently", _one_place_further(), ("types.layout",)),
    Fault(
        "a layer's shapes are not checked",
        {"chainrule.dense.check_dense_shapes": lambda *arguments: None},
        ("types.wrong-shapes",),
    ),
    Fault(
        "upstream gradients may broadcast",
        {"chainrule.arrays.check_upstream": lambda *arguments: None},
        ("types.wrong-upstream",),
    ),
    Fault(
        "plain SGD has momentum",
        {
            "training.config.optimizers.build_optimizer": lambda config, chosen: torch.optim.SGD(
                list(chosen), lr=config.learning_rate, momentum=0.5
            )
        },
        (
            *("convergence.sgd-enumerated", "convergence.gd-quadratic", "convergence.running-mean"),
            *("convergence.sgd-convex-enumerated", "convergence.sgd-stationary-enumerated"),
        ),
    ),
    Fault(
        "from five layers on weight gradients are doubled",
        weights_times(2, lambda n, layers: len(layers) >= 5),
        ("gradient.network-exact", "gradient.network-gradcheck", "training.any-numbers"),
    ),
    Fault(
        "without a bias weight gradients are 1 % too large",
        weights_times(1.01, lambda n, layers: layers[n][1] is None and isinstance(layers[n][0], torch.Tensor)),
        ("training.whole-numbers",),
    ),
    Fault(
        "the gradient below a layer of one unit is halved on tensors",
        dense_fault(
            "x_BD",
            lambda right, tape, d_z: (
                right / 2 if isinstance(d_z, torch.Tensor) and tape.weight_HD.shape[0] == 1 else right
            ),
        ),
        ("training.whole-numbers", "gradient.network-gradcheck"),
    ),
    Fault(
        "in the vector that trains the gradient is 1 % too large",
        _in_place_fault(lambda gradients: [g * 1.01 for g in gradients]),
        ("training.whole-numbers", "training.any-numbers", "types.one-vector"),
    ),
    Fault(
        "in the vector that trains equal biases are exchanged",
        _in_place_fault(_biases_exchanged),
        ("training.whole-numbers",),
    ),
    Fault(
        "in the vector that trains square weights are transposed",
        changed(
            "nn.parameters._in_columns",
            lambda right, p: p.reshape(-1) if p.dim() == 2 and p.shape[0] == p.shape[1] else right,
        ),
        ("training.whole-numbers",),
    ),
    Fault(
        "the twin that computes in bfloat16 keeps its first weights",
        {"nn.parameters.FlatParameters.vector_to_network": lambda self: None},
        ("training.whole-numbers",),
    ),
    Fault(
        "in C the gradient of a bias leaves out the first example",
        in_c(_FIRST_OF_BIAS, _FIRST_OF_BIAS.replace("i = 0", "i = 1")),
        ("training.whole-numbers", "training.any-numbers"),
    ),
    Fault(
        "batches of a step weigh alike, whatever their sizes",
        {"nn.step.shares_of": lambda batches: [1 / len(batches)] * len(batches)},
        ("training.whole-numbers", "training.any-numbers"),
    ),
    Fault(
        "the mean of an odd number of losses is divided by one more",
        changed("chainrule.losses.mean_backward", _odd_batches),
        ("training.whole-numbers",),
    ),
    Fault(
        "in float32 the node that trains is 1 % off",
        changed_gradients("nn.functions.MLPLossFunction.backward", only_in(torch.float32, lambda g: g * 1.01)),
        ("training.whole-numbers", "training.any-numbers"),
    ),
    Fault(
        "in float32 label smoothing is forgotten in the backward",
        option_fault("label_smoothing", 0, torch.float32),
        ("training.whole-numbers", "training.any-numbers"),
    ),
    Fault(
        "in float32 the penalty is forgotten in the backward",
        option_fault("logit_penalty", 0, torch.float32),
        ("training.whole-numbers", "training.any-numbers"),
    ),
    Fault(
        "in float32 ReLU zeroes what is below 0.001",
        small_counts_as_negative(1e-3, torch.float32),
        ("tensors.activations",),
    ),
    Fault(
        "in float32 tanh is rounded to bfloat16",
        float32_fault("tanh", lambda y: y.to(torch.bfloat16).to(y.dtype)),
        ("tensors.elementary", "tensors.activations"),
    ),
    Fault(
        "in float32 a logarithm is 0.0001 off",
        float32_fault("log", lambda y: y + 1e-4),
        ("tensors.elementary", "tensors.loss"),
    ),
    Fault(
        "in bfloat16 the bias is left out",
        on_torch("affine", lambda self, x, w, b: x @ w.T if b is None or x.dtype == torch.bfloat16 else x @ w.T + b),
        ("training.whole-numbers",),
    ),
    Fault(
        "Robbins and Monro: a lower ceiling",
        {"verification.statements.convergence.CEILING": CEILING - 1},
        ("convergence.robbins-monro",),
    ),
]

_DERIVED = {  # the obligation that derives each claim
    "strongly convex": "sgd-strongly-convex",
    "convex, no noise": "gd-convex",
    "convex": "sgd-convex",
    "not convex": "sgd-stationary",
}


def _claim_fault(claim: str, what: str, run: str = "", **changes: Callable[[Any], Any]) -> Fault:
    """Another learning rate or bound in a claim of convergence; ``run`` sees it, too."""
    wrong = replace(CLAIMS[claim], **{key: change(getattr(CLAIMS[claim], key)) for key, change in changes.items()})
    fails = tuple(f"convergence.{name}" for name in (_DERIVED[claim], run) if name)
    return Fault(f"{claim}: {what}", {f"verification.statements.convergence.CLAIMS.{claim}": wrong}, fails)


def _less_noise(bound: Any) -> Any:
    return bound.subs(SIGMA2, -SIGMA2)


_SUBTRACTED = "the noise term is subtracted"
CLAIMED = [
    _claim_fault("strongly convex", _SUBTRACTED, "sgd-enumerated", bound=_less_noise),
    _claim_fault("strongly convex", "twice the largest rate", "sgd-enumerated", largest=lambda rate: 2 * rate),
    _claim_fault("convex, no noise", "half the bound", bound=lambda bound: bound / 2),
    _claim_fault("convex, no noise", "four times the largest rate", "gd-quadratic", largest=lambda rate: 4 * rate),
    _claim_fault("convex", _SUBTRACTED, bound=_less_noise),
    _claim_fault("convex", "eight times the largest rate", "sgd-convex-enumerated", largest=lambda rate: 8 * rate),
    _claim_fault("not convex", _SUBTRACTED, "sgd-stationary-enumerated", bound=_less_noise),
    _claim_fault("not convex", "four times the largest rate", largest=lambda rate: 4 * rate),
]
