"""Many processes: parts, digests, one verdict for all ranks, and each fault found and named; two real processes."""

import operator
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lean_mnist.command_line import run_command
from lean_mnist.errors import (
    ConfigError,
    DataError,
    GradientMismatch,
    HealthError,
    Interrupted,
    LeanMnistError,
    RankLost,
)
from lean_mnist.nn import MLP
from lean_mnist.nn.parameters import parameter_layout
from lean_mnist.training.distributed import World, from_environment
from lean_mnist.training.distributed.message import PROJECTIONS, Digests, Message, bits_of, tolerance
from lean_mnist.training.distributed.shared import SharedMemory
from lean_mnist.training.saved_run import start_of
from tests.support.distributed_cases import (
    PATIENCE,
    Room,
    ThreadTransport,
    at,
    join,
    one_step,
    scenarios,
    together,
    train,
)
from tests.support.training_cases import REPOSITORY, digits_config, surroundings

CPU = torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["shared memory", "all-reduce"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Each way in which ranks sum their gradients."""
    monkeypatch.setattr(ThreadTransport, "shares", request.param)
    return request.param


def said(outcomes: list[tuple[Any, LeanMnistError | None]], kind: type[LeanMnistError]) -> str:
    """The words with which every rank failed, of which one prints them."""
    errors = [error for _, error in outcomes]
    assert [type(error) for error in errors] == [kind] * len(errors), errors
    assert len({str(error) for error in errors}) == 1, errors
    assert [error.reported_elsewhere for error in errors if error] == [False] + [True] * (len(errors) - 1)
    return str(errors[0])


# Parts of a batch


def test_parts_tile_every_batch() -> None:
    for size in range(1, 6):
        for total in range(1, 12):
            shares = [share for share, _ in together(size, lambda world: world.share(total))]  # noqa: B023
            assert [i for share in shares for i in range(total)[share]] == list(range(total))
            sizes = [share.stop - share.start for share in shares]
            assert max(sizes) - min(sizes) <= 1


def test_more_processes_than_examples() -> None:
    for batch_size, examples, what in ((2, 100, "--batch-size"), (128, 2, "the training split")):
        require = operator.methodcaller("require_examples", batch_size, examples)
        message = said(together(3, require), ConfigError)
        assert message == f"{what}: expected at least one example for each of the 3 processes, found 2"
    assert together(3, lambda world: world.require_examples(3, 3)) == [(None, None)] * 3
    World().require_examples(1, 1)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("batch_size", [16, 49])  # a last batch of 2, then of 1: with three ranks some parts are empty
def test_the_trajectory_is_that_of_one_process(size: int, batch_size: int, way: bool) -> None:
    alone = train(World(), batch_size=batch_size)
    for ours, error in together(size, lambda world: train(world, batch_size=batch_size)):
        assert error is None
        assert float((ours - alone).norm()) <= 1e-6 * float(alone.norm())


# Digests


@pytest.mark.parametrize(("dtype", "native"), [(torch.float32, False), (torch.float64, False), (torch.float32, True)])
def test_rounding_is_within_the_tolerance_and_an_element_beyond_it_is_seen(
    dtype: torch.dtype, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk, size, largest = 1000, 2500, 0.0
    monkeypatch.setattr("lean_mnist.training.distributed.message.CHUNK", chunk)
    digests = Digests(1, size, CPU, native=native)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 200):
        n = 2 + step % 6
        scales = 10.0 ** torch.randint(-3, 3, (n, 1), generator=generator)
        parts = (torch.randn(n, size, generator=generator) * scales).to(dtype)
        messages = [Message(step, 1, n, False, False, 0.0, digests.of(part, step)) for part in parts]
        total = parts[0] / n
        for part in parts[1:]:
            total = total + part / n
        expected = torch.stack([message.digests for message in messages])[..., :-1].mean(0)
        norms = expected[:, PROJECTIONS]
        allowed = tolerance(chunk, dtype, n, norms)
        assert (allowed <= 1e-5 * norms).all()
        assert digests.match(digests.of(total, step)[None], messages, n, dtype) == [True]
        off = (digests.of(total, step)[:, :-1] - expected)[:, :PROJECTIONS].abs() / allowed[:, None]
        largest = max(largest, float(off.max()))
        place = int(torch.randint(size, (1,), generator=generator))
        total[place] += 4.5 * allowed[place // chunk]
        off = (digests.of(total, step)[:, :-1] - expected)[place // chunk, :PROJECTIONS].abs()
        assert float(off.min()) > allowed[place // chunk], (step, place)
        assert digests.match(digests.of(total, step)[None], messages, n, dtype) == [False]
    assert largest < 0.5


@pytest.mark.parametrize("native", [False, True])
def test_digests_are_fresh_at_every_step_and_bits_tell_a_last_place(native: bool) -> None:
    digests, vector = Digests(0, 100, CPU, native=native), torch.ones(100)
    assert len({tuple(digests.of(vector, step)[0].tolist()) for step in range(50)}) == 50
    for place in range(100):
        other = vector.clone()
        other[place] = torch.nextafter(other[place], torch.tensor(2.0))
        assert bits_of(digests.of(vector, 1)) != bits_of(digests.of(other, 1))


def test_digests_in_c_and_a_copy_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    size, vector = 10_000, torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("lean_mnist.training.distributed.message.CHUNK", 4999)
    expected = Digests(0, size, CPU).of(vector.double(), 1)[:, :-1]
    assert tuple(expected.shape) == (3, PROJECTIONS + 1)
    for native in (False, True):
        copy = torch.zeros(size)
        found = Digests(0, size, CPU, native=native).of(vector, 1, copy)
        assert torch.equal(copy, vector)
        assert torch.allclose(found[:, :-1], expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("native", [False, True])
def test_a_sum_and_its_digests(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lean_mnist.training.distributed.message.CHUNK", 4999)
    vectors = torch.randn(3, 10_000, generator=torch.Generator().manual_seed(0))
    digests = Digests(0, 10_000, CPU, native=native)
    for count in range(4):
        summands = [(vector, 0.1 + i) for i, vector in enumerate(vectors[:count])]
        terms = [torch.zeros(10_000).double(), *(vector.double() * weight for vector, weight in summands)]
        found_P = torch.full((10_000,), torch.nan)
        found = digests.of_sum(summands, found_P, 3)
        allowed = (count + 1) * 2.0**-24 * torch.stack(terms).abs().sum(0)  # a rounding of the weight, too
        assert ((found_P.double() - torch.stack(terms).sum(0)).abs() <= 1.01 * allowed).all()
        again = digests.of(found_P, 3)
        assert torch.equal(bits_of(found), bits_of(again))
        assert torch.equal(found[:, :-1], again[:, :-1])


# Rows in shared memory


def test_rows_go_round_and_one_that_does_not_come_is_noticed() -> None:
    memories: list[Any] = [None, None]
    room = Room(2)

    def rank_of(rank: int) -> None:
        memories[rank] = SharedMemory(torch.zeros(3), 5, rank, lambda place: room.exchange(rank, place), native=True)
        for turn in range(100):
            row = torch.full((1 + turn % 5,), 10.0 * turn + rank, dtype=torch.float64)
            table = memories[rank].all_gather(row, 60)
            assert torch.equal(table, torch.stack([row - rank, row - rank + 1]))
        done[rank] = True

    done = [False, False]
    threads = [threading.Thread(target=rank_of, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [True, True]
    with pytest.raises(RuntimeError, match=r"^Timed out after 0\.1 s of waiting$"):
        memories[0].all_gather(torch.zeros(5, dtype=torch.float64), 0.1)
    for memory in memories:
        memory.close()


def test_rows_are_exchanged_by_the_network_where_one_rank_has_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def act(world: World) -> Any:
        world.prepare(parameter_layout(MLP((7, 5, 3))), torch.zeros(58), 0, native=world.rank == 0)
        return world._digests.in_c is not None, world._transport._memory.exchanges, len(world._transport.shared)  # type: ignore[union-attr]

    assert together(2, act) == [((False, False, 2), None)] * 2


# What refuses a step


def test_a_sum_that_is_right_is_used(way: bool) -> None:
    for (gradient_P, (loss, stop)), error in together(3, lambda world: one_step(world, stop=world.rank == 2)):
        assert error is None
        parts = [torch.randn(58, generator=torch.Generator().manual_seed(rank)) for rank in range(3)]
        assert float((gradient_P - torch.stack(parts).mean(0)).abs().max()) < 1e-6
        assert float(loss) == 1.0
        assert stop
    assert not together(2, one_step)[0][0][1][1]


def test_one_rank_refuses_and_all_say_why(way: bool) -> None:
    def act(world: World) -> Any:
        return one_step(world, refusal=HealthError("the loss is nan") if world.rank == 1 else None)

    assert said(together(3, act), HealthError) == "rank 1: the loss is nan"


def test_a_gradient_changed_after_it_was_declared(way: bool) -> None:
    message = said(
        together(2, lambda world: one_step(world, change=at(1, lambda g: g[10].add_(1e-4)))), GradientMismatch
    )
    assert message.startswith("rank 1: gradient check failed at step 7: the gradient was changed")
    assert "layers.0.weight[1, 3]: it was " in message


def test_a_gradient_that_is_not_finite(way: bool) -> None:
    message = said(
        together(2, lambda world: one_step(world, before=at(1, lambda g: g[3].fill_(torch.nan)))), HealthError
    )
    assert message.startswith("step 7: the gradient of rank 1 is not finite")


def test_a_gradient_that_does_not_arrive(way: bool) -> None:
    def sent(rank: int, call: int, vector: Tensor) -> None:
        if rank == 1:
            vector[55:] *= 1.001

    message = said(together(3, one_step, sent=sent), GradientMismatch)
    assert "does not arrive as its checks saw it; the step was not applied" in message
    # In shared memory it is what was changed that is left.
    assert ("the gradient of rank 1 does" if way else "of rank 1 (layers.1.bias[0]: it sent ") in message
    assert way or "(and 2 more)) does not arrive" in message


def test_one_rank_receives_another_sum(way: bool) -> None:
    def received(rank: int, call: int, vector: Tensor) -> None:
        if rank == 0 and call == 0:
            vector[40] += 1

    message = said(together(3, one_step, received=received), GradientMismatch)
    assert "the reduced gradient of rank 0 is not that of rank 1: on rank 0, layers.1.weight[0, 0]: rank 1" in message


def test_one_rank_receives_a_sum_in_another_order(way: bool) -> None:
    def received(rank: int, call: int, vector: Tensor) -> None:
        if rank == 1 and call == 0:
            vector[40:42] = vector[40:42].flip(0)

    assert "of rank 1 is not that of rank 0: on rank 1, layers.1." in said(
        together(2, one_step, received=received), GradientMismatch
    )


def test_ranks_that_differ_by_less_than_rounding(way: bool) -> None:
    def received(rank: int, call: int, vector: Tensor) -> None:
        if rank == 2 and call == 0:
            vector[40] = torch.nextafter(vector[40], torch.tensor(9.0))

    message = said(together(3, one_step, received=received), GradientMismatch)
    assert "the reduced gradient of rank 2 is not that of rank 0: on rank 2, layers.1.weight[0, 0]" in message


@pytest.mark.parametrize(
    ("calls", "why"), [(1, "each rank's gradient arrives"), (99, "even the sum of nothing is not")]
)
def test_an_all_reduce_that_is_wrong_of_no_one_rank(calls: int, why: str, way: bool) -> None:
    def received(rank: int, call: int, vector: Tensor) -> None:
        if call < calls:
            vector[40] += 1

    message = said(together(2, one_step, received=received), GradientMismatch)
    assert f"the all-reduce is wrong, of no one rank: {why}" in message
    assert "layers.1.weight[0, 0]: the sum is " in message


def test_no_all_reduce_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ThreadTransport, "all_reduce", lambda transport, vector: None)
    monkeypatch.setattr(ThreadTransport, "shares", False)
    assert "the gradient of rank 0 and of rank 1 does not arrive" in said(together(2, one_step), GradientMismatch)


def test_memory_that_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    def share(transport: ThreadTransport, like_P: Tensor, row: int, *, native: bool) -> None:
        own = [torch.zeros_like(like_P) for _ in range(transport.size)]
        transport._memory = SimpleNamespace(vectors=own, close=lambda: None)  # type: ignore[assignment]

    monkeypatch.setattr(ThreadTransport, "share", share)
    message = said(together(2, one_step), GradientMismatch)
    assert "the gradient of rank 0 and of rank 1 does not arrive" in message


def test_parts_that_overlap_and_steps_that_differ(way: bool) -> None:
    overlap = together(2, lambda world: one_step(world, share=lambda world: slice(0, 5)))
    assert "the ranks' parts do not make up one batch: 5 of 8, 5 of 8 examples" in said(overlap, GradientMismatch)
    apart = together(2, lambda world: one_step(world, step=7 + world.rank))
    assert "the ranks are at different steps: 7, 8" in said(apart, GradientMismatch)


# What else ranks tell each other


def test_ranks_started_differently_are_told_how() -> None:
    def start(lr: float, seed: int = 0, data: str = "d1", runs_dir: str = "runs") -> dict[str, str]:
        weights = MLP((7, 5, 3), seed=seed).state_dict()
        return start_of(digits_config(lr=lr, runs_dir=runs_dir), data, {"model": weights})

    same = [start(0.1), start(0.1, runs_dir="elsewhere")]
    assert together(2, lambda world: world.assert_consistent(same[world.rank])) == [(None, None)] * 2
    other = [start(0.1), start(0.2, data="d2"), start(0.2)]
    message = said(together(3, lambda world: world.assert_consistent(other[world.rank])), ConfigError)
    assert message == (
        "the processes were started differently: --lr is 0.1 on rank 0, 0.2 on ranks 1 and 2; "
        "the data (SHA-256) is d1 on ranks 0 and 2, d2 on rank 1"
    )
    unlike = [start(0.1), start(0.1, seed=1)]
    weights = said(together(2, lambda world: world.assert_consistent(unlike[world.rank])), ConfigError)
    assert "the state to start from (SHA-256) is " in weights


def test_the_writer_acts_for_all() -> None:
    def act(world: World) -> Any:
        return world.on_writer(lambda: f"by {world.rank}"), world.gather(world.rank)

    assert together(2, act) == [(("by 0", [0, 1]), None)] * 2
    assert (World().on_writer(lambda: 3), World().gather(4)) == (3, [4])

    def fail() -> None:
        raise DataError("no such file")

    assert said(together(2, lambda world: world.on_writer(fail)), DataError) == "no such file"


def test_while_the_writer_works_it_gives_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ThreadTransport, "beat_seconds", 0.001)
    said_so: list[Any] = []
    gather = ThreadTransport.all_gather_object

    def counted(transport: ThreadTransport, value: Any) -> list[Any]:
        said_so.append(value) if transport.rank == 0 else None
        return gather(transport, value)

    monkeypatch.setattr(ThreadTransport, "all_gather_object", counted)

    def work() -> str:
        while len(said_so) < 5:
            time.sleep(0.001)
        return "done"

    assert together(3, lambda world: (world.on_writer(work), world.gather(world.rank))) == [
        (("done", [0, 1, 2]), None)
    ] * 3  # fmt: skip
    assert len(said_so) >= 7


def test_others_that_are_lost_while_the_writer_works() -> None:
    def act(world: World) -> Any:
        return world.on_writer(lambda: "done") if world.is_writer else sys.exit()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThreadTransport, "beat_seconds", 0.001)
        (_, lost), _ = together(2, act)
    assert isinstance(lost, RankLost)


def test_a_stop_while_the_writer_works_is_everybodys() -> None:
    def stop() -> None:
        raise Interrupted("interrupted")

    def act(world: World) -> str:
        with pytest.raises(Interrupted, match=r"^interrupted$") as caught:
            world.on_writer(stop)
        return f"{caught.value.reported_elsewhere}"

    assert [found for found, _ in together(2, act)] == ["False", "True"]


def test_an_error_of_all_ranks_is_printed_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    for elsewhere, line in ((False, "error: lost\n"), (True, "")):
        error = RankLost("lost")
        error.reported_elsewhere = elsewhere

        def main(error: RankLost = error) -> None:
            raise error

        with pytest.raises(SystemExit) as stop:
            run_command(main)
        assert (stop.value.code, capsys.readouterr().err) == (1, line)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: expected a number, as torchrun sets it, found 'two'"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK: expected 0 to 1, found 2"),
    ],
)
def test_the_environment(variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert type(from_environment("cpu")) is World
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        from_environment("cpu")


@pytest.mark.parametrize("rank", [0, 1])
def test_nobody_comes(rank: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("lean_mnist.training.distributed.transport._START", timedelta(seconds=1))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    for name, value in {"WORLD_SIZE": 2, "RANK": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(RankLost, match=f"^rank {rank} could not join the other 1 processes of the run: .*") as lost:
        from_environment("cpu")
    assert "\n" not in str(lost.value)
    assert capfd.readouterr() == ("", "")


# Two processes


def test_a_process_that_is_stopped_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lean_mnist.training.distributed.transport._ROLL_CALL_SECONDS", 0.2)
    monkeypatch.setattr("lean_mnist.training.distributed.transport._START", PATIENCE)
    store = str(tmp_path / "store")
    command = [sys.executable, str(REPOSITORY / "tests/support/distributed_cases.py"), store, "stop"]
    with subprocess.Popen(command, env={**surroundings(), "PYTHONPATH": str(REPOSITORY)}) as other:
        with join(store, 0, seconds=2) as world:
            world.on_writer(lambda: None)
            with pytest.raises(RankLost, match=r"^rank 1 died or no longer answers \(before the first step; Timed out"):
                world.gather(0)
        other.kill()


def test_two_processes_and_one_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lean_mnist.training.distributed.transport._ROLL_CALL_SECONDS", 0.2)
    monkeypatch.setattr("lean_mnist.training.distributed.transport._START", PATIENCE)
    store = str(tmp_path / "store")
    command = [sys.executable, str(REPOSITORY / "tests/support/distributed_cases.py"), store]
    with subprocess.Popen(command, env={**surroundings(), "PYTHONPATH": str(REPOSITORY)}) as other:
        with join(store, 0) as world:
            ours, theirs = scenarios(world)
            world.resume_hint = "lean_mnist.train --resume a-run"
            monkeypatch.setattr(world, "prepare", lambda *given: None)  # it is
            with pytest.raises(RankLost) as lost:
                train(world)  # the other has left
        assert other.wait() == 7
        assert "a process has ended" in str(lost.value)
    assert torch.equal(ours[0], theirs[0])
    alone = train(World())
    assert float((ours[0] - alone).norm()) <= 1e-6 * float(alone.norm())
    assert ours[1:] == theirs[1:]
    assert ours[2] == os.getpid()
    different, refused, changed = ours[1]
    assert different == "the processes were started differently: --lr is 0.1 on rank 0, 0.2 on rank 1"
    assert refused == "rank 1: no"
    assert changed.startswith("rank 1: gradient check failed at step 7: the gradient was changed")
    assert str(lost.value).startswith("rank 1 died or no longer answers (at step 1; ")
    assert str(lost.value).endswith("to go on, with any number of processes: lean_mnist.train --resume a-run")
