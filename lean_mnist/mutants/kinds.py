"""What each mutant is, in the words of a diagnosis: decided from what the fault does, not from what is found of it.

Two names stand where either says what the code does: a tail of the batch that is dropped is a missing term, and where
nothing of the batch is left over it is zero.
"""

from __future__ import annotations

from collections.abc import Mapping

_ONE: Mapping[str, str] = {
    "sign": "weight-sign node-sign",
    "constant factor": """weight-twice weight-scale-1.01 weight-scale-1.0001 weight-mean weight-wide bias-mean
        input-scale-1.001 sum-for-mean mean-twice mean-nominal-batch weight-after-200-calls node-twice node-scale-1.001
        node-last-input branch-for-one autocast-branch-wrong""",
    "transpose": "weight-reshaped bias-wrong-axis input-not-transposed node-transposed weight-symmetrized",
    "row or column swap": """weight-rows-swapped one-hot-next-class node-rows-swapped rows-to-row-0
        weight-columns-rolled weight-swizzled rows-sorted""",
    "swapped tensors": "layers-swapped",
    "zero": """weight-last-row-zero weight-element-zero weight-tile-lost bias-zero input-last-feature input-padded-8
        last-class-zero classes-beyond-32 first-layer-detached column-lost-without-bias frozen-bias-takes-weight
        input-gradient-zero node-last-row-zero node-element-zero node-wide node-batch-of-one only-last-three-axes
        zeroing-overshoots second-derivative-zero weight-small-flushed converged-skipped upstream-tiny-is-zero
        losses-get-nothing""",
    "missing term": """weight-decay-leaked bias-first-row one-hot-missing smoothing-left-in smoothing-ignored
        penalty-ignored input-half-of-the-sum first-batch-only weight-centered weight-padded-by-repetition
        focal-left-in classes-balanced""",
    "mask": """mask-at-zero mask-missing mask-of-upstream mask-shifted mask-of-previous-row mask-leaky mask-saturates
        mask-last-block mask-of-layer-above mask-relu6 mask-without-bias""",
    "derivative": "sigmoid-from-output-twice tanh-not-squared gelu-tanh-approximation softmax-twice softmax-hard",
    "precision": """products-bfloat16 products-float16 node-bfloat16 autocast-bfloat16 products-ten-bits bias-in-half
        float32-inside upstream-in-half""",
    "clipping": "probabilities-clamped clipped-to-0.02",
    "NaN": "normalizer-overflows node-nan upstream-rescaled empty-batch-nan",
    "stale value": "weight-stale-input input-stale-weight loss-stale node-stale ping-pong",
    "upstream ignored": "mean-ignores-upstream node-upstream-ones node-upstream-sign node-upstream-mean",
    "nondeterminism": """weight-race-every-50 weight-race-at-random weight-noise node-race-every-50
        contributions-lost""",
    "layout": "upstream-read-by-rows upstream-one-element upstream-offset-ignored memory-read-as-packed",
    "mutation": "upstream-as-scratch saved-overwritten upstream-modified written-over-saved",
    "wrong values": "weight-element-off",
}

_TWO: Mapping[str, tuple[str, str]] = {
    "weight-clipped": ("clipping", "constant factor"),  # to a norm, so that all elements shrink alike
    "weight-batch-tail-16": ("missing term", "zero"),
    "node-upstream-tail-16": ("missing term", "zero"),
    "leaky-slope-squared": ("derivative", "constant factor"),
    "padding-label-0": ("mask", "zero"),  # examples that are masked out
    "confident-skipped": ("mask", "zero"),
    "mask-stale": ("stale value", "mask"),
    "weight-not-cleared": ("stale value", "missing term"),  # a term too many, from an earlier call
    "weight-momentum-leaked": ("stale value", "missing term"),
    "residue-of-trials": ("nondeterminism", "constant factor"),  # the first call only is 1.07 times what it should be
    "node-upstream-clipped": ("clipping", "upstream ignored"),  # of a number above 1 a 1 is left
    "upstream-first-for-all": ("upstream ignored", "missing term"),  # each example lacks its own factor
    "buffer-reused": ("mutation", "stale value"),
}

TRUE_KINDS: Mapping[str, tuple[str, ...]] = {
    **{name: (kind,) for kind, names in _ONE.items() for name in names.split()},
    **_TWO,
}
"""By the mutant's name."""
