"""Bits that flip in memory: found at their step, wherever that is, and named in one line."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.bit_flips import STEPS, Flips, Patient, flip_bit
from lean_mnist.data.batches import PlannedBatches
from lean_mnist.errors import MemoryFault
from tests.support.training_cases import STEPS_PER_EPOCH, digits_config


class Chosen:
    """Stands in for a random generator: of every choice it takes the same part, and always the same bit."""

    def __init__(self, part: float, bit: int) -> None:
        self._part, self._bit = part, bit

    def randrange(self, count: int) -> int:
        """A bit, where so few are there; else an element."""
        return self._bit % count if count <= 64 else int(self._part * count)

    def choice(self, things: list[Any]) -> Any:
        return things[int(self._part * len(things))]


def flipped(patient: Patient, place: Callable[[Flips], None], bit: int) -> str:
    """The message with which the steps of ``patient`` end when a bit flips at ``place``."""
    rng: Any = Chosen(0.4, bit)
    flips, before = Flips(patient, rng), patient.parameters.vector.detach().clone()
    step = patient.state.step
    with pytest.raises(MemoryFault) as caught:
        place(flips)
    assert patient.state.step == step, "found later than at its step"
    for undo in flips.undo:
        undo()
    assert torch.equal(patient.parameters.vector, before), "something was applied"
    assert caught.value.exit_status == 3
    assert "\n" not in str(caught.value)
    return str(caught.value)


PLACES: dict[Callable[[Flips], None], str] = {
    Flips.weights_between_steps: "layers.0.weight[",
    Flips.weights_during_the_step: "layers.0.weight[",
    Flips.weights_after_the_backward: "layers.0.weight[",
    Flips.optimizer_between_steps: "the optimizer's ",
    Flips.optimizer_after_the_backward: "the optimizer's ",
    Flips.resident_images: "the image of example ",
    Flips.resident_labels: "the label of example ",
    Flips.batch_features: "the features of example 51 of the batch were changed",
    Flips.batch_labels: "label 51 of the batch was changed in memory: ",
    Flips.gradient_while_checked: "the gradient was changed in memory: the sum of its numbers was ",
}


@pytest.fixture(scope="module", params=["sgd", "adamw", "rmsprop"])
def patient(request: pytest.FixtureRequest) -> Patient:
    """A run that has come some way."""
    found = Patient(digits_config(check="full", device="cpu", optimizer=request.param))
    found.take(STEPS_PER_EPOCH + 3)
    return found


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_bit_that_flips_is_found_at_its_step(patient: Patient, place: Callable[[Flips], None]) -> None:
    start = patient.snapshot()
    for bit in (22, 30) if place is Flips.gradient_while_checked else (0, 30):
        message = flipped(patient, place, bit)
        assert message.startswith(f"step {STEPS_PER_EPOCH + 4}: {PLACES[place]}")
        assert "changed in memory" in message
        patient.restore(start)
    patient.take(STEPS)  # and what was put back is taken for good
    patient.restore(start)


def test_the_rounded_copy_is_protected_too() -> None:
    patient = Patient(digits_config(check="full", device="cpu", precision="bfloat16"))
    patient.take(3)
    assert patient.parameters.rounded is not None
    flip_bit(patient.parameters.rounded, 77, 2)
    with pytest.raises(MemoryFault, match=r"^step 4: the rounded copy of layers\.0\.weight\[0, 0\] to "):
        patient.take(1)


@pytest.mark.parametrize("augment", ["none", "affine"])
@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one call"])
def test_the_order_and_deformed_images_are_protected(augment: Any, together: bool) -> None:
    patient = Patient(digits_config(check="full", device="cpu", augment=augment, engine="native"))
    chunks: Any = patient.objective.batches.chunks(0)
    chunk = next(chunks)
    assert isinstance(chunk, PlannedBatches)
    patient.trainer.take([chunk[0]])
    images, order = (chunks.gi_frame.f_locals[name] for name in ("images", "order"))

    def go_on() -> None:
        if together:
            patient.trainer.take_chunk(chunk[1:])
        for batch in chunk[1:]:
            patient.trainer.take([batch])

    row = int(order[3 * patient.objective.batches.batch_size])  # of the fourth batch
    undo = flip_bit(images[row], 20, 1)
    with pytest.raises(MemoryFault, match=rf"^step 4: the image of example {row} of .* was changed in memory"):
        go_on()
    assert patient.state.step == 3
    undo()
    flip_bit(order, len(order) - 2, 40)
    with pytest.raises(MemoryFault, match=r"^the order of the examples of epoch 1 was changed in memory"):
        go_on()
