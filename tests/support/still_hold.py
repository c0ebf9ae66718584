"""Obligations that still hold with a fault in what they check, by the name of the fault."""

from collections.abc import Mapping

STILL_HOLD: Mapping[str, tuple[str, ...]] = {
    "the weight gradient is 1 % too large": ("gradient.matvec-vector", "gradient.vadd", "linear-algebra.vadd"),
    "the input gradient has the wrong sign": ("gradient.matvec-matrix", "linear-algebra.transpose"),
    "the bias gradient is the mean over the batch and not the sum": (
        "gradient.vadd",
        "linear-algebra.vadd",
        "linear-algebra.matmul",
    ),
    "the bias gradient is not summed over the batch": ("gradient.matvec-matrix",),
    "the one-hot target is dropped": ("gradient.softmax", "gradient.squared-error", "loss.nonnegative"),
    "the target is added and not subtracted": ("loss.nonnegative",),
    "the penalty's gradient is doubled": ("gradient.cross-entropy", "loss.convex"),
    "the loss has the wrong sign": ("loss.gradient-sum", "loss.gradient-lipschitz"),
    "the loss is 1 too small": ("loss.gradient-sum",),
    "GELU's derivative lacks its second term": ("gradient.tanh", "gradient.sigmoid"),
    "sigmoid's derivative is σ": ("gradient.gelu",),
    "ReLU's mask is z ≥ 0": ("gradient.leaky-relu", "tensors.gradcheck", "gradient.network-exact"),
    "ReLU's mask is dropped": ("gradient.leaky-relu",),
    "leaky ReLU's slope is 0.1 in the backward only": ("gradient.relu",),
    "softmax's backward is its diagonal": ("gradient.cross-entropy",),
    "the mean's backward forgets 1/B": ("gradient.dense",),
    "the gradient of the first weight is lost": ("gradient.dense", "gradient.layer"),
    "tanh's derivative is 1 − tanh": ("gradient.sigmoid",),
    "SiLU's derivative is doubled": ("gradient.gelu",),
    "the identity's derivative is doubled": ("gradient.relu",),
    "the identity doubles": ("layer.specification",),
    "ReLU is the identity": ("gradient.leaky-relu",),
    "the squared error's gradient is doubled": ("gradient.cross-entropy",),
    "cross-entropy's gradient is doubled": ("loss.gradient-sum",),
    "a dense layer adds its bias twice": ("layer.matvec-linear",),
    "on tensors, the mean of the logits is subtracted and not the largest": (
        "gradient.cross-entropy",
        "loss.nonnegative",
    ),
    "on tensors, the bias is left out": ("gradient.dense",),
    "on tensors, values below 0.3 count as negative": ("gradient.relu",),
    "on tensors, tanh is evaluated in float32": ("gradient.tanh",),
    "a node scales its gradient by 1.001": ("gradient.dense", "gradient.network-gradcheck"),
    "the node that trains scales its gradient by 0.99": ("tensors.gradcheck", "gradient.network-exact"),
    "parameters are flattened column by column": ("types.wrong-shapes", "types.layout"),
    "the vector is stored one place further on, consistently": ("types.round-trip",),
    "a layer's shapes are not checked": ("types.wrong-upstream",),
    "upstream gradients may broadcast": ("types.wrong-shapes",),
    "plain SGD has momentum": ("convergence.batch-variance",),
    "from five layers on weight gradients are doubled": ("gradient.network",),
    "without a bias weight gradients are 1 % too large": ("gradient.network-exact",),
    "the gradient below a layer of one unit is halved on tensors": ("gradient.dense",),
    "in the vector that trains the gradient is 1 % too large": ("gradient.network-full-size",),
    "in the vector that trains equal biases are exchanged": ("types.round-trip",),
    "in the vector that trains square weights are transposed": ("types.round-trip",),
    "the twin that computes in bfloat16 keeps its first weights": ("types.one-vector",),
    "in C the gradient of a bias leaves out the first example": ("gradient.network-full-size",),
    "batches of a step weigh alike, whatever their sizes": ("gradient.mean",),
    "the mean of an odd number of losses is divided by one more": ("gradient.mean",),
    "in float32 the node that trains is 1 % off": ("gradient.network-gradcheck",),
    "in float32 label smoothing is forgotten in the backward": ("gradient.cross-entropy-options",),
    "in float32 the penalty is forgotten in the backward": ("gradient.cross-entropy-options",),
    "in float32 ReLU zeroes what is below 0.001": ("training.whole-numbers",),
    "in float32 tanh is rounded to bfloat16": ("gradient.tanh",),
    "in float32 a logarithm is 0.0001 off": ("loss.nonnegative",),
    "in bfloat16 the bias is left out": ("gradient.network-full-size",),
}

_CLAIMS = {  # of convergence, each with the obligation that derives it
    "strongly convex": "sgd-strongly-convex",
    "convex, no noise": "gd-convex",
    "convex": "sgd-convex",
    "not convex": "sgd-stationary",
}


def still_hold(fault: str) -> tuple[str, ...]:
    """Obligations that must hold with ``fault`` planted; with one in a claim of convergence those of the others."""
    claim = fault.partition(": ")[0]
    if claim not in _CLAIMS:
        return STILL_HOLD.get(fault, ())
    return tuple(f"convergence.{name}" for other, name in _CLAIMS.items() if other != claim)
