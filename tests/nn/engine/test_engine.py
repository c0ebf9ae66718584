"""Steps of the engines: the gradients of the module, where the optimizer reads them; in C and as written."""

import functools
from typing import Any

import pytest
import torch

from lean_mnist.audit.native_screen import NativeScreen
from lean_mnist.audit.randomised import Probes
from lean_mnist.chainrule import dense
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import ArgumentError
from lean_mnist.nn import MLP, FlatParameters, flatten_parameters
from lean_mnist.nn.engine import native
from lean_mnist.nn.engine.native import NativeEngine
from lean_mnist.nn.step import StepEngine, put_flat_gradients
from lean_mnist.nn.update import SGD, Update
from tests.support.activations import TORCH_ACTIVATIONS
from tests.support.crosscheck_cases import layers_of, random_batch
from tests.support.engine_cases import (
    EPS,
    SIZES,
    UNIT,
    WITHOUT,
    Case,
    all_options,
    compile_without,
    exact_gradients,
    flat,
)
from tests.support.planting import Plant

WRITTEN = pytest.mark.parametrize("written", [False, True], ids=["in C", "as written"])


# -- gradients --------------------------------------------------------------------------------------------------------


@WRITTEN
@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_gradient_and_loss_are_those_of_the_module(activation: str, written: bool) -> None:
    for sizes in SIZES:
        for options in all_options() if sizes[0] < 784 else ({},):
            case = Case(sizes, activation, written=written, examples=64, batch_size=64, **options)
            for examples in (1, 2, 6, 64):
                batch = case.hot_batch(examples, examples)
                loss, gradients = case.exact(batch)
                found = case.engine.step([batch])
                exact = flat(gradients)
                error = (case.parameters.gradient.double() - exact).norm()
                assert error <= 16 * EPS * exact.norm(), (sizes, options, examples)
                assert float(found.loss) == pytest.approx(loss, rel=16 * EPS)
                assert torch.equal(found.tapes[0].inputs[0], batch[0])
                assert case.engine.refused == ""


@pytest.mark.parametrize("pixels", [0.05, 1.0])
def test_sums_of_many_terms_are_added_up_in_blocks(pixels: float) -> None:
    for sizes in ((600, 70, 5), (300, 300, 300, 5)):
        case = Case(sizes, pixels=pixels, examples=700, batch_size=700, threads=2)
        for examples in (128, 129, 700):
            batch = case.hot_batch(examples, examples)
            loss, gradients = case.exact(batch)
            found, exact = case.engine.step([batch]), flat(gradients)
            assert (case.parameters.gradient.double() - exact).norm() <= 16 * EPS * exact.norm(), (sizes, examples)
            assert float(found.loss) == pytest.approx(loss, rel=16 * EPS)
            assert case.engine.refused == ""


@WITHOUT
@pytest.mark.parametrize("pixels", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("sizes", [(70, 128, 3), (784, 200, 10), (65, 64, 4, 3), (3, 64, 2)])
def test_what_most_inputs_are_is_left_out_of_no_gradient(
    sizes: tuple[int, ...], pixels: float, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_without(monkeypatch, without)
    for normalization in (UNIT, Normalization("standard", 33.0, 78.0)):
        for bias in (True, False):
            case = Case(sizes, pixels=pixels, normalization=normalization, bias=bias, examples=64, batch_size=64)
            for examples in (1, 3, 6, 64):
                batch = case.hot_batch(examples, examples)
                loss, gradients = case.exact(batch)
                found, exact = case.engine.step([batch]), flat(gradients)
                error = (case.parameters.gradient.double() - exact).norm()
                assert error <= 16 * EPS * exact.norm(), (bias, examples)
                assert float(found.loss) == pytest.approx(loss, rel=16 * EPS)
                assert case.engine.refused == ""


def test_what_float32_does_not_hold_is_no_difference() -> None:
    for scale in (1e13, 1e25, 1e38):
        case = Case((7, 5, 3))
        case.parameters.vector.data.mul_(scale)
        loss = case.engine.step([case.hot_batch(6)]).loss
        assert bool(loss.isfinite()) is (scale == 1e13)
        assert case.engine.refused == ""


def test_a_batch_that_is_not_in_the_memory_of_the_engine_is_taken_as_written() -> None:
    case, written = Case(), Case(written=True)
    for seed in range(3):
        batch = random_batch(seed, 6, (7, 3))
        assert torch.equal(case.engine.step([batch]).loss, written.engine.step([batch]).loss)
        assert torch.equal(case.parameters.gradient, written.parameters.gradient)


@WRITTEN
def test_several_batches_are_averaged_by_their_sizes(written: bool) -> None:
    case = Case(written=written)
    first, second = random_batch(0, 6, (7, 3)), random_batch(1, 2, (7, 3))
    found = case.engine.step([first, second])
    loss, gradients = case.exact((torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])))
    assert float(found.loss) == pytest.approx(loss, rel=1e-6)
    assert [tape.upstream for tape in found.tapes] == [0.75, 0.25]
    assert torch.allclose(case.parameters.gradient.double(), flat(gradients), atol=1e-7)


