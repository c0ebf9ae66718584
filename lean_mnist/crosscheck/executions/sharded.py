"""``check_sharded``: a model on one device compared with the same model on several ranks, on the same inputs."""

import multiprocessing
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lean_mnist.crosscheck.executions.steps import Expected, Results, Step, worst
from lean_mnist.crosscheck.options import require_tolerance, seed_from, severity_named
from lean_mnist.crosscheck.questions import require_callable
from lean_mnist.crosscheck.report import Finding, FunctionReport, Severity, failed
from lean_mnist.crosscheck.subjects.arguments import Inputs
from lean_mnist.crosscheck.subjects.calls import generators_put_back, one_line, seed_everything
from lean_mnist.errors import ArgumentError, require_count

SHARDED, ONE = "sharded", "one device"


@dataclass(frozen=True)
class _Job:
    """The orders of a rank."""

    make_model: Callable[[], nn.Module]
    shard: Callable[[nn.Module], nn.Module | None] | None
    step: Step
    state: dict[str, Tensor]
    split: bool
    gather: Callable[[str, Tensor], Tensor] | None
    folder: str
    world_size: int
    timeout: float


def check_sharded(
    make_model: Callable[[], nn.Module],
    inputs: Inputs,
    shard: Callable[[nn.Module], nn.Module | None] | None = None,
    *,
    world_size: int = 2,
    split: bool = True,
    gather: Callable[[str, Tensor], Tensor] | None = None,
    seed: int | None = None,
    fail_on: str = "error",
    tolerance: float = 0.0,
    timeout: float = 120.0,
) -> FunctionReport:
    """Compare outputs and gradients of a model on one device with those on ``world_size`` ranks, processes on the CPU.

    The loss is a mean over examples, weighted at random. On several ranks it is each rank's own, and gradients are
    averaged over them (as FSDP and DDP do) if the batch is ``split``; else all ranks see the whole batch (tensor
    parallel), and each must come to the gradients of one device. Gradients that are DTensors are gathered whole.

    Args:
        make_model: makes the model, in a process group of gloo or in none; importable by other processes.
        inputs: its arguments, a list or a mapping of keywords; if ``split``, of tensors whose dimension 0 is the batch.
        shard: distributes a model in place, or returns the one to call (``fully_shard``, ``DistributedDataParallel``,
            ``parallelize_module`` with a plan); without it, what ``make_model`` makes on a rank is run as it is.
        gather: on each rank, from ``"output 0"`` or ``"gradient of weight"`` and a tensor to the whole of it, for
            those that are parts and no DTensors.
        timeout: in seconds, after which ranks that have not finished are a failure.

    Raises ``ArgumentError`` if the question makes no sense: it must be picklable, and the batch divisible.
    """
    require_count(world_size=world_size)
    require_callable("make_model", make_model)
    severity, seed = severity_named(fail_on), seed_from(seed)
    require_tolerance(tolerance)
    step = Step.at(inputs, seed)
    lengths = {x.shape[0] for x in step.inputs if isinstance(x, Tensor) and x.dim()}
    if split and (len(lengths) != 1 or min(lengths) % world_size):
        raise ArgumentError(f"inputs: expected one batch size, a multiple of {world_size} ranks, found {lengths}")
    with generators_put_back(), tempfile.TemporaryDirectory() as folder:
        seed_everything(seed)
        model = make_model()
        expected = Expected.of(model, step, (SHARDED, ONE), tolerance)
        if expected.random:
            raise ArgumentError("model: expected one that draws no random numbers, as in eval mode")
        state = {name: x.detach() for name, x in model.state_dict().items()}
        job = _Job(make_model, shard, step, state, split, gather, folder, world_size, timeout)
        try:
            pickle.dumps(job)
        except Exception as error:
            raise ArgumentError(
                f"make_model, shard: expected functions that other processes can import; {one_line(error)}"
            ) from None
        findings = _run_ranks(job) or _compared(job, expected)
    return FunctionReport(
        tuple(findings), seed, f"{world_size} ranks", severity,
        judged_by={"the model": (SHARDED,)}, oracles=(SHARDED,),
    )  # fmt: skip


def _run_ranks(job: _Job) -> list[Finding]:
    """Run all ranks; a finding if one raised or did not end in time."""
    # Processes that are forked of a server, which has imported what they need and has no threads.
    served = "forkserver" in multiprocessing.get_all_start_methods()
    server: Any = multiprocessing.get_context("forkserver" if served else "spawn")
    server.set_forkserver_preload([__name__])
    processes = [server.Process(target=_rank, args=(rank, job), daemon=True) for rank in range(job.world_size)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + job.timeout
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
    # What the first raised; the others then miss it.
    errors = sorted(Path(job.folder).glob("*.error"), key=lambda path: path.stat().st_mtime_ns)
    died = [rank for rank, process in enumerate(processes) if process.exitcode]
    if errors:
        text = f"rank {errors[0].stem} raised {one_line(errors[0].read_text())}"
    elif alive:
        text = f"the ranks did not end within {job.timeout:g} s"
    elif died:
        text = f"rank {died[0]} ended with exit code {processes[died[0]].exitcode}"
    else:
        return []
    return [failed(text, rule=SHARDED, severity=Severity.ERROR)]


def _rank(rank: int, job: _Job) -> None:
    """One rank's step; its results, or what it raised, go into a file."""
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{job.folder}/store", rank=rank, world_size=job.world_size,
            timeout=timedelta(seconds=job.timeout),
        )  # fmt: skip
        torch.save(_results(rank, job), f"{job.folder}/{rank}.pt")
        dist.barrier()
    except BaseException as error:
        Path(job.folder, f"{rank}.error").write_text(f"{type(error).__name__}: {error}")
        sys.exit(1)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _results(rank: int, job: _Job) -> Results:
    seed_everything(job.step.seed)
    model = made = job.make_model()
    if job.shard is not None:
        model.load_state_dict(job.state)
        made = job.shard(model) or model
    step = job.step
    if job.split:
        inputs = [_part(x, rank, job.world_size) for x in step.inputs]
        step = replace(step, inputs=inputs, part=(rank, job.world_size))
    results = step.of(made, module=model)
    if job.gather is not None:
        results = {name: job.gather(name, x) for name, x in results.items()}
    return {name: x.detach().clone() for name, x in results.items()}


def _part(x: Any, rank: int, ranks: int) -> Any:
    if not isinstance(x, Tensor) or not x.dim():
        return x
    return x.detach().chunk(ranks)[rank].clone().requires_grad_(x.requires_grad)


def _compared(job: _Job, expected: Expected) -> list[Finding]:
    ranks: list[Results] = [torch.load(Path(job.folder, f"{rank}.pt")) for rank in range(job.world_size)]
    names = job.step.arguments.names
    inputs = {f"gradient of {name}" for name in names}
    findings = []
    for rank, results in enumerate(ranks):
        found = dict(results)
        for name in expected.names if job.split else ():
            parts = [other[name] for other in ranks if name in other]
            if len(parts) == job.world_size and (name.startswith("output ") or name in inputs):
                together = torch.cat(parts) if parts[0].dim() else torch.stack(parts).mean()
                found[name] = together / job.world_size if name in inputs else together
        findings += expected.findings(found, f" on rank {rank}")
    return worst(findings)
