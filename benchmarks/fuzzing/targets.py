"""The readers of files, each with small honest files and the mutations that its format invites."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzzing.containers import of_archive, of_content, of_pickle, of_protobuf, of_safetensors
from benchmarks.fuzzing.honest import (
    beside_certificate,
    checkpoints,
    code_certificate,
    command_lines,
    configs,
    digits,
    function_bundles,
    holdout_certificate,
    idx_files,
    images,
    labels,
    last_checkpoints,
    metrics_files,
    mlcert_pickles,
    onnx_files,
    pac_bayes_certificate,
    pac_bayes_configs,
    packed,
    perceptron_files,
    quantized_files,
    safetensors_files,
    state_dicts,
    step_bundles,
)
from benchmarks.fuzzing.mutations import Mutation, changed, inside_gzip, of_arguments, of_bytes, of_json, of_lines
from benchmarks.fuzzing.probe import Target
from lean_mnist.data.idx import read_idx, read_images, read_labels
from lean_mnist.errors import LeanMnistError
from lean_mnist.generalization import checker
from tests.support.certificate_cases import merge

FEATURES, CLASSES = 64, 10


# -- runs -------------------------------------------------------------------------------------------------------------


def _hashed(content: dict[str, Any]) -> dict[str, Any]:
    from lean_mnist.training.checkpoints import content_hash

    content.pop("content_sha256", None)
    return {**content, "content_sha256": content_hash(content)}


def _load_checkpoint(path: Path) -> object:
    from lean_mnist.training.checkpoints import load_checkpoint

    return load_checkpoint(path)


def _resume(path: Path) -> object:
    from lean_mnist.training.arguments import read_arguments
    from lean_mnist.training.config.optimizers import build_optimizer
    from lean_mnist.training.distributed import World
    from lean_mnist.training.generations import read_last
    from lean_mnist.training.objectives.classification import Classification
    from lean_mnist.training.saved_run import restore_run

    config, resume = read_arguments(["--resume", str(path), "--runs-dir", str(path.parent)])
    assert resume is not None
    objective = Classification(dataclasses.replace(config, device="cpu"), digits(), World())
    content, source, _ = read_last(resume)
    return restore_run(content, source, objective, build_optimizer(objective.config, [objective.parameters.vector]))


def _config(path: Path) -> object:
    from lean_mnist.training.arguments import read_arguments

    return read_arguments(["--config", str(path)])


def _pac_bayes_config(path: Path) -> object:
    from lean_mnist.pacbayes import Arguments
    from lean_mnist.training.arguments import RunCommand
    from lean_mnist.training.config.pac_bayes import PacBayesConfig

    return RunCommand("python -m lean_mnist.pacbayes", PacBayesConfig, Arguments).read(["--config", str(path)])


def _metrics(path: Path) -> None:
    from lean_mnist.training.sinks.json_lines import JsonLinesSink

    JsonLinesSink(path, resume_step=1).close()


def _ended(main: Callable[[], Any]) -> None:
    """Run a command as ``python -m`` does; raises its line, whatever the class of the error was."""
    from lean_mnist.command_line import run_command

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            run_command(main)
    except SystemExit as end:
        if end.code not in (0, 3):  # 3: a gradient is wrong
            line = said.getvalue()
            raise LeanMnistError(line.removesuffix("\n") if end.code == 2 else f"status {end.code}\n{line}") from None
    sys.stderr.write(said.getvalue())


# -- command lines ----------------------------------------------------------------------------------------------------


def _options(path: Path) -> None:
    from lean_mnist.certify import CertifyArguments
    from lean_mnist.check import CheckArguments
    from lean_mnist.command_line import parse
    from lean_mnist.crosscheck.cases.language import parse_inputs
    from lean_mnist.evaluate import EvaluateArguments
    from lean_mnist.learners import LearnersArguments
    from lean_mnist.programs import ProgramsArguments
    from lean_mnist.training.arguments import read_arguments

    command, *arguments = path.read_bytes().decode("utf-8", "surrogateescape").split("\0")
    if {"-h", "--help"} & set(arguments):
        return
    if command == "train":
        _ended(lambda: read_arguments(arguments))
        return
    classes: dict[str, Any] = {
        "evaluate": EvaluateArguments,
        "certify": CertifyArguments,
        "check": CheckArguments,
        "learners": LearnersArguments,
        "programs": ProgramsArguments,
    }

    def read() -> None:
        parsed: Any = parse(classes.get(command, CheckArguments), arguments, prog="python -m x")
        if command == "check" and parsed.inputs:
            parse_inputs(parsed.inputs)

    _ended(read)


# -- bundles ----------------------------------------------------------------------------------------------------------


def _replay(*arguments: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        from lean_mnist.crosscheck.replay import main

        _ended(lambda: main([str(path), *arguments]))

    return read


# -- networks from elsewhere ------------------------------------------------------------------------------------------


def _import(path: Path) -> object:
    from lean_mnist.generalization.imports.certified import import_network, kind_of

    return import_network(str(path), kind_of(str(path)), FEATURES, CLASSES)


def _perceptrons(path: Path) -> object:
    from lean_mnist.generalization.learners.experiments import read_examples

    return read_examples(path)


# -- data -------------------------------------------------------------------------------------------------------------


def _labels_of(path: Path) -> object:
    return read_labels(path)


# -- certificates -----------------------------------------------------------------------------------------------------


def _check(path: Path) -> object:
    redraw = 5 if b"PAC-Bayes" in path.read_bytes() else None  # no other kind has draws
    return str(checker.check(str(path), [], redraw=redraw))


def sealed(content: bytes) -> bytes:
    """The certificate with everything rewritten that follows from its other fields, as its checker derives it."""
    document = json.loads(content)
    with contextlib.suppress(Exception):
        merge(document, checker.derive(document))
    return checker.canonical(document)


def of_certificate(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One of the certificates with a field altered, and what follows from it written again."""
    document = json.loads(random.choice(seeds))
    for _ in range(random.choice((1, 1, 2))):
        document = changed(random, document)
    try:
        return sealed(json.dumps(document).encode())
    except (ValueError, TypeError, RecursionError):
        return json.dumps(document).encode()