@pytest.mark.parametrize("change", [
    lambda found: found._replace(weight_HD=found.weight_HD.contiguous()),
    lambda found: found._replace(bias_H=found.bias_H.expand(1, -1)[0]),
    lambda found: found._replace(bias_H=found.bias_H.clone()),
], ids=["by rows", "a view", "a copy"])  # fmt: skip
def test_gradients_in_any_memory_are_gathered(plant: Plant, change: Any) -> None:
    right: Any = dense.dense_backward
    plant("chainrule.dense.dense_backward", lambda *arguments: change(right(*arguments)))
    case = Case(written=True)
    batch = random_batch(0, 6, (7, 3))
    case.engine.step([batch])
    assert torch.allclose(case.parameters.gradient.double(), flat(case.exact(batch)[1]), atol=1e-7)


def test_gradients_of_other_sizes_are_refused() -> None:
    parameters = FlatParameters(MLP((7, 5, 4, 3)))
    with pytest.raises(ArgumentError, match="gradients: expected 79 numbers, found 3"):
        parameters.gradients_to_vector([torch.zeros(3)])


def test_in_bfloat16_the_optimizer_has_all_digits() -> None:
    model = MLP((7, 5, 4, 3))
    parameters = FlatParameters(model, torch.bfloat16)
    update = Update(parameters.network, SGD([parameters.vector], 0.1, 0.0, False, 0.0), flat=parameters)
    engine = StepEngine(functools.partial(put_flat_gradients, parameters), update, lambda: False)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in parameters.network.parameters()} == {torch.bfloat16}
    for seed in range(3):
        x, labels = random_batch(seed, 6, (7, 3), torch.bfloat16)
        assert engine.step([(x, labels)]).loss.dtype == torch.float32
        whole = flat(exact_gradients(model, layers_of(model), (x, labels))[1])
        assert 0 < (parameters.gradient - whole).norm() < 0.05 * whole.norm()
        with torch.no_grad():
            parameters.vector.add_(1e-4)  # less than a rounding of most weights
        parameters.vector_to_network()
        for own, rounded in zip(model.parameters(), parameters.network.parameters(), strict=True):
            assert torch.equal(own.bfloat16(), rounded)


def test_a_flat_network_is_the_same_network() -> None:
    model = MLP((7, 5, 4, 3))
    before, vector = {k: v.clone() for k, v in model.state_dict().items()}, flatten_parameters(model)
    own = FlatParameters(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(flatten_parameters(model), vector)
    with torch.no_grad():
        own.vector.zero_()
    assert all(not value.any() for value in model.state_dict().values())
    with pytest.raises(ArgumentError, match="one dtype and device"):
        FlatParameters(torch.nn.ModuleList([MLP((7, 3)), MLP((7, 3), dtype=torch.float64)]))


# -- chunks -----------------------------------------------------------------------------------------------------------

UPDATES: dict[str, dict[str, Any]] = {
    "plain": {"momentum": 0.0, "nesterov": False},
    "decay": {"momentum": 0.0, "nesterov": False, "weight_decay": 0.1},
    "momentum": {"nesterov": False, "weight_decay": 0.01},
    "nesterov": {"weight_decay": 0.01},
    "clipped": {"clip_norm": 0.05},
    "hardly clipped": {"clip_norm": 0.5, "weight_decay": 0.01},
}


def same(ours: Any, theirs: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_a_chunk_is_one_step_after_the_other_by_any_number_of_threads(activation: str) -> None:
    sparse: dict[str, Any] = {"pixels": 0.2, "normalization": Normalization("standard", 33.0, 78.0)}
    for sizes, images in [*((sizes, {}) for sizes in SIZES), ((784, 128, 10), sparse), ((65, 97, 17), sparse)]:
        for options in UPDATES.values() if (activation, len(sizes)) == ("relu", 4) else (UPDATES["clipped"],):
            alone = Case(sizes, activation, **options, **images)
            losses = []
            for epoch in range(2):
                planned = alone.planned(epoch)
                for i in range(len(planned)):
                    losses.append(float(alone.engine.step([planned[i]]).loss))
                    alone.engine.update(0.1 / (1 + i))
            for threads in (1, 2, 3):
                case = Case(sizes, activation, threads=threads, **options, **images)
                chunks = [case.chunk(epoch) for epoch in range(2)]
                assert [len(chunk.losses) for chunk in chunks] == [4, 4]
                found = [loss for chunk in chunks for loss in chunk.losses]
                assert torch.equal(torch.tensor(found), torch.tensor(losses)), (sizes, threads)
                assert same(case.state(), alone.state()), (sizes, options, threads)
                assert case.optimizer.param_groups[0]["lr"] == 0.1 / 4


@WRITTEN
@pytest.mark.parametrize("name", UPDATES)
def test_updates_are_those_of_torch_optim(name: str, written: bool) -> None:
    options = UPDATES[name]
    case, model = Case(activation="tanh", written=written, **options), Case(activation="tanh").model.double()
    arguments = {key: value for key, value in options.items() if key != "clip_norm"}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, **{"momentum": 0.9, "nesterov": True, **arguments})
    source = Case(written=True)
    for epoch in range(2):
        case.chunk(epoch)
        for i, (x, labels) in enumerate(source.planned(epoch)):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + i)
            optimizer.zero_grad()
            model.loss(x.double(), labels).backward()
            if "clip_norm" in options:
                torch.nn.utils.clip_grad_norm_(model.parameters(), options["clip_norm"])
            optimizer.step()
    exact = flat([p.detach() for p in model.parameters()])
    assert (case.parameters.vector.detach().double() - exact).norm() < 16 * EPS * exact.norm()


