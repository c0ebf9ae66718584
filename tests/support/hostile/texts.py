"""Texts: configurations, lines of metrics, command lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tests.support.hostile.attack import HALF, RUN, Hostile, Sandbox
from tests.support.hostile.fields import ESCAPES

Build = Callable[[Sandbox], Sequence[str]]


def config(content: bytes | Callable[[dict[str, Any]], Any], command: str = "train") -> Build:
    """``--config config.json`` of this content, or of an honest one that is changed."""

    def build(sandbox: Sandbox) -> Sequence[str]:
        path = sandbox.run / "config.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            values = json.loads(path.read_bytes())
            content(values)
            path.write_text(json.dumps(values))
        return command, "--config", f"runs/{RUN}/config.json"

    return build


def _set(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda values: values.update({name: value})


def metrics(content: bytes) -> Build:
    """``--resume`` of a run with these lines in ``metrics.jsonl``."""

    def build(sandbox: Sandbox) -> Sequence[str]:
        (sandbox.work / "runs" / HALF / "metrics.jsonl").write_bytes(content)
        return "train", "--resume", f"checkpoints/{HALF}/last.pt"

    return build


def options(*arguments: str) -> Build:
    """A command line."""
    return lambda sandbox: arguments


CONFIGS: dict[str, bytes | Callable[[dict[str, Any]], Any]] = {
    "100,000 lists deep": b"[" * 100_000,
    "100,000 objects deep": b'{"lr":' * 100_000,
    "a whole number of 5,000 digits": b'{"epochs": ' + b"9" * 5_000 + b"}",
    "a whole number of 4,000 digits": b'{"epochs": ' + b"9" * 4_000 + b"}",
    "a seed of 4,000 digits": b'{"seed": ' + b"9" * 4_000 + b"}",
    "widths of 4,000 digits": b'{"hidden": [' + b"9" * 4_000 + b"]}",
    "a null byte in a run name": b'{"run_name": "a\\u0000b", "runs_dir": "\\u0000"}',
    "null bytes": b"\0" * 1_000,
    "UTF-16": '{"lr": 0.1}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}x",
    "Latin-1": b'{"data_dir": "\xe9"}',
    "NaN": b'{"lr": NaN}',
    "Infinity": b'{"weight_decay": Infinity}',
    "1e999": b'{"lr": 1e999}',
    "a name twice": b'{"lr": 0.1, "lr": 0.2, "epochs": 0}',
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "nothing": b"",
    "a field of escapes": _set(ESCAPES, 1),
    "a value of escapes": _set("activation", ESCAPES),
    "a folder of escapes": _set("epochs", ESCAPES),
    "an option as a field": _set("--help", True),
    "an option as a value": _set("lr", "--help"),
    "a list for a number": _set("lr", [1, 2]),
    "an object for a number": _set("lr", {"a": 1}),
    "true for a number": _set("lr", True),
    "a number for true": _set("quiet", 1),
    "null for a number": _set("epochs", None),
    "10^6 widths": _set("hidden", [3] * 1_000_000),
    "no widths": _set("hidden", []),
    "lists of lists": _set("hidden", [[3]]),
    "widths of 2^40": _set("hidden", [2**40]),
    "10^6 fields": lambda values: values.update({f"f{k}": k for k in range(10**6)}),
    "a value of 10^6 letters": _set("optimizer", "x" * 10**6),
    "a surrogate": b'{"dataset": "\\ud800"}',
    "a half number": _set("epochs", 1.5),
    "seconds as words": _set("batch_size", "1_0"),
}
HARMLESS = ("a byte order mark", "seconds as words")

LINES: dict[str, bytes] = {
    "100,000 lists deep": b"[" * 100_000 + b"\n",
    "100,000 objects deep": b'{"step":' * 100_000 + b"\n",
    "a step of 5,000 digits": b'{"step": ' + b"9" * 5_000 + b"}\n",
    "steps of NaN": b'{"step": NaN}\n' * 10,
    "steps of words": b'{"step": "1"}\n[1]\n3\nnull\n',
    "no UTF-8": b'{"step": 1, "name": "\xff\xfe"}\n',
    "null bytes": b"\0" * 100_000,
    "one line of a megabyte": b"x" * (1 << 20),
    "a million lines": b"\n" * 1_000_000,
    "escapes": ESCAPES.encode() * 100,
}

OPTIONS: dict[str, tuple[str, ...]] = {
    "a run name that is no UTF-8": ("train", "--run-name", "a\udcff"),
    "a run name of escapes": ("train", "--dataset", ESCAPES, "--run-name", "x"),
    "a run name that climbs": ("train", "--run-name", "../../x"),
    "a run name of 10,000 letters": ("train", "--dataset", "digits", "--epochs", "1", "--run-name", "x" * 10_000),
    "a run name of a null": ("train", "--run-name", "a\0b"),
    "epochs of 5,000 digits": ("train", "--epochs", "9" * 5_000),
    "epochs of escapes": ("train", "--epochs", ESCAPES),
    "an option of escapes": ("train", f"--{ESCAPES}"),
    "an option of 10^5 letters": ("train", "--" + "x" * 100_000),
    "a rate of NaN": ("train", "--lr", "nan"),
    "a decay of infinity": ("train", "--weight-decay", "inf"),
    "widths of 2^62": ("train", "--dataset", "digits", "--hidden", str(2**62)),
    "widths of 10^10": ("train", "--dataset", "digits", "--hidden", "10000000000"),
    "widths of 4,000 digits": ("train", "--dataset", "digits", "--hidden", "9" * 4_000),
    "a preset of escapes": ("train", "--preset", ESCAPES),
    "a δ of 10^6 digits": ("certify", "checkpoints/a-run/best.pt", "--delta", "0." + "1" * 10**5),
    "a δ of 1e-999999999": ("certify", "checkpoints/a-run/best.pt", "--delta", "1e-999999999"),
    "a δ of 1e-5000": ("certify", "checkpoints/a-run/best.pt", "--delta", "1e-5000"),
    "a δ of a division by 0": ("certify", "checkpoints/a-run/best.pt", "--delta", "1/0"),
    "a δ of escapes": ("certify", "checkpoints/a-run/best.pt", "--delta", ESCAPES),
    "looks of 5,000 digits": ("certify", "checkpoints/a-run/best.pt", "--looks", "9" * 5_000),
    "looks of 10^300": ("certify", "checkpoints/a-run/best.pt", "--looks", "1" + "0" * 300),
    "an output that is a file": ("certify", "checkpoints/a-run/best.pt", "--out", "trap.py"),
    "an output of a null": ("certify", "checkpoints/a-run/best.pt", "--out", "a\0b"),
    "a checkpoint of a null": ("evaluate", "a\0b"),
    "a checkpoint of 10^5 letters": ("evaluate", "x" * 100_000),
    "a checkpoint that is no UTF-8": ("evaluate", "a\udcff.pt"),
    "redraws below 0": ("certify", "--check", "runs/a-run/certificate.json", "--redraw", "-1"),
    "inputs of escapes": ("check", "torch:square", "--inputs", ESCAPES),
    "inputs in brackets": ("check", "torch:square", "--inputs", "(" * 100_000),
    "inputs of a maker in brackets": ("check", "torch:square", "--inputs", "x=" * 50_000 + "randn(3,req)"),
    "inputs of 2^60 numbers": ("check", "torch:square", "--inputs", f"randn({2**60},req)"),
    "inputs of 10^12 numbers": ("check", "torch:square", "--inputs", "randn(1000000000000,req)"),
    "inputs of 5,000 digits": ("check", "torch:square", "--inputs", "randn(" + "9" * 5_000 + ",req)"),
    "a function of escapes": ("check", ESCAPES, "--inputs", "randn(3,req)"),
    "a function that is no UTF-8": ("check", "a\udcff:b", "--inputs", "randn(3,req)"),
    "a configuration of a null": ("train", "--config", "a\0b"),
    "--resume of a null": ("train", "--resume", "a\0b"),
    "--resume of 10^5 letters": ("train", "--resume", "x" * 100_000),
    "a folder of runs of a null": ("train", "--dataset", "digits", "--epochs", "1", "--runs-dir", "a\0b"),
}

HOSTILE = [
    *(Hostile(f"config: {name}", config(content), either=name in HARMLESS) for name, content in CONFIGS.items()),
    *(
        Hostile(f"PAC-Bayes config: {name}", config(CONFIGS[name], "pacbayes"))
        for name in ("100,000 lists deep", "a whole number of 5,000 digits", "NaN", "a field of escapes", "null bytes")
    ),
    *(Hostile(f"metrics: {name}", metrics(content), says="", either=True) for name, content in LINES.items()),
    *(Hostile(f"options: {name}", options(*arguments), says="") for name, arguments in OPTIONS.items()),
]
