"""No false alarms: right Functions of many kinds, in every precision, with and without a reference."""

from typing import Any

import pytest
import torch

from lean_mnist.crosscheck.function_check import check_function
from lean_mnist.crosscheck.report import Verdict
from lean_mnist.errors import ArgumentError
from tests.support.function_corpus import RIGHT

CASES = [(name, dtype) for name, right in RIGHT.items() for dtype in right.dtypes]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_a_right_function_passes(name: str, dtype: torch.dtype) -> None:
    right = RIGHT[name]
    seed = CASES.index((name, dtype))
    both = (right.reference, None)
    for reference in both if dtype == torch.float32 else both[seed % 2 :][:1]:
        report = check_function(right.function, reference, right.inputs(seed, dtype), seed=seed)
        assert report.ok, f"seed {seed}: {report}"
        report.raise_if_failed()


@pytest.mark.parametrize("scale", [1e-3, 20.0])
@pytest.mark.parametrize("name", ["softmax", "softmax of one row", "cross-entropies", "attention", "layer norm"])
def test_saturated_and_tiny_inputs(name: str, scale: float) -> None:
    """Where larger numbers cancel, rounding is most of what is left."""
    right = RIGHT[name]
    for dtype in (torch.float32, torch.float64):
        for reference in (right.reference, None):
            report = check_function(right.function, reference, right.inputs(10, dtype, scale), seed=10)
            assert report.ok, report


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("name", ["linear relu", "absolute value", "largest of each row", "unmaterialized"])
def test_ties_and_zeros(name: str, value: Any) -> None:
    right = RIGHT[name]
    for seed, reference in enumerate((right.reference, None)):
        inputs = right.inputs(seed)
        with torch.no_grad():
            for x in inputs:
                x[torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.3] = value
        report = check_function(right.function, reference, inputs, seed=seed)
        assert report.ok, report


@pytest.mark.parametrize("name", ["layer norm", "linear relu", "rms norm", "swiglu", "softmax", "absolute value"])
def test_other_batch_sizes(name: str) -> None:
    right = RIGHT[name]
    for reference in (right.reference, None):
        batched = (0,) if name != "swiglu" else (0, 1)
        report = check_function(right.function, reference, right.inputs(0), seed=0, vary_batch=batched)
        assert report.ok, report
        assert "batch size: right with 0, 1, 3, 17, 35 examples" in report.details()


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize(
    ("name", "vary_sizes"),
    [("linear relu", {0: (0, 1), 1: (0, -1), 2: 0}), ("layer norm", {0: 1, 1: 0, 2: 0}), ("log-sum-exp", {0: [0, 1]})],
)
def test_other_sizes(name: str, vary_sizes: Any, reference: bool) -> None:
    right = RIGHT[name]
    report = check_function(
        right.function, right.reference if reference else None, right.inputs(0), seed=0, vary_sizes=vary_sizes
    )
    assert report.ok, report
    assert "size: right with sizes 1, 2, 15, 16, 17, 33" in report.details()


@pytest.mark.parametrize(
    ("vary_sizes", "words"),
    [
        ([0], "vary_sizes: expected a dict from inputs to dimensions, found list"),
        ({"weight": 0}, "vary_sizes: expected the index or name of a tensor among the inputs, found 'weight'"),
        ({7: 0}, "vary_sizes: expected the index or name of a tensor among the inputs, found 7"),
        ({0: 2}, "vary_sizes: expected dimensions of input 0 with entries, found 2"),
    ],
)
def test_bad_sizes(vary_sizes: Any, words: str) -> None:
    right = RIGHT["softmax"]
    with pytest.raises(ArgumentError, match=words):
        check_function(right.function, None, right.inputs(0), vary_sizes=vary_sizes)


def test_labels_are_resized_too() -> None:
    right = RIGHT["cross-entropies"]
    report = check_function(right.function, right.reference, right.inputs(0), seed=0, vary_batch=True)
    assert report.ok, report


def test_what_is_stochastic_is_said_to_be_with_how_to_seed_it() -> None:
    right = RIGHT["dropout"]
    report = check_function(right.function, right.reference, right.inputs(0), seed=12)
    assert report.ok, report
    assert (
        "stochastic: the forward draws random numbers, so torch.manual_seed(12) was called before" in report.details()
    )


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_a_mask_drawn_in_the_precision_of_the_input_is_compared_in_it(factor: float) -> None:
    right = RIGHT["mask like its input"]
    x = right.inputs(0)
    report = check_function(lambda x: right.function(x).mul(factor), right.reference, x, seed=3)
    assert report.outputs[0].allowed < 1e-4
    assert {f.rule for f in report.failures} >= ({"output", "gradient"} if factor > 1 else set())
    assert report.ok == (factor == 1), report


def test_rules_that_do_not_apply_say_why() -> None:
    right = RIGHT["float32 only"]
    report = check_function(right.function, None, right.inputs(0), seed=0)
    whys = {f.rule: f.text for f in report.findings if f.verdict is Verdict.NOT_APPLICABLE}
    assert "no reference" in whys["JVP-VJP product"]
    assert "no two inputs of one shape" in whys["same tensor twice"]
    assert "this kernel takes float32" in whys["gradcheck"]
    texts = {f.rule: f.text for f in report.findings}
    assert "refuses one that is" in texts["input layout"]
    assert "refused with an error" in texts["double backward"]
    assert "in float32" in texts["finite differences"]


def test_an_output_in_place_and_what_it_was_made_of() -> None:
    right = RIGHT["exponential in place"]
    x = right.inputs(0)
    before = x[0].detach().clone()
    report = check_function(right.function, right.reference, x, seed=1)
    assert report.ok
    assert torch.equal(x[0], before)
