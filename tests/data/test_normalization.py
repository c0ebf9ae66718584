"""Normalisation, against float64 formulas written the plain way."""

import json
import math
import re
from typing import Any

import numpy as np
import pytest
import torch

from lean_mnist.data.datasets import Dataset
from lean_mnist.data.names import NORMALIZATIONS
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import ArgumentError, CheckpointError, ConfigError

SEED = 5


def pixels(*shape: int) -> torch.Tensor:
    print(f"seed {SEED}")
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(SEED))


def test_standard() -> None:
    images = pixels(17, 5, 3)
    values = images.numpy().astype(np.float64)
    fitted = Normalization.fit("standard", images, 255)
    assert fitted.mean == pytest.approx(values.mean(), rel=1e-15)
    assert fitted.scale == pytest.approx(values.std(), rel=1e-14)
    result = fitted.apply(images, torch.float64)
    expected = ((values - values.mean()) / values.std()).reshape(17, 15)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-13, atol=1e-14)


def test_standard_does_not_cancel() -> None:
    """One pixel of 255 among 254s: the textbook E[x^2] - E[x]^2 in float64 loses half of its digits here."""
    images = torch.full((1, 1000, 1000), 254, dtype=torch.uint8)
    images[0, 0, 0] = 255
    fitted = Normalization.fit("standard", images, 255)
    assert fitted.mean == 254 + 1e-6
    assert fitted.scale == pytest.approx(math.sqrt(1e-6 * (1 - 1e-6)), rel=1e-15)


def test_equal_pixels_have_scale_one() -> None:
    images = torch.full((3, 2, 2), 7, dtype=torch.uint8)
    fitted = Normalization.fit("standard", images, 255)
    assert fitted == Normalization("standard", 7.0, 1.0)
    assert torch.equal(fitted.apply(images), torch.zeros(3, 4))


@pytest.mark.parametrize("maximum", [255, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unit_divides_exactly(maximum: int, dtype: torch.dtype) -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 8, 8)
    result = Normalization.fit("unit", images, maximum).apply(images, dtype)
    numpy_dtype = {torch.float32: np.float32, torch.float64: np.float64}[dtype]
    expected = np.arange(256).astype(numpy_dtype) / numpy_dtype(maximum)
    np.testing.assert_array_equal(result.numpy().ravel(), expected)
    reciprocal = np.arange(256).astype(numpy_dtype) * (numpy_dtype(1) / numpy_dtype(255))
    if maximum == 255:
        assert (reciprocal != expected).any()  # the mistake that this test is there to notice


def test_per_image() -> None:
    images = pixels(6, 28, 28)
    images[2] = 0
    images[3] = 255
    images[4] = 7
    fitted = Normalization.fit("per-image", images, 255)
    values = images.numpy().astype(np.float64).reshape(6, -1)
    deviation = values.std(axis=1, keepdims=True)
    expected = (values - values.mean(axis=1, keepdims=True)) / np.where(deviation == 0, 1, deviation)
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        result = fitted.apply(images, dtype).numpy()
        np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)
        assert (result[2:5] == 0).all()


def test_per_image_makes_every_constant_image_zero() -> None:
    images = torch.arange(256, dtype=torch.uint8)[:, None, None].repeat(1, 3, 7)  # 1/21 is not exact in binary
    assert torch.equal(Normalization("per-image", 0.0, 1.0).apply(images), torch.zeros(256, 21))
    large = torch.full((1, 1, 70_001), 255, dtype=torch.uint8)  # whose sum no float32 holds
    assert torch.equal(Normalization("per-image", 0.0, 1.0).apply(large), torch.zeros(1, 70_001))


@pytest.mark.parametrize("kind", NORMALIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_shape_dtype_and_input_untouched(kind: str, dtype: torch.dtype) -> None:
    images = pixels(9, 4, 6)
    fitted = Normalization.fit(kind, images, 255)
    for part in (images, images[:1], images[:0], images[::2], images.transpose(1, 2)):
        before = part.clone()
        result = fitted.apply(part, dtype)
        assert result.shape == (len(part), 24)
        assert result.dtype == dtype
        assert result.is_contiguous()
        assert torch.equal(part, before)
        if dtype in (torch.bfloat16, torch.float16):  # rounded once, at the end
            assert torch.equal(result, fitted.apply(part, torch.float32).to(dtype))
    assert fitted.apply(images).dtype == torch.float32


def test_wrong_arguments() -> None:
    unit = Normalization.fit("unit", pixels(2, 3, 3), 255)
    with pytest.raises(
        ArgumentError, match=re.escape("images: float32 of shape (2, 3, 3), expected uint8 of shape (ex")
    ):
        unit.apply(torch.zeros(2, 3, 3))
    with pytest.raises(
        ArgumentError, match=re.escape("images: uint8 of shape (2, 9), expected uint8 of shape (examples")
    ):
        unit.apply(pixels(2, 9))
    with pytest.raises(ArgumentError, match=r"^train_images: float64 of shape"):
        Normalization.fit("standard", torch.zeros(2, 3, 3, dtype=torch.float64), 255)
    expected = "normalization: expected one of standard, centered, unit, per-image, found 'standart' (did you mean 'sta"
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}"):
        Normalization.fit("standart", pixels(2, 3, 3), 255)


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_goes_through_a_checkpoint(kind: str) -> None:
    fitted = Normalization.fit(kind, pixels(4, 5, 5), 255)
    values = json.loads(json.dumps(fitted.to_dict()))
    assert Normalization.from_dict(values) == fitted


