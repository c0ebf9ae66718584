"""Faults of the chain rule itself, in whatever numbers it is computed."""

from typing import Any

from lean_mnist.chainrule.activations import _normal_cdf
from lean_mnist.chainrule.arrays import primitives
from lean_mnist.chainrule.losses import Loss
from lean_mnist.mutants.obligations.making import (
    RIGHT,
    Fault,
    activation_fault,
    changed,
    dense_fault,
    loss_fault,
    option_fault,
    scaled_slope,
    weights_times,
)


def _bare_gradient(right: Loss, tape: Any, d_loss: Any) -> Any:
    return right.backward(tape, d_loss * 0 + 1)


FORMULAS = [
    Fault(
        "the weight gradient is 1 % too large",
        dense_fault("weight_HD", lambda right, tape, d_z: right * 101 / 100),
        (
            *("gradient.matvec-matrix", "gradient.dense", "gradient.layer"),
            *(
                f"linear-algebra.{name}"
                for name in ("outer", "transpose", "vmul", "dot", "normSq", "matvec", "batchMatvec")
            ),
        ),
    ),
    Fault(
        "the input gradient has the wrong sign",
        dense_fault("x_BD", lambda right, tape, d_z: -right),
        (
            *("gradient.matvec-vector", "gradient.smul", "gradient.chain-rule"),
            *(f"linear-algebra.{name}" for name in ("matmul", "vadd", "vsub", "smul", "matAdd", "matSub", "matSmul")),
        ),
    ),
    Fault(
        "the bias gradient is the mean over the batch and not the sum",
        dense_fault("bias_H", lambda right, tape, d_z: right / d_z.shape[0]),
        ("gradient.dense", "linear-algebra.batchAddVec", "gradient.network-exact", "tensors.gradcheck"),
    ),
    Fault(
        "the bias gradient is not summed over the batch",
        dense_fault("bias_H", lambda right, tape, d_z: d_z),
        (
            *("gradient.vadd", "gradient.dense", "layer.forward-dimension", "layer.batch-dimension"),
            "layer.composition-dimension",
        ),
    ),
    Fault(
        "the one-hot target is dropped",
        loss_fault(lambda right, tape, d_loss: tape[0] * d_loss[:, None]),
        ("gradient.cross-entropy", "loss.gradient-sum", "tensors.loss-bounds"),
    ),
    Fault(
        "the target is added and not subtracted",
        loss_fault(lambda right, tape, d_loss: (tape[0] * 2 - _bare_gradient(right, tape, d_loss)) * d_loss[:, None]),
        ("gradient.cross-entropy", "loss.gradient-bounded", "loss.lipschitz", "loss.convex"),
    ),
    Fault("the penalty's gradient is doubled", option_fault("logit_penalty", 2), ("gradient.cross-entropy-options",)),
    Fault(
        "the loss has the wrong sign",
        loss_fault(forward=lambda right, s, y: (-right.forward(s, y)[0], right.forward(s, y)[1])),
        ("loss.nonnegative", "loss.log-sum-exp", "loss.zero", "loss.unbounded", "tensors.loss-bounds"),
    ),
    Fault(
        "the loss is 1 too small",
        loss_fault(forward=lambda right, s, y: (right.forward(s, y)[0] - 1, right.forward(s, y)[1])),
        ("original.loss-nonnegative", "loss.nonnegative"),
    ),
    Fault(
        "GELU's derivative lacks its second term",
        activation_fault("gelu", lambda z, d_h: d_h * _normal_cdf(z)),
        ("gradient.gelu", "gradient.central-difference", "gradient.central-difference-order", "tensors.gradcheck"),
    ),
    Fault(
        "sigmoid's derivative is σ",
        activation_fault("sigmoid", lambda h, d_h: d_h * h),
        ("gradient.sigmoid", "tensors.gradcheck"),
    ),
    Fault(
        "ReLU's mask is z ≥ 0",
        activation_fault(
            "relu",
            lambda z, d_h: primitives(z).where_nonpositive(-z, d_h, d_h * 0),
            lambda z: (RIGHT["relu"].forward(z)[0], z),
        ),
        ("gradient.relu",),
    ),
    Fault(
        "ReLU's mask is dropped",
        activation_fault("relu", lambda h, d_h: d_h),
        ("gradient.relu", "gradient.network-exact", "gradient.network-gradcheck", "gradient.network-full-size"),
    ),
    Fault(
        "leaky ReLU's slope is 0.1 in the backward only",
        activation_fault("leaky-relu", lambda h, d_h: primitives(h).where_nonpositive(h, d_h / 10, d_h)),
        ("gradient.leaky-relu", "gradient.network-exact"),
    ),
    Fault(
        "softmax's backward is its diagonal",
        {"chainrule.losses.softmax_backward": lambda p, d_p: p * (1 - p) * d_p},
        ("gradient.softmax", "tensors.gradcheck"),
    ),
    Fault(
        "the mean's backward forgets 1/B",
        changed("chainrule.losses.mean_backward", lambda right, loss_B, d_mean: right * loss_B.shape[0]),
        ("gradient.mean", "convergence.batch-variance", "gradient.network-full-size"),
    ),
    Fault(
        "the gradient of the first weight is lost",
        weights_times(0, lambda n, layers: n == 0),
        ("gradient.network", "gradient.network-exact", "gradient.network-gradcheck", "gradient.chain-rule"),
    ),
    Fault("tanh's derivative is 1 − tanh", activation_fault("tanh", lambda h, d_h: d_h * (1 - h)), ("gradient.tanh",)),
    Fault("SiLU's derivative is doubled", scaled_slope("silu", 2), ("gradient.silu",)),
    Fault("the identity's derivative is doubled", scaled_slope("identity", 2), ("gradient.identity",)),
    Fault(
        "the identity doubles",
        activation_fault("identity", RIGHT["identity"].backward, lambda z: (2 * z, z)),
        ("layer.identity-activation",),
    ),
    Fault(
        "ReLU is the identity",
        activation_fault("relu", lambda h, d_h: d_h, lambda z: (z, z)),
        ("original.covers-relu", "gradient.relu"),
    ),
    Fault(
        "the squared error's gradient is doubled",
        changed(
            "chainrule.losses.squared_error",
            lambda right: Loss(right.forward, lambda tape, d_loss: 2 * right.backward(tape, d_loss)),
        ),
        ("gradient.squared-error", "gradient.network-exact"),
    ),
    Fault(
        "cross-entropy's gradient is doubled",
        loss_fault(lambda right, tape, d_loss: right.backward(tape, d_loss) * 2),
        ("loss.gradient-lipschitz", "loss.lipschitz", "training.any-numbers"),
    ),
    Fault(
        "a dense layer adds its bias twice",
        {"chainrule.arrays.Primitives.affine": lambda self, x, w, b: x @ w.T + (0 if b is None else b + b)},
        ("layer.affine", "layer.specification", "linear-algebra.vadd-commutative", "linear-algebra.vadd-associative"),
    ),
    Fault(
        "a dense layer squares",
        {"chainrule.arrays.Primitives.affine": lambda self, x, w, b: (x @ w.T) * (x @ w.T)},
        (
            *("layer.matvec-linear", "layer.affine-combination", "layer.affine-combination-stack"),
            "linear-algebra.smul-distributes",
        ),
    ),
]