FEATURES = (7, 12, 14, 64)  # image sums are of words of 1, 4, 2 and 8 bytes
NORMALIZATIONS = {
    "standard": Normalization("standard", 33.3, 78.6),
    "clipped": Normalization("standard", 127.0, 74.0, 1.0),
    "unit": UNIT,
    "per-image": Normalization("per-image", 0.0, 1.0),
}


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_examples_are_gathered_and_normalised_as_by_pytorch(name: str) -> None:
    for features in FEATURES:
        case = Case((features, 4, 3), normalization=NORMALIZATIONS[name], watched=True)
        written = Case((features, 4, 3), normalization=NORMALIZATIONS[name], written=True)
        ours, theirs = case.chunk(), written.chunk()
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-5)
        x, labels = written.planned()[-1]
        assert len(labels) == 2
        assert torch.equal(case.hot.features[:2], x)
        assert torch.equal(case.hot.labels[:2], labels)


def test_batches_are_planned_from_any_of_them_on() -> None:
    case = Case()
    (planned,) = case.batches.chunks(0, 2)
    assert len(planned) == 2
    assert [len(labels) for _, labels in (planned[0], planned[1])] == [6, 2]
    assert len(planned[1:]) == 1
    with pytest.raises(IndexError):
        planned[2]


def test_steps_of_another_optimizer_or_of_batches_in_a_list_are_taken_as_written() -> None:
    case, written = Case(momentum=0.0, nesterov=False), Case(momentum=0.0, nesterov=False, written=True)
    batches = [random_batch(seed, 6, (7, 3)) for seed in range(3)]
    ours, theirs = case.engine.chunk(batches, [0.1] * 3).losses, written.engine.chunk(batches, [0.1] * 3).losses
    assert ours == pytest.approx(theirs, rel=1e-6)  # the update is made in C
    assert torch.allclose(case.parameters.vector, written.parameters.vector, rtol=1e-5, atol=1e-7)
    case.update.optimizer = torch.optim.Adam([case.parameters.vector])
    assert len(case.chunk().losses) == 4


# -- where a chunk ends -----------------------------------------------------------------------------------------------


def third_batch(case: Case) -> list[int]:
    """Examples of the third batch of the second epoch."""
    found: list[int] = case.planned(1).order[12:18].tolist()
    return found


@WRITTEN
@pytest.mark.parametrize("threads", [1, 2])
def test_a_feature_that_is_not_finite_ends_a_chunk_before_its_update(threads: int, written: bool) -> None:
    tiny = Normalization("unit", 0.0, 1e-37)
    case, other = (Case(normalization=tiny, threads=threads, written=written) for _ in range(2))
    rows = third_batch(Case())
    for one in (case, other):
        one.split.images.zero_()
        one.chunk()
    case.split.images[rows[4], 0, 3] = 200
    chunk = case.chunk(1)
    assert len(chunk.losses) == 2
    assert chunk.not_finite
    assert not chunk.stopped
    planned = other.planned(1)[:2]
    other.engine.chunk(planned, [0.1, 0.05])
    assert same(case.state(), other.state())


