"""The faults that obligations must find: in formulas, tensors, the path that trains, types and claims."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from lean_mnist.chainrule.activations import _normal_cdf
from lean_mnist.chainrule.arrays import primitives
from lean_mnist.chainrule.losses import Loss
from lean_mnist.mutants.mutant import BIAS, INPUT, WEIGHT
from lean_mnist.mutants.native import in_c
from lean_mnist.mutants.obligations.making import (
    RIGHT,
    Fault,
    activation_fault,
    changed,
    changed_gradients,
    dense_fault,
    fault,
    loss_fault,
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


# fmt: off
FORMULAS = [  # in whatever numbers the chain rule is computed
    fault("the weight gradient is 1 % too large", dense_fault(WEIGHT, lambda right, tape, d_z: right * 101 / 100),
          "gradient.matvec-matrix gradient.dense gradient.layer linear-algebra.outer linear-algebra.transpose "
          "linear-algebra.vmul linear-algebra.dot linear-algebra.normSq linear-algebra.matvec "
          "linear-algebra.batchMatvec"),
    fault("the input gradient has the wrong sign", dense_fault(INPUT, lambda right, tape, d_z: -right),
          "gradient.matvec-vector gradient.smul gradient.chain-rule linear-algebra.matmul linear-algebra.vadd "
          "linear-algebra.vsub linear-algebra.smul linear-algebra.matAdd linear-algebra.matSub linear-algebra.matSmul"),
    fault("the bias gradient is the mean over the batch and not the sum",
          dense_fault(BIAS, lambda right, tape, d_z: right / d_z.shape[0]),
          "gradient.dense linear-algebra.batchAddVec gradient.network-exact tensors.gradcheck"),
    fault("the bias gradient is not summed over the batch", dense_fault(BIAS, lambda right, tape, d_z: d_z),
          "gradient.vadd gradient.dense layer.forward-dimension layer.batch-dimension layer.composition-dimension"),
    fault("the one-hot target is dropped", loss_fault(lambda right, tape, d_loss: tape[0] * d_loss[:, None]),
          "gradient.cross-entropy loss.gradient-sum tensors.loss-bounds"),
    fault("the target is added and not subtracted",
          loss_fault(lambda right, tape, d_loss:
                     (tape[0] * 2 - right.backward(tape, d_loss * 0 + 1)) * d_loss[:, None]),
          "gradient.cross-entropy loss.gradient-bounded loss.lipschitz loss.convex"),
    fault("the penalty's gradient is doubled", option_fault("logit_penalty", 2), "gradient.cross-entropy-options"),
    fault("the loss has the wrong sign",
          loss_fault(forward=lambda right, s, y: (-right.forward(s, y)[0], right.forward(s, y)[1])),
          "loss.nonnegative loss.log-sum-exp loss.zero loss.unbounded tensors.loss-bounds"),
    fault("the loss is 1 too small",
          loss_fault(forward=lambda right, s, y: (right.forward(s, y)[0] - 1, right.forward(s, y)[1])),
          "original.loss-nonnegative loss.nonnegative"),
    fault("GELU's derivative lacks its second term", activation_fault("gelu", lambda z, d_h: d_h * _normal_cdf(z)),
          "gradient.gelu gradient.central-difference gradient.central-difference-order tensors.gradcheck"),
    fault("sigmoid's derivative is σ", activation_fault("sigmoid", lambda h, d_h: d_h * h),
          "gradient.sigmoid tensors.gradcheck"),
    fault("ReLU's mask is z ≥ 0",
          activation_fault("relu", lambda z, d_h: primitives(z).where_nonpositive(-z, d_h, d_h * 0),
                           lambda z: (RIGHT["relu"].forward(z)[0], z)),
          "gradient.relu"),
    fault("ReLU's mask is dropped", activation_fault("relu", lambda h, d_h: d_h),
          "gradient.relu gradient.network-exact gradient.network-gradcheck gradient.network-full-size"),
    fault("leaky ReLU's slope is 0.1 in the backward only",
          activation_fault("leaky-relu", lambda h, d_h: primitives(h).where_nonpositive(h, d_h / 10, d_h)),
          "gradient.leaky-relu gradient.network-exact"),
    fault("softmax's backward is its diagonal", {"chainrule.losses.softmax_backward": lambda p, d_p: p * (1 - p) * d_p},
          "gradient.softmax tensors.gradcheck"),
    fault("the mean's backward forgets 1/B",
          changed("chainrule.losses.mean_backward", lambda right, loss_B, d_mean: right * loss_B.shape[0]),
          "gradient.mean convergence.batch-variance gradient.network-full-size"),
    fault("the gradient of the first weight is lost", weights_times(0, lambda n, layers: n == 0),
          "gradient.network gradient.network-exact gradient.network-gradcheck gradient.chain-rule"),
    fault("tanh's derivative is 1 − tanh", activation_fault("tanh", lambda h, d_h: d_h * (1 - h)), "gradient.tanh"),
    fault("SiLU's derivative is doubled", activation_fault("silu", lambda z, d_h: RIGHT["silu"].backward(z, d_h) * 2),
          "gradient.silu"),
    fault("the identity's derivative is doubled", activation_fault("identity", lambda z, d_h: d_h * 2),
          "gradient.identity"),
    fault("the identity doubles", activation_fault("identity", RIGHT["identity"].backward, lambda z: (2 * z, z)),
          "layer.identity-activation"),
    fault("ReLU is the identity", activation_fault("relu", lambda h, d_h: d_h, lambda z: (z, z)),
          "original.covers-relu gradient.relu"),
    fault("the squared error's gradient is doubled",
          changed("chainrule.losses.squared_error",
                  lambda right: Loss(right.forward, lambda tape, d_loss: 2 * right.backward(tape, d_loss))),
          "gradient.squared-error gradient.network-exact"),
    fault("cross-entropy's gradient is doubled",
          loss_fault(lambda right, tape, d_loss: right.backward(tape, d_loss) * 2),
          "loss.gradient-lipschitz loss.lipschitz training.any-numbers"),
    fault("a dense layer adds its bias twice",
          {"chainrule.arrays.Primitives.affine": lambda self, x, w, b: x @ w.T + (0 if b is None else b + b)},
          "layer.affine layer.specification linear-algebra.vadd-commutative linear-algebra.vadd-associative"),
    fault("a dense layer squares", {"chainrule.arrays.Primitives.affine": lambda self, x, w, b: (x @ w.T) * (x @ w.T)},
          "layer.matvec-linear layer.affine-combination layer.affine-combination-stack "
          "linear-algebra.smul-distributes"),
]

TRAINING = [
    fault("on tensors, the mean of the logits is subtracted and not the largest",
          on_torch("row_shift", lambda self, x: x.detach().mean(1, keepdim=True)),
          "tensors.loss-bounds tensors.loss original.log-sum-exp-stable original.reported-loss"),
    fault("on tensors, the bias is left out", on_torch("affine", lambda self, x, weight, bias: x @ weight.T),
          "training.whole-numbers gradient.network-full-size"),
    fault("on tensors, values below 0.3 count as negative", small_counts_as_negative(0.3),
          "tensors.activations gradient.network-full-size"),
    fault("on tensors, tanh is evaluated in float32", on_torch("tanh", lambda x: torch.tanh(x.float()).to(x.dtype)),
          "tensors.elementary tensors.activations"),
    fault("a node scales its gradient by 1.001",
          changed_gradients("nn.functions.MLPFunction.backward", lambda g: g * 1.001), "tensors.gradcheck"),
    fault("the node that trains scales its gradient by 0.99",
          changed_gradients("nn.functions.MLPLossFunction.backward", lambda g: g * 0.99),
          "gradient.network-gradcheck gradient.network-full-size gradient.central-difference-network"),
    fault("parameters are flattened column by column",
          {"nn.parameters.flatten_parameters": lambda model: torch.cat(
              [p.detach().T.reshape(-1) if p.ndim == 2 else p.detach() for p in model.parameters()])},
          "types.round-trip"),
    fault("the vector is stored one place further on, consistently", _one_place_further(), "types.layout"),
    fault("a layer's shapes are not checked", {"chainrule.dense.check_dense_shapes": lambda *arguments: None},
          "types.wrong-shapes"),
    fault("upstream gradients may broadcast", {"chainrule.arrays.check_upstream": lambda *arguments: None},
          "types.wrong-upstream"),
    fault("plain SGD has momentum",
          {"training.config.optimizers.build_optimizer":
           lambda config, chosen: torch.optim.SGD(list(chosen), lr=config.learning_rate, momentum=0.5)},
          "convergence.sgd-enumerated convergence.gd-quadratic convergence.running-mean "
          "convergence.sgd-convex-enumerated convergence.sgd-stationary-enumerated"),
    fault("from five layers on weight gradients are doubled", weights_times(2, lambda n, layers: len(layers) >= 5),
          "gradient.network-exact gradient.network-gradcheck training.any-numbers"),
    fault("without a bias weight gradients are 1 % too large",
          weights_times(1.01, lambda n, layers: layers[n][1] is None and isinstance(layers[n][0], torch.Tensor)),
          "training.whole-numbers"),
    fault("the gradient below a layer of one unit is halved on tensors",
          dense_fault(INPUT, lambda right, tape, d_z:
                      right / 2 if isinstance(d_z, torch.Tensor) and tape.weight_HD.shape[0] == 1 else right),
          "training.whole-numbers gradient.network-gradcheck"),
    fault("in the vector that trains the gradient is 1 % too large",
          _in_place_fault(lambda gradients: [g * 1.01 for g in gradients]),
          "training.whole-numbers training.any-numbers types.one-vector"),
    fault("in the vector that trains equal biases are exchanged", _in_place_fault(_biases_exchanged),
          "training.whole-numbers"),
    fault("in the vector that trains square weights are transposed",
          changed("nn.parameters._in_columns",
                  lambda right, p: p.reshape(-1) if p.dim() == 2 and p.shape[0] == p.shape[1] else right),
          "training.whole-numbers"),
    fault("the twin that computes in bfloat16 keeps its first weights",
          {"nn.parameters.FlatParameters.vector_to_network": lambda self: None}, "training.whole-numbers"),
    fault("in C the gradient of a bias leaves out the first example",
          in_c(_FIRST_OF_BIAS, _FIRST_OF_BIAS.replace("i = 0", "i = 1")),
          "training.whole-numbers training.any-numbers"),
    fault("batches of a step weigh alike, whatever their sizes",
          {"nn.step.shares_of": lambda batches: [1 / len(batches)] * len(batches)},
          "training.whole-numbers training.any-numbers"),
    fault("the mean of an odd number of losses is divided by one more",
          changed("chainrule.losses.mean_backward", lambda right, loss_B, d_mean:
                  right * (len(loss_B) / (len(loss_B) + 1))
                  if isinstance(loss_B, torch.Tensor) and len(loss_B) % 2 else right), "training.whole-numbers"),
    fault("in float32 the node that trains is 1 % off",
          changed_gradients("nn.functions.MLPLossFunction.backward", only_in(torch.float32, lambda g: g * 1.01)),
          "training.whole-numbers training.any-numbers"),
    fault("in float32 label smoothing is forgotten in the backward", option_fault("label_smoothing", 0, torch.float32),
          "training.whole-numbers training.any-numbers"),
    fault("in float32 the penalty is forgotten in the backward", option_fault("logit_penalty", 0, torch.float32),
          "training.whole-numbers training.any-numbers"),
    fault("in float32 ReLU zeroes what is below 0.001", small_counts_as_negative(1e-3, torch.float32),
          "tensors.activations"),
    fault("in float32 tanh is rounded to bfloat16",
          changed("chainrule.arrays._TorchPrimitives.tanh",
                  only_in(torch.float32, lambda y: y.to(torch.bfloat16).to(y.dtype))),
          "tensors.elementary tensors.activations"),
    fault("in float32 a logarithm is 0.0001 off",
          changed("chainrule.arrays._TorchPrimitives.log", only_in(torch.float32, lambda y: y + 1e-4)),
          "tensors.elementary tensors.loss"),
    fault("in bfloat16 the bias is left out",
          on_torch("affine", lambda self, x, w, b: x @ w.T if b is None or x.dtype == torch.bfloat16 else x @ w.T + b),
          "training.whole-numbers"),
    fault("Robbins and Monro: a lower ceiling", {"verification.statements.convergence.CEILING": CEILING - 1},
          "convergence.robbins-monro"),
]
# fmt: on

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

FAULTS = (*FORMULAS, *TRAINING, *CLAIMED)
