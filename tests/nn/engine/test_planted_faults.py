"""Faults planted in the kernels in C: the engine refuses before anything is learnt by them, and goes on as written."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist.data.normalization import Normalization
from lean_mnist.mutants.native import kernels_with
from lean_mnist.nn.engine import native
from tests.support.engine_cases import Case, flat, quick_compiler
from tests.support.training_cases import digits_run, load, named


def fault(right: str, old: str = "", new: str = "", **options: Any) -> tuple[str, str, dict[str, Any]]:
    """What is right in kernels.c, what is put there, and the options of a network that shows it."""
    assert not old or right.count(old) == 1, right
    return right, right.replace(old, new) if old else new, options


FIRST_OF_BIAS = "for (int64_t i = 0; i < net->examples;) {"
BELOW = "layer->units, layer->units, 1, layer->weight, 1,\n                layer->units, NULL, d_h"
TARGET = "float target = (1 - epsilon) * (s[label] - largest) + epsilon * (sum_u / classes);"
STANDARD = Normalization("standard", 33.0, 78.0)

OF_STEP = {
    "no bias": fault("sum[i][v] += load(start + i * sr + v * WIDTH);"),
    "the second block of terms alone": fault("k ? place : from,", "k ? place : from", "from", sizes=(7, 300, 3)),
    "the second block of what a list names alone": fault("start = c;", sizes=(600, 64, 3)),
    "one term of a product too few": fault("n = 0; n < inner; n++) {\n        int64_t k", "n = 0", "n = 1"),
    "a row of a product twice": fault("sum[i][v] += (a[i * ar", "i * ar", "(i ? i - 1 : 0) * ar"),
    "one row for all that fill no tile": fault("cr + j, rest + (row - i) * TILE_COLUMNS", "row - i", "i - i"),
    "a column of the last tile is zeros": fault("column < width ? panel", "column <", "column + 1 <"),
    "the product into the layer below by W": fault(BELOW, "weight, 1,\n                layer->units", "weight, 2, 1"),
    "ReLU lets through what is negative": fault("h[i] = z[i] <= 0 ? 0 : z[i]", "<=", ">="),
    "ReLU's mask on the wrong side": fault("d_z[i] = h[i] <= 0 ? 0 : d_h[i]", "<=", ">"),
    "leaky ReLU without its slope": fault("h[i] <= 0 ? net->leaky_slope * d_h[i]", "net->leaky_slope * d_h[i]", "0",
                                          activation="leaky-relu"),
    "sigmoid's derivative": fault("(h[i] * (1 - h[i]))", "-", "+", activation="sigmoid"),
    "tanh's derivative": fault("(1 - h[i] * h[i])", "h[i] * h[i]", "h[i]", activation="tanh"),
    "GELU's derivative": fault("normal_cdf(z[i]) + z[i] * (expf", "+", "-", activation="gelu"),
    "SiLU's derivative": fault("s * (1 + z[i] * (1 - s))", "1 - s", "s", activation="silu"),
    "an exponential with a term too few": fault("p = p * r + 0.5f;\n"),
    "softmax without its maximum": fault("float u = s[c] - largest;", " - largest"),
    "no label smoothing in the gradient": fault("float q = (c == label ? 1 - epsilon : 0) + epsilon / classes;",
                                                "(c == label ? 1 - epsilon : 0) + epsilon / classes", "c == label",
                                                label_smoothing=0.1),
    "no label smoothing in the loss": fault(TARGET, "epsilon * (sum_u / classes)", "0", label_smoothing=0.1),
    "no penalty in the gradient": fault("- q + net->logit_penalty * s[c]", " + net->logit_penalty * s[c]",
                                        logit_penalty=0.01),
    "the penalty of the loss twice": fault("net->logit_penalty / 2", " / 2", logit_penalty=0.01),
    "a mean over one more": fault("1.0f / net->examples", "net->examples", "(net->examples + 1)"),
    "a mean loss over one more": fault("loss /= examples;", "examples", "examples + 1"),
    "the gradient of a bias without an example": fault(FIRST_OF_BIAS, "i = 0", "i = 1"),
    "the gradient of a bias never starts anew": fault("layer->d_bias[j] = 0;", "= 0", "+= 0"),
    "the gradient of a weight by other inputs": fault("h + begin, 1, layer->inputs, layer->d_z,", "h + begin", "h",
                                                      threads=2, sizes=(7, 13, 4, 3)),
    "the gradient of a first weight by other inputs": fault(
        "net->examples, layer->h + begin, 1, inputs, layer->d_z + columns", "h + begin", "h", threads=2),
    "the gradient of an activation is not that of its input": fault("layer->inputs, d_h,", "d_h", "layer->z"),
}  # fmt: skip
# With most inputs a background that is not 0, in layers that fill tiles:
SPARSE: dict[str, Any] = {"sizes": (70, 128, 3), "pixels": 0.08, "normalization": STANDARD}
OF_STEP |= {
    "no background in the output": fault(" + net->background * sum;", " + net->background * sum", **SPARSE),
    "no bias beside the background": fault("(layer->bias ? layer->bias[j] : 0)", "layer->bias ?", "0 ?", **SPARSE),
    "weights' sums without the last rows": fault("block * SUMMED_ROWS < inputs", "block *", "(block + 1) *", **SPARSE),
    "weights' sums of another step": fault("sum_weights(net, team, thread);", **SPARSE),
    "inputs as if there were no background": fault("(a[i * ar + k * ac] - shift)", " - shift", **SPARSE),
    "inputs of the first row of a tile alone": fault("row < i + rows; row++) bits", "i + rows", "i + 1", **SPARSE),
    "the last input is taken for background": fault("k < 64 ? inputs - k : 64", "s - k :", "s - k - 1 :", **SPARSE),
    "no background in the gradient": fault("start[j] *= net->background", "net->background", "0", **SPARSE),
    "three of the four inputs of a tile": fault("(uint64_t)15 << k % 64", "15", "7", **SPARSE),
    "the sum of half the columns": fault("units, columns, start);", "columns", "columns / 2", **SPARSE),
}  # fmt: skip
# Of what a step alone does not show: by how numbers are moved,
PLAIN: dict[str, Any] = {"momentum": 0.0, "nesterov": False}
OF_UPDATE = {
    "no momentum": fault("float v = mu * m[k] + (factor", "mu * m[k] + ", nesterov=False),
    "momentum that is not kept": fault("bits_of(m[k] = v);\n            of_p += bits_of(p[k] -= rate * v);",
                                      "m[k] = v", "v", nesterov=False),
    "Nesterov's momentum without the step ahead": fault("p[k] -= rate * (g + mu * v)", "(g + mu * v)", "v"),
    "no decay": fault("float g = factor * gradient[k] + decay * p[k]", " + decay * p[k]", weight_decay=1e-4),
    "decay of the wrong sign": fault("rate * (factor * gradient[k] + decay * p[k])", "+", "-", weight_decay=1e-4,
                                     **PLAIN),
    "half the rate": fault("apply_range(update, rate, factor, block", "rate", "rate / 2"),
    "not clipped": fault("return factor < 1 ? factor : 1;", "factor < 1 ? factor : 1", "1", clip_norm=0.05),
    "clipped where it is short": fault("return factor < 1 ? factor : 1;", " < 1 ? factor : 1", clip_norm=500.0),
    "the last block is not moved": fault("block < end; block++) {\n        int64_t last", "block <", "block + 1 <"),
}  # fmt: skip
# or by what a chunk is made of.
OF_CHUNK = {
    "pixels that are not centred": fault("((float)pixels[j] - source->mean)", " - source->mean",
                                         normalization=STANDARD),
    "features that are not clipped": fault("x[j] < -source->clip ? -source->clip : x[j]", "? -source->clip", "? x[j]",
                                           normalization=Normalization("standard", 127.0, 50.0, 1.0)),
    "the label of another example": fault("net->labels[i] = source->labels[example];", "example", "position + i"),
    "the first batch again": fault("int64_t example = source->order[position + i];", "position + "),
    "the rate of the step before": fault("work->rates[step]", "[step]", "[step ? step - 1 : 0]"),
}  # fmt: skip
HOLD = """if (work->hold && step == work->steps - 1) {
            if (thread == 0) work->status = HELD;
            break;"""
OF_CHUNK |= {
    "a held step is moved": fault(HOLD, "break;", ""),
    "a step that is to be held is taken": fault(HOLD, "work->hold", "0"),
    "the first step is held": fault(HOLD, "step == work->steps - 1", "step == 0"),
    "a step is held that is not to be": fault(HOLD, "work->hold && ", ""),
}
FAULTS = {**OF_STEP, **OF_UPDATE, **OF_CHUNK}


@pytest.mark.parametrize("name", FAULTS)
def test_the_engine_refuses_and_goes_on_as_written(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong, options = FAULTS[name]
    quick_compiler(monkeypatch)
    kernels = kernels_with(right, wrong)
    monkeypatch.setattr(native, "load_kernels", lambda: kernels)
    if name == "the last block is not moved":
        options = {**options, "sizes": (7, 900, 3)}
    case, written = Case(**options), Case(written=True, **without_threads(options))
    if name in OF_STEP:
        batch = case.hot_batch(6)
        case.parameters.gradient.fill_(0.5)
        case.engine.step([batch])
        assert " differs from the chain rule by " in case.engine.refused
        gradients = flat(case.exact(batch)[1])
        assert torch.allclose(case.parameters.gradient.double(), gradients, rtol=1e-4, atol=1e-6)
    chunk = case.chunk()
    if name in OF_UPDATE:
        assert " differs from the update as it is written by " in case.engine.refused
    if name in OF_CHUNK:
        assert case.engine.refused == "steps of a chunk are not those that it has one by one"
    assert chunk.losses == written.chunk().losses
    assert all(map(torch.equal, case.state(), written.state()))
    assert not case.engine.screens


@pytest.mark.parametrize("name", ["the first batch again", "the rate of the step before"])
@pytest.mark.parametrize("hold", [False, True])
def test_a_chunk_longer_than_the_one_compared_is_compared(
    name: str, hold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong, options = FAULTS[name]
    quick_compiler(monkeypatch)
    kernels = kernels_with(right, wrong)
    monkeypatch.setattr(native, "load_kernels", lambda: kernels)
    case = Case(**options)
    planned = case.planned()
    case.engine.step([planned[0]])
    case.engine.update(0.1)
    first = case.engine.chunk(planned[1:2], [0.1], hold=hold)  # which does not show it
    assert not case.engine.refused
    assert (first.held is not None) is hold
    assert len(first.losses) == 1 - hold
    case.engine.chunk(planned[2:4], [0.1, 0.01], hold=hold)
    assert case.engine.refused == "steps of a chunk are not those that it has one by one"


def without_threads(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "threads"}


@pytest.mark.parametrize("name", ["no bias", "no momentum", "the label of another example"])
def test_a_run_says_so_once_and_is_that_of_steps_as_written(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right, wrong, _ = FAULTS[name]
    (folder := tmp_path / "written").mkdir()
    options: dict[str, Any] = {"epochs": 1, "batch_size": 32, "log_every": 10, "nesterov": False, "check": "off"}
    written = digits_run(folder, engine="eager", **options)
    quick_compiler(monkeypatch)
    kernels = kernels_with(right, wrong)
    monkeypatch.setattr(native, "load_kernels", lambda: kernels)
    (folder := tmp_path / "faulty").mkdir()
    faulty = digits_run(folder, **options)
    (notice,) = named(faulty.records, "engine/refused")
    assert "differs from" in notice or "one by one" in notice
    for ours, theirs in zip(load(faulty.last)["model"].values(), load(written.last)["model"].values(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)  # the first step was in C