@WRITTEN
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_ends_a_chunk_at_once(value: float, written: bool) -> None:
    case = Case(written=written)
    case.chunk()
    case.parameters.vector.data[38] = value
    before = case.state()
    chunk = case.chunk(1)
    assert chunk.losses == []
    assert chunk.not_finite
    assert all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(case.state(), before, strict=True))


@WRITTEN
def test_a_gradient_that_overflows_ends_a_chunk_though_its_loss_is_finite(written: bool) -> None:
    case = Case((7, 5, 3), normalization=Normalization("unit", 0.0, 1e-36), written=written)
    (first, bias), (last, _) = layers_of(case.model)
    assert bias is not None
    first.zero_()
    bias.fill_(1)
    case.split.images.zero_()
    case.chunk()
    case.split.images.fill_(255)
    first.zero_()
    last.copy_(torch.tensor([[50.0], [-50.0], [0.0]]).expand(3, 5))
    before = case.state()
    chunk = case.chunk(1)
    assert chunk.losses == []
    assert chunk.not_finite
    assert same(case.state(), before)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("label", [3, -1, 2**40])
def test_a_label_of_no_class_ends_a_chunk_before_its_step(label: int, threads: int) -> None:
    case = Case(threads=threads)
    case.chunk()
    case.split.labels[third_batch(case)[5]] = label
    chunk = case.chunk(1)
    assert len(chunk.losses) == 2
    assert not chunk.not_finite
    x, labels = case.hot_batch(4)
    labels[3] = label
    with pytest.raises(IndexError, match="a label is none of the classes"):
        case.engine.step([(x, labels)])


@pytest.mark.parametrize("example", [20, -1, 2**40, -(2**63)])
def test_an_order_with_an_example_that_is_none_ends_a_chunk(example: int) -> None:
    case = Case()
    case.chunk()
    planned = case.planned(1)
    planned.order[13] = example
    assert len(case.engine.chunk(planned, [0.1] * 4).losses) == 2


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("what", ["image", "label", "order"])
def test_what_was_changed_at_rest_is_read_by_no_step(what: str, features: int) -> None:
    for watched, steps in ((True, 2), (False, 4)):
        case = Case((features, 4, 3), watched=watched)
        case.engine.screen = Watching(case.engine) if watched else None
        case.chunk()
        planned = case.planned(1)
        example = int(planned.order[16])
        if what == "image":
            case.split.images[example, 0, features - 1] ^= 4
        elif what == "label":
            case.split.labels[example] = (case.split.labels[example] + 1) % 3
        else:
            planned.order[16] = (example + 1) % 20
        assert len(case.engine.chunk(planned, [0.1] * 4).losses) == steps


class Watching(NativeScreen):
    """Lets a chunk be screened and its memory watched, by itself."""

    watches_memory = True

    def __init__(self, engine: NativeEngine) -> None:
        super().__init__(engine)
        self._drawn = Probes(0, self.shapes, torch.zeros(0))

    def enter(self, step: int) -> None:
        self.watch_sums(self._engine.feature_sums)

    def begin(self, step: int, steps: int) -> int:
        self.use(self._drawn.rows(step))
        return steps

    def end(self, step: int, taken: int, stood_out: bool, seconds: float) -> None:
        assert self.changed_block is None

    def changed(self, step: int, block: int) -> None:
        raise AssertionError(block)


def test_whoever_wants_to_stop_is_asked_after_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_SECONDS", 0.0)
    answers = iter([False, False, True])
    case, other = Case(stop_requested=lambda: next(answers)), Case()
    chunk = case.chunk()
    assert len(chunk.losses) == 3
    assert chunk.stopped
    other.engine.chunk(other.planned()[:3], [0.1, 0.05, 0.1 / 3])
    assert same(case.state(), other.state())


def test_the_tape_of_a_step_holds_until_the_next_batch_and_its_copy_for_good() -> None:
    case = Case()
    assert case.engine.kept_tapes() == []
    result = case.engine.step([case.hot_batch(6)])
    assert case.engine.holds(result.tapes[0])
    (kept,) = case.engine.kept_tapes()
    logits = result.tapes[0].pre_activations[-1].clone()
    case.chunk()
    assert torch.equal(kept.pre_activations[-1], logits)
    assert not torch.equal(result.tapes[0].pre_activations[-1], logits)
    (latest,) = case.engine.kept_tapes()
    assert len(latest.labels_B) == 2
    assert torch.equal(latest.inputs[0], case.planned()[3][0])
    case.split.labels[:] = 7
    case.chunk(1)  # what a step that was begun has left is no step's
    assert case.engine.kept_tapes() == []
