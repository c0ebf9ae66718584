"""Faults of tensors, of the path that trains, of types, and of the claims of convergence."""

import torch

from lean_mnist.mutants.obligations.making import (
    Fault,
    biases_exchanged,
    biases_first,
    ceiling_fault,
    claim_fault,
    columns_first,
    dense_fault,
    float32_fault,
    in_place_fault,
    narrow_node,
    network_fault,
    node_fault,
    noise_term_subtracted,
    odd_batches,
    on_torch,
    small_counts_as_negative,
    square_weights_transposed,
    weights_times,
    with_momentum,
    without_option,
)
from lean_mnist.nn import functions, parameters
from lean_mnist.torch_internals import operation_name

TRAINING = [
    Fault(
        "on tensors, the mean of the logits is subtracted and not the largest",
        on_torch("row_shift", lambda self, x: x.detach().mean(1, keepdim=True)),
        ("tensors.loss-bounds", "tensors.loss", "original.log-sum-exp-stable", "original.reported-loss"),
        ("gradient.cross-entropy", "loss.nonnegative"),
    ),
    Fault(
        "on tensors, the bias is left out",
        on_torch("affine", lambda self, x, weight, bias: x @ weight.T),
        ("training.whole-numbers", "gradient.network-full-size"),
        ("gradient.dense",),
    ),
    Fault(
        "on tensors, values below 0.3 count as negative",
        small_counts_as_negative(0.3),
        ("tensors.activations", "gradient.network-full-size"),
        ("gradient.relu",),
    ),
    Fault(
        "on tensors, tanh is evaluated in float32",
        on_torch("tanh", lambda x: torch.tanh(x.float()).to(x.dtype)),
        ("tensors.elementary", "tensors.activations"),
        ("gradient.tanh",),
    ),
    Fault(
        "a node scales its gradient by 1.001",
        node_fault(functions.MLPFunction, 1.001),
        ("tensors.gradcheck",),
        ("gradient.dense", "gradient.network-gradcheck"),
    ),
    Fault(
        "the node that trains scales its gradient by 0.99",
        node_fault(functions.MLPLossFunction, 0.99),
        ("gradient.network-gradcheck", "gradient.network-full-size", "gradient.central-difference-network"),
        ("tensors.gradcheck", "gradient.network-exact"),
    ),
    Fault(
        "parameters are flattened column by column",
        {"nn.parameters.flatten_parameters": columns_first},
        ("types.round-trip",),
        ("types.wrong-shapes", "types.layout"),
    ),
    Fault(
        "the vector is stored one place further on, consistently",
        biases_first(),
        ("types.layout",),
        ("types.round-trip",),
    ),
    Fault(
        "a layer's shapes are not checked",
        {"chainrule.dense.check_dense_shapes": lambda *arguments: None},
        ("types.wrong-shapes",),
        ("types.wrong-upstream",),
    ),
    Fault(
        "upstream gradients may broadcast",
        {"chainrule.arrays.check_upstream": lambda *arguments: None},
        ("types.wrong-upstream",),
        ("types.wrong-shapes",),
    ),
    Fault(
        "plain SGD has momentum",
        {"training.config.optimizers.build_optimizer": with_momentum},
        (
            *("convergence.sgd-enumerated", "convergence.gd-quadratic", "convergence.running-mean"),
            *("convergence.sgd-convex-enumerated", "convergence.sgd-stationary-enumerated"),
        ),
        ("convergence.batch-variance",),
    ),
    Fault(
        "from five layers on weight gradients are doubled",
        network_fault(lambda g, layers: weights_times(2, g, lambda layer: len(layers) >= 5, layers)),
        ("gradient.network-exact", "gradient.network-gradcheck", "training.any-numbers"),
        ("gradient.network",),
    ),
    Fault(
        "without a bias weight gradients are 1 % too large",
        network_fault(
            lambda g, layers: weights_times(
                1.01, g, lambda layer: layer[1] is None and isinstance(layer[0], torch.Tensor), layers
            )
        ),
        ("training.whole-numbers",),
        ("gradient.network-exact",),
    ),
    Fault(
        "the gradient below a layer of one unit is halved on tensors",
        dense_fault(
            lambda tape, d_z, right: (
                right._replace(x_BD=right.x_BD / 2)
                if isinstance(d_z, torch.Tensor) and tape.weight_HD.shape[0] == 1
                else right
            )
        ),
        ("training.whole-numbers", "gradient.network-gradcheck"),
        ("gradient.dense",),
    ),
    Fault(
        "in the vector that trains the gradient is 1 % too large",
        in_place_fault(lambda self, gradients: [g * 1.01 for g in gradients]),
        ("training.whole-numbers", "training.any-numbers", "types.one-vector"),
        ("gradient.network-full-size",),
    ),
    Fault(
        "in the vector that trains equal biases are exchanged",
        in_place_fault(biases_exchanged),
        ("training.whole-numbers",),
        ("types.round-trip",),
    ),
    Fault(
        "in the vector that trains square weights are transposed",
        {"nn.parameters._in_columns": square_weights_transposed(parameters._in_columns)},
        ("training.whole-numbers",),
        ("types.round-trip",),
    ),
    Fault(
        "the twin that computes in bfloat16 keeps its first weights",
        {"nn.parameters.FlatParameters.vector_to_network": lambda self: None},
        ("training.whole-numbers",),
        ("types.one-vector",),
    ),
    Fault(
        "a captured step is replayed without its products",
        {"nn.capture.kernels._Kernels.is_constant": lambda self, call: operation_name(call.kernel) in ("mm", "addmm")},
        ("training.whole-numbers", "training.any-numbers"),
        ("gradient.network-full-size",),
    ),
    Fault(
        "batches of a step weigh alike, whatever their sizes",
        {"nn.step.shares_of": lambda batches: [1 / len(batches)] * len(batches)},
        ("training.whole-numbers", "training.any-numbers"),
        ("gradient.mean",),
    ),
    Fault(
        "the mean of an odd number of losses is divided by one more",
        odd_batches(),
        ("training.whole-numbers",),
        ("gradient.mean",),
    ),
    Fault(
        "in float32 the node that trains is 1 % off",
        narrow_node(functions.MLPLossFunction),
        ("training.whole-numbers", "training.any-numbers"),
        ("gradient.network-gradcheck",),
    ),
    Fault(
        "in float32 label smoothing is forgotten in the backward",
        without_option("label_smoothing"),
        ("training.whole-numbers", "training.any-numbers"),
        ("gradient.cross-entropy-options",),
    ),
    Fault(
        "in float32 the penalty is forgotten in the backward",
        without_option("logit_penalty"),
        ("training.whole-numbers", "training.any-numbers"),
        ("gradient.cross-entropy-options",),
    ),
    Fault(
        "in float32 ReLU zeroes what is below 0.001",
        small_counts_as_negative(1e-3, torch.float32),
        ("tensors.activations",),
        ("training.whole-numbers",),
    ),
    Fault(
        "in float32 tanh is rounded to bfloat16",
        float32_fault("tanh", lambda y: y.to(torch.bfloat16).to(y.dtype)),
        ("tensors.elementary", "tensors.activations"),
        ("gradient.tanh",),
    ),
    Fault(
        "in float32 a logarithm is 0.0001 off",
        float32_fault("log", lambda y: y + 1e-4),
        ("tensors.elementary", "tensors.loss"),
        ("loss.nonnegative",),
    ),
    Fault(
        "in bfloat16 the bias is left out",
        on_torch("affine", lambda self, x, w, b: x @ w.T if b is None or x.dtype == torch.bfloat16 else x @ w.T + b),
        ("training.whole-numbers",),
        ("gradient.network-full-size",),
    ),
    Fault(
        "strongly convex: the noise term is subtracted",
        claim_fault("strongly convex", bound=noise_term_subtracted),
        ("convergence.sgd-strongly-convex", "convergence.sgd-enumerated"),
        ("convergence.gd-convex",),
    ),
    Fault(
        "strongly convex: rates up to twice the largest",
        claim_fault("strongly convex", largest=lambda rate: 2 * rate),
        ("convergence.sgd-strongly-convex", "convergence.sgd-enumerated"),
        ("convergence.sgd-convex",),
    ),
    Fault(
        "convex without noise: half the bound",
        claim_fault("convex, no noise", bound=lambda bound: bound / 2),
        ("convergence.gd-convex",),
    ),
    Fault(
        "convex without noise: rates up to four times the largest",
        claim_fault("convex, no noise", largest=lambda rate: 4 * rate),
        ("convergence.gd-convex", "convergence.gd-quadratic"),
    ),
    Fault(
        "convex: the noise term is subtracted",
        claim_fault("convex", bound=noise_term_subtracted),
        ("convergence.sgd-convex",),
    ),
    Fault(
        "convex: rates up to eight times the largest",
        claim_fault("convex", largest=lambda rate: 8 * rate),
        ("convergence.sgd-convex", "convergence.sgd-convex-enumerated"),
    ),
    Fault(
        "not convex: the noise term is subtracted",
        claim_fault("not convex", bound=noise_term_subtracted),
        ("convergence.sgd-stationary", "convergence.sgd-stationary-enumerated"),
    ),
    Fault(
        "not convex: rates up to four times the largest",
        claim_fault("not convex", largest=lambda rate: 4 * rate),
        ("convergence.sgd-stationary",),
    ),
    Fault(
        "Robbins and Monro: a lower ceiling",
        ceiling_fault(lambda ceiling: ceiling - 1),
        ("convergence.robbins-monro",),
    ),
]
