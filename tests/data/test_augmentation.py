import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from lean_mnist.data.augmentation import CHUNK, Augmentation, affine_maps, elastic_modes, resample
from lean_mnist.errors import ArgumentError

EVERYTHING = Augmentation(shift=2, rotation=15, scale=0.2, elastic=1, smoothness=3)


def random_images(count: int, rows: int = 9, columns: int = 7, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, rows, columns), dtype=torch.uint8, generator=generator)


def deformed(images: torch.Tensor, **changes: torch.Tensor) -> torch.Tensor:
    """``images`` under one known affine map each."""
    m, rows, columns = images.shape
    still = {"shift": torch.zeros(m, 2), "rotation": torch.zeros(m), "scale": torch.ones(m, 2)}
    maps = affine_maps(**(still | changes))
    y, x = torch.meshgrid(torch.arange(rows) - (rows - 1) / 2, torch.arange(columns) - (columns - 1) / 2, indexing="ij")
    return resample(images, (maps @ torch.stack([torch.ones_like(x), x, y]).flatten(1)).view(m, 2, rows, columns))


def apply(augmentation: Augmentation, images: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return augmentation.apply_epoch(images, seed, epoch=0)


@pytest.mark.parametrize("shape", [(5, 28, 28), (3, 8, 8), (4, 1, 6), (2, 300, 5), (0, 28, 28)])
def test_without_strengths_images_stay_as_they_are(shape: tuple[int, int, int]) -> None:
    images = random_images(*shape)
    assert torch.equal(apply(Augmentation(), images), images)


@pytest.mark.parametrize(("right", "down"), [(2, 0), (0, -3), (-1, 4)])
def test_whole_pixels_of_shift_roll_the_image_and_bring_zeros_in(right: int, down: int) -> None:
    images = random_images(6)
    expected = images.roll((down, right), (1, 2))
    expected[:, slice(0, down) if down >= 0 else slice(down, None)] = 0
    expected[:, :, slice(0, right) if right >= 0 else slice(right, None)] = 0
    assert torch.equal(deformed(images, shift=torch.tensor([[right, down]]).expand(6, 2).float()), expected)


@pytest.mark.parametrize("size", [8, 9])
def test_a_quarter_turn_is_rot90(size: int) -> None:
    images = random_images(3, size, size)
    turned = deformed(images, rotation=torch.full((3,), torch.pi / 2))
    assert torch.equal(turned, images.rot90(-1, (1, 2)))  # clockwise, as from the x- to the y-axis with y downwards


def test_scale_moves_pixels_as_the_formula_says() -> None:
    images = random_images(1, 9, 9)
    halved = deformed(images, scale=torch.full((1, 2), 0.5))
    assert torch.equal(halved[0, 2:7, 2:7], images[0, ::2, ::2])
    assert (halved[0, :2] == 0).all()


def test_resample_agrees_with_another_implementation() -> None:
    images = random_images(4, 11, 8)
    sources = 5 * torch.randn(4, 2, 11, 8, generator=torch.Generator().manual_seed(1))
    places = sources.double().numpy() + np.array([3.5, 5.0])[:, None, None]
    expected = [
        map_coordinates(image.numpy().astype(float), place[::-1], order=1, mode="grid-constant")
        for image, place in zip(images, places, strict=True)
    ]
    difference = np.abs(resample(images, sources).numpy() - np.stack(expected))
    assert difference.max() < 0.501  # rounded to the nearest


@pytest.mark.parametrize("first", [0, 1, CHUNK - 1, CHUNK, CHUNK + 70])
def test_an_epoch_goes_on_anywhere_bit_for_bit(first: int) -> None:
    images = random_images(CHUNK + 100)
    whole = EVERYTHING.apply_epoch(images, seed=3, epoch=2)
    assert torch.equal(EVERYTHING.apply_epoch(images[first:], seed=3, epoch=2, first=first), whole[first:])


def test_deformations_depend_on_the_seed_the_epoch_the_chunk_and_the_image() -> None:
    images = random_images(1).expand(CHUNK + 2, 9, 7)
    ways = [EVERYTHING.apply_epoch(images, seed, epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    seen = {part.numpy().tobytes() for way in ways for part in (way[0], way[1], way[CHUNK], way[CHUNK + 1])}
    assert len(seen) == 12
    assert torch.equal(ways[0], EVERYTHING.apply_epoch(images, 0, 0))


@pytest.mark.parametrize("name", ["shift", "rotation", "scale", "elastic"])
def test_every_strength_deforms_and_a_greater_one_more(name: str) -> None:
    images = random_images(200, 28, 28)
    greatest = {"shift": 1.0, "rotation": 10.0, "scale": 0.2, "elastic": 1.0}[name]
    means = [
        (apply(dataclasses.replace(Augmentation(), **{name: share * greatest}), images).float() - images).abs().mean()
        for share in (0.01, 0.1, 1.0)
    ]
    assert 0 < means[0] < means[1] / 2 < means[2] / 4


def test_shifts_are_uniform_and_centred() -> None:
    images = torch.zeros(4000, 9, 9, dtype=torch.uint8)
    images[:, 4, 4] = 255
    moved = apply(Augmentation(shift=3), images).double()
    place = torch.arange(9, dtype=torch.float64) - 4
    for axis in (1, 2):
        means = (moved.sum(axis) * place).sum(1) / moved.sum((1, 2))
        assert abs(means.mean()) < 0.1  # of standard error 3 / √3 / √4000 = 0.027
        assert abs(means.std() - 3 / 3**0.5) < 0.1
        assert means.abs().max() <= 3.01


def test_elastic_fields_have_unit_variance_and_the_correlation_of_smoothed_noise() -> None:
    modes = elastic_modes(28, 20, 4.0).double()
    covariance = (modes.T @ modes).view(28, 20, 28, 20)
    row, column = torch.arange(28.0).double(), torch.arange(20.0).double()
    distance = (row[:, None, None, None] - row[:, None]) ** 2 + (column[:, None, None] - column) ** 2
    assert (covariance - torch.exp(-distance / 64)).abs().max() < 0.02
    assert len(modes) < 60


def test_bad_images_are_refused() -> None:
    for images in (torch.zeros(2, 3, 3), torch.zeros(3, 3, dtype=torch.uint8)):
        with pytest.raises(ArgumentError, match=r"^images: .*, expected uint8 of shape \(examples, rows, columns\)$"):
            apply(EVERYTHING, images)