GOOD = {"kind": "unit", "mean": 0.0, "scale": 255.0}
NONSENSE: list[tuple[Any, str]] = [
    (None, "normalization: 'NoneType', expected the fields kind, mean, scale"),
    ({}, "normalization: [], expected the fields kind, mean, scale"),
    ({**GOOD, "x": 1}, "normalization: ['kind', 'mean', 'scale', 'x'], expected the fields kind, mean, scale"),
    ({**GOOD, "kind": "zca"}, "normalization.kind: 'zca', expected one of standard, centered, unit, per-image"),
    ({**GOOD, "kind": ["unit"]}, "normalization.kind: ['unit'], expected one of standard, centered, unit, per-image"),
    ({**GOOD, "mean": math.nan}, "normalization.mean: nan, expected a finite number in float32"),
    ({**GOOD, "mean": "0"}, "normalization.mean: '0', expected a finite number in float32"),
    ({**GOOD, "mean": True}, "normalization.mean: True, expected a finite number in float32"),
    ({**GOOD, "scale": 0.0}, "normalization.scale: 0.0, expected a finite number above 0 in float32"),
    ({**GOOD, "scale": -1.0}, "normalization.scale: -1.0, expected a finite number above 0 in float32"),
    ({**GOOD, "scale": math.inf}, "normalization.scale: inf, expected a finite number above 0 in float32"),
    ({**GOOD, "scale": 10**310}, f"normalization.scale: {10**58}…, expected a finite number above 0 in float32"),
    ({**GOOD, "scale": 1e300}, "normalization.scale: 1e+300, expected a finite number above 0 in float32"),
    ({**GOOD, "clip": 1e300}, "normalization.clip: 1e+300, expected a finite number above 0 in float32"),
    ({**GOOD, "mean": -1e39}, "normalization.mean: -1e+39, expected a finite number in float32"),
    ({**GOOD, "clip": 0}, "normalization.clip: 0, expected a finite number above 0 in float32"),
    ({**GOOD, "clip": None}, "normalization.clip: None, expected a finite number above 0 in float32"),
    ({**GOOD, "scale": None}, "normalization.scale: None, expected a finite number above 0 in float32"),
]


@pytest.mark.parametrize(("values", "expected"), NONSENSE)
def test_nonsense_in_a_checkpoint(values: Any, expected: str) -> None:
    with pytest.raises(CheckpointError, match=f"^{re.escape(expected)}$"):
        Normalization.from_dict(values)


def test_centering_takes_the_mean_away_and_keeps_the_scale_of_the_pixels() -> None:
    images = pixels(9, 4, 6)
    fitted = Normalization.fit("centered", images, 255)
    assert fitted.mean == pytest.approx(images.double().mean().item())
    assert fitted.scale == 255
    x = fitted.apply(images, torch.float64)
    assert abs(x.mean().item()) < 1e-12
    assert torch.allclose(x, (images.double().flatten(1) - fitted.mean) / 255, atol=1e-15)


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_clipping_bounds_every_feature_and_changes_no_other(kind: str) -> None:
    images = pixels(9, 4, 6)
    free, clipped = (Normalization.fit(kind, images, 255, clip) for clip in (None, 0.3))
    x, inside = free.apply(images), free.apply(images).abs() <= 0.3
    assert not inside.all()
    found = clipped.apply(images)
    assert torch.equal(found, x.clamp(-0.3, 0.3))
    assert torch.equal(found[inside], x[inside])
    assert Normalization.from_dict(json.loads(json.dumps(clipped.to_dict()))) == clipped
    assert "clip" not in free.to_dict()


def test_whole_numbers_are_numbers() -> None:
    assert Normalization.from_dict({**GOOD, "mean": 0, "scale": 255}) == Normalization("unit", 0.0, 255.0)


def test_real_mnist(real_mnist: Dataset) -> None:
    fitted = Normalization.fit("standard", real_mnist.train.images, real_mnist.maximum)
    assert fitted.mean == pytest.approx(0.1307 * 255, abs=0.00005 * 255)  # the two numbers everybody quotes
    assert fitted.scale == pytest.approx(0.3081 * 255, abs=0.00005 * 255)
    sample = fitted.apply(real_mnist.train.images[:10_000])
    assert abs(sample.mean().item()) < 0.01
    assert sample.std().item() == pytest.approx(1, abs=0.01)