def _check_beside(path: Path) -> None:
    """Check the certificate beside ``path``; of that file it states the hash that it has now."""

    place = path.parent / "certificate.json"
    document = json.loads(place.read_bytes())
    fields = document["weights"] if path.name.endswith("weights") else document["data"][path.name.split(".")[1]]
    content = path.read_bytes()
    with contextlib.suppress(Exception):
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    fields["sha256"] = hashlib.sha256(content).hexdigest()
    place.write_bytes(sealed(json.dumps(document).encode()))
    checker.check(str(place), [])


def _twice(*mutations: Mutation) -> tuple[Mutation, ...]:
    return mutations * 2


_PICKLED: tuple[Mutation, ...] = (of_bytes, of_archive, of_archive)
TARGETS: tuple[Target, ...] = (
    Target("checkpoint", "best.pt", checkpoints, _load_checkpoint, (*_PICKLED, *[of_content(_hashed)] * 3), 6),
    Target("resume", "last.pt", last_checkpoints, _resume, (of_bytes, of_archive, *[of_content(_hashed)] * 4), 3),
    Target("config", "config.json", configs, _config, (of_bytes, of_json, of_json), 12),
    Target("PAC-Bayes config", "config.json", pac_bayes_configs, _pac_bayes_config, (of_bytes, of_json, of_json), 6),
    Target("metrics", "metrics.jsonl", metrics_files, _metrics, (of_bytes, of_lines), 20),
    Target("options", "arguments", command_lines, _options, (of_bytes, of_arguments, of_arguments), 15),
    Target(
        "function bundle",
        "bundle.pt",
        function_bundles,
        _replay("--function", "torch:square"),
        (*_PICKLED, *[of_content()] * 3),
        1,
    ),
    Target("step bundle", "step-1.pt", step_bundles, _replay(), (*_PICKLED, *[of_content()] * 3), 1),
    Target("state_dict", "state.pt", state_dicts, _import, (*_PICKLED, of_content(), of_content()), 8),
    Target("safetensors", "network.safetensors", safetensors_files, _import, (of_bytes, *_twice(of_safetensors)), 30),
    Target("ONNX", "network.onnx", onnx_files, _import, (of_bytes, *_twice(of_protobuf)), 30),
    Target("MLCERT", "network.pkl", mlcert_pickles, _import, (of_bytes, *_twice(of_pickle)), 60),
    Target(
        "MLCERT, gzip",
        "network.pkl.gz",
        packed(mlcert_pickles),
        _import,
        (of_bytes, *_twice(inside_gzip(of_pickle))),
        30,
    ),
    Target("quantised network", "network.json", quantized_files, _import, (of_bytes, of_json, of_json), 30),
    Target("perceptrons", "train.dat", perceptron_files, _perceptrons, (of_bytes, of_lines, of_lines), 110),
    Target("IDX", "file", idx_files, read_idx, (of_bytes,), 240),
    Target("IDX images", "images", images, read_images, (of_bytes,), 110),
    Target("IDX labels", "labels", labels, _labels_of, (of_bytes,), 110),
    Target("IDX, gzip", "labels.gz", packed(idx_files), read_idx, (of_bytes, *_twice(inside_gzip(of_bytes))), 145),
    Target(
        "certificate", "certificate.json", holdout_certificate, _check, (of_bytes, of_json, *_twice(of_certificate)), 8
    ),
    Target(
        "code-length certificate",
        "certificate.json",
        code_certificate,
        _check,
        (of_bytes, of_json, *_twice(of_certificate)),
        8,
    ),
    Target(
        "PAC-Bayes certificate",
        "certificate.json",
        pac_bayes_certificate,
        _check,
        (of_bytes, of_json, *_twice(of_certificate)),
        8,
    ),
    Target("certified weights", "certificate.weights", beside_certificate("weights"), _check_beside, (of_bytes,), 3),
    Target(
        "certified images", "certificate.images.idx", beside_certificate("images.idx"), _check_beside, (of_bytes,), 3
    ),
    Target(
        "certified labels", "certificate.labels.idx", beside_certificate("labels.idx"), _check_beside, (of_bytes,), 3
    ),
)
