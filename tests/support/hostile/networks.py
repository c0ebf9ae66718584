"""Networks from elsewhere that are none: ONNX, safetensors, pickles of MLCERT, quantised networks, state_dicts."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.fuzzing.containers import varint
from tests.support.hostile.archives import deflated_zeros, shared, text, tuple_of
from tests.support.hostile.attack import Hostile, Sandbox
from tests.support.hostile.data_files import gzip_bomb
from tests.support.hostile.fields import ESCAPES

Build = Callable[[Sandbox], Sequence[str]]


def certified(name: str, content: Callable[[], bytes]) -> Build:
    """``certify`` of a file."""

    def build(sandbox: Sandbox) -> Sequence[str]:
        (sandbox.work / name).write_bytes(content())
        scaling = () if name.endswith((".json", ".pkl", ".gz")) else ("--scaling", "0", "16")
        return "certify", name, "--dataset", "digits", *scaling

    return build


# -- ONNX -------------------------------------------------------------------------------------------------------------


def model(change: Callable[[Any], Any]) -> Callable[[], bytes]:
    """An honest network of 64-3-10 in ONNX, changed."""

    def make() -> bytes:
        from onnx import TensorProto, helper, numpy_helper

        random = np.random.default_rng(1)
        arrays = {"w": random.normal(size=(3, 64)), "v": random.normal(size=(10, 3))}
        constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
        nodes = [
            helper.make_node("Flatten", ["x"], ["f"], axis=1),
            helper.make_node("Gemm", ["f", "w"], ["z"], transB=1),
            helper.make_node("Relu", ["z"], ["h"]),
            helper.make_node("Gemm", ["h", "v"], ["y"], transB=1),
        ]
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
        made = helper.make_model(helper.make_graph(nodes, "g", [x], [y], initializer=constants))
        changed = change(made)
        return changed if isinstance(changed, bytes) else bytes(made.SerializeToString())

    return make


def _external(path: str) -> Callable[[Any], None]:
    def change(made: Any) -> None:
        tensor = made.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = 1
        for key, value in (("location", path), ("offset", "0"), ("length", "768")):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return change


def _recursive(made: Any) -> None:
    function = made.functions.add()
    function.name, function.domain = "Again", ""
    function.node.add().op_type = "Again"
    made.graph.node[0].op_type = "Again"


def _nested_graphs(made: Any) -> bytes:
    content = b""
    for _ in range(3_000):  # attribute.g of node of graph …
        graph = b"\x0a" + varint(len(content)) + content
        attribute = b"\x32" + varint(len(graph)) + graph
        content = b"\x2a" + varint(len(attribute)) + attribute
    graph = b"\x0a" + varint(len(content)) + content
    return bytes(made.SerializeToString()) + b"\x3a" + varint(len(graph)) + graph


def _empty(field: bytes, number: int) -> Callable[[Any], bytes]:
    def change(made: Any) -> bytes:
        graph = made.graph.SerializeToString() + field * number
        made.ClearField("graph")
        return bytes(made.SerializeToString()) + b"\x3a" + varint(len(graph)) + graph

    return change


def _set(path: str, value: Any) -> Callable[[Any], None]:
    def change(made: Any) -> None:
        *steps, last = path.split(".")
        place = made
        for step in steps:
            place = place[int(step)] if step.isdigit() else getattr(place, step)
        setattr(place, last, value)

    return change


def _dims(*sizes: int) -> Callable[[Any], None]:
    def change(made: Any) -> None:
        del made.graph.initializer[0].dims[:]
        made.graph.initializer[0].dims.extend(sizes)

    return change


ONNX: dict[str, Callable[[Any], Any]] = {
    "weights in /etc/passwd": _external("/etc/passwd"),
    "weights above": _external("../../../../../../etc/passwd"),
    "weights in a device": _external("/dev/zero"),
    "an operator of itself": _recursive,
    "graphs in graphs": _nested_graphs,
    "10^7 empty nodes": _empty(b"\x0a\x00", 10**7),
    "10^6 empty tensors": _empty(b"\x2a\x00", 10**6),
    "10^6 empty inputs": _empty(b"\x5a\x00", 10**6),
    "10^6 notes": lambda made: bytes(made.SerializeToString()) + b"\x72\x00" * 10**6,
    "2^62 rows": _dims(1 << 62, 64),
    "rows below 0": _dims(-3, 64),
    "10^5 dimensions": _dims(*[1] * 100_000),
    "no dimensions": _dims(),
    "strings as weights": _set("graph.initializer.0.data_type", 8),
    "a type that is none": _set("graph.initializer.0.data_type", 9_999),
    "a tensor of escapes": _set("graph.initializer.0.name", ESCAPES),
    "an operator of escapes": _set("graph.node.1.op_type", ESCAPES),
    "a node of escapes": _set("graph.node.1.name", ESCAPES * 1_000),
    "a domain of escapes": _set("graph.node.1.domain", ESCAPES),
    "an output of escapes": _set("graph.output.0.name", ESCAPES),
    "a node that takes what it gives": _set("graph.node.1.output", None)
    if False
    else lambda made: made.graph.node[1].input.__setitem__(0, "z"),
    "operators of 2^62": lambda made: setattr(made.opset_import[0], "version", -(1 << 62)),
    "another operator": _set("graph.node.2.op_type", "If"),
    "NaN as alpha": lambda made: made.graph.node[1].attribute.add(name="alpha", type=1, f=float("nan")),
    "no graph": lambda made: made.ClearField("graph"),
    "nothing": lambda made: b"",
    "half": lambda made: bytes(made.SerializeToString())[:300],
}

# -- safetensors ------------------------------------------------------------------------------------------------------

_GOOD = {"0.weight": {"dtype": "F32", "shape": [10, 64], "data_offsets": [0, 2_560]}}


def safetensors(header: Any, length: int | None = None, size: int = 2_560) -> Callable[[], bytes]:
    """A safetensors file with this header, as text or as what JSON writes."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda: struct.pack("<Q", len(content) if length is None else length) + content + bytes(size)


def _tensor(**fields: Any) -> Any:
    return {"0.weight": {**_GOOD["0.weight"], **fields}}


SAFETENSORS: dict[str, Callable[[], bytes]] = {
    "a header of 2^63": safetensors(_GOOD, 1 << 63),
    "a header of 2^64 - 1": safetensors(_GOOD, (1 << 64) - 1),
    "a header of 0": safetensors(_GOOD, 0),
    "a deep header": safetensors(b'{"a":' * 100_000),
    "a list": safetensors(b"[]"),
    "no UTF-8": safetensors(b'{"\xff\xfe": 1}'),
    "overlapping tensors": safetensors(
        {**_GOOD, "1.weight": {"dtype": "F32", "shape": [10, 10], "data_offsets": [0, 400]}}
    ),
    "offsets from the end": safetensors(_tensor(data_offsets=[2_560, 0])),
    "offsets below 0": safetensors(_tensor(data_offsets=[-2_560, 0])),
    "offsets of 2^70": safetensors(_tensor(data_offsets=[0, 1 << 70])),
    "a shape of 2^64": safetensors(_tensor(shape=[1 << 32, 1 << 32])),
    "a shape of fractions": safetensors(_tensor(shape=[10.0, 64])),
    "10^5 dimensions": safetensors(_tensor(shape=[1] * 100_000, data_offsets=[0, 4]), size=4),
    "a dtype of escapes": safetensors(_tensor(dtype=ESCAPES)),
    "a dtype of eight bits": safetensors(_tensor(dtype="F8_E4M3", data_offsets=[0, 640]), size=640),
    "a name of escapes": safetensors({ESCAPES: _GOOD["0.weight"]}),
    "a name of 10^6 letters": safetensors({"x" * 10**6: _GOOD["0.weight"]}),
    "a name twice": safetensors(b'{"0.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2 + b'"a":1}'),
    "200,000 empty tensors": safetensors(
        {f"{k}.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(200_000)}, size=0
    ),
    "notes that are a list": safetensors({**_GOOD, "__metadata__": [1]}),
    "NaN": lambda: safetensors(_GOOD)()[:-2_560] + b"\xff" * 2_560,
    "bytes behind the end": safetensors(_GOOD, size=5_000),
    "nothing": lambda: b"",
}

# -- pickles of MLCERT ------------------------------------------------------------------------------------------------

_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + tuple_of(0) + b"C\x01b\x87R"


def _array(shape: bytes, dtype: str = "f2", content: bytes = b"") -> bytes:
    kind = (
        b"cnumpy\ndtype\n"
        + text(dtype)
        + b"K\x00K\x01\x87R(K\x03"
        + text("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    return _ARRAY + b"(K\x01" + shape + kind + b"\x89B" + struct.pack("<I", len(content)) + content + b"tb"


MLCERT: dict[str, bytes] = {
    "calls os.system": b"cos\nsystem\n" + text("touch ../outside/ran") + b"\x85R",
    "imports a module beside it": b"ctrap\nrun\n)R",
    "a name of escapes": b"c" + ESCAPES.split("\n")[0].encode() + b"\nrun\n",
    "calls numpy.load": b"cnumpy\nload\n" + text("/etc/passwd") + b"\x85R",
    "a dtype of objects": _array(tuple_of(1, 1), "O", b"12345678"),
    "a dtype of 2^31 letters": _array(tuple_of(1, 1), "U2147483647"),
    "2^62 numbers": _array(tuple_of(1 << 30, 1 << 30)) * 2 + b"\x86",
    "rows below 0": _array(tuple_of(-1, 1)) * 2 + b"\x86",
    "rows without columns": _array(tuple_of(1 << 30, 0)) * 2 + b"\x86",
    "shared tuples, 2^40 leaves": shared(40, b"(", b"t"),
    "a million marks": b"(" * 10**6,
    "10,000 marks and tuples": b"(" * 10_000 + b"t" * 10_000,
    "lists a million deep": b"]" * 10**6 + b"a" * (10**6 - 1),
    "a number of a million bytes": b"\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6,
    "a string of 2^31": b"X\xff\xff\xff\x7f",
    "a decimal of a million digits": b"I" + b"9" * 10**6 + b"\n",
    "NaN": _array(tuple_of(64, 10), "f2", b"\xff\xff" * 640) * 2 + b"\x86",
    "not one row": b")",
    "strings that are no digits": _array(tuple_of(1, 1), "U2", "１\0".encode("utf-32-le")) * 2 + b"N" * 4 + b"(t",
}

# -- quantised networks and state_dicts -------------------------------------------------------------------------------


def quantised(change: Callable[[dict[str, Any]], Any] = lambda content: None) -> Callable[[], bytes]:
    """An honest quantised network, changed, with the hash that would be right for it where it can be computed."""

    def make() -> bytes:
        import hashlib

        space = {"sizes": [64, 3, 10], "bits": 2, "biases": True, "encoding": "integer", "denominator": 16}
        bits = 64 + 2 * (192 + 30) + 16 * 13
        content: dict[str, Any] = {"format": "lean_mnist quantised network 1", "space": space}
        content["weights"] = base64.b64encode(bytes(-(-bits // 8))).decode()
        changed = change(content)
        written = json.dumps(content["space"], sort_keys=True, separators=(",", ":")) if "space" in content else ""
        weights = base64.b64decode(content["weights"]) if isinstance(content.get("weights"), str) else b""
        content["sha256"] = hashlib.sha256(written.encode() + b"\n" + weights).hexdigest()
        return changed if isinstance(changed, bytes) else json.dumps(content).encode()

    return make


def _space(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["space"].update(fields)


def _nan(content: dict[str, Any]) -> None:
    weights = bytearray(base64.b64decode(content["weights"]))
    weights[:2] = b"\x7e\x00"
    content["weights"] = base64.b64encode(bytes(weights)).decode()


QUANTISED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a shift of NaN": _nan,
    "a deep nest": lambda content: b'{"a":' * 200_000,
    "a deep list": lambda content: b"[" * 200_000,
    "a number of 5,000 digits": _space(denominator=10**4_000),
    "a denominator of 0": _space(denominator=0),
    "a denominator of NaN": lambda content: json.dumps({**content, "sha256": float("nan")}).encode(),
    "2^24 units": _space(sizes=[64, 1 << 24, 10]),
    "2^200 units": _space(sizes=[64, 1 << 200, 10]),
    "10^6 layers": _space(sizes=[64, *[1] * 10**6, 10]),
    "sizes that are words": _space(sizes=["64", "3", "10"]),
    "sizes that are true": _space(sizes=[True, 3, 10]),
    "0 bits": _space(bits=0),
    "17 bits": _space(bits=17),
    "true bits": _space(bits=True),
    "an encoding of escapes": _space(encoding=ESCAPES),
    "a field of escapes": _space(**{ESCAPES: 1}),
    "a format of escapes": lambda content: content.update(format=ESCAPES),
    "weights that are a list": lambda content: content.update(weights=[1]),
    "weights of other letters": lambda content: json.dumps({**content, "weights": "é" * 99, "sha256": ""}).encode(),
    "a name twice": lambda content: b'{"format":1,' + json.dumps({**content, "sha256": ""}).encode()[1:],
    "UTF-16": lambda content: json.dumps(content).encode("utf-16"),
    "lone surrogates": lambda content: b'{"format": "\\ud800", "space": 1, "weights": 1, "sha256": 1}',
    "nothing": lambda content: b"\n",
}


def _state(content: Callable[[], Any]) -> Callable[[], bytes]:
    def make() -> bytes:
        import io

        buffer = io.BytesIO()
        torch.save(content(), buffer)
        return buffer.getvalue()

    return make


STATES: dict[str, Callable[[], Any]] = {
    "a name of escapes": lambda: {ESCAPES: torch.zeros(10, 64)},
    "a name that is a number": lambda: {1: torch.zeros(10, 64)},
    "stride 0": lambda: {"0.weight": torch.zeros(1).expand(1 << 20, 1 << 20)},
    "sparse": lambda: {"0.weight": torch.zeros(10, 64).to_sparse()},
    "a meta tensor": lambda: {"0.weight": torch.empty(10, 64, device="meta")},
    "complex": lambda: {"0.weight": torch.zeros(10, 64, dtype=torch.complex64)},
    "a tensor": lambda: torch.zeros(3),
    "nests": lambda: {"state_dict": {"state_dict": {}}},
    "9 layers that fit anyhow": lambda: {f"{chr(97 + k)}.weight": torch.zeros(64, 64) for k in range(9)},
    "10^5 tensors": lambda: {f"{k}.weight": torch.zeros(0) for k in range(30_000)},
    "an activation of escapes": lambda: {
        "architecture": {"activation": ESCAPES},
        "model": {"0.weight": torch.zeros(10, 64)},
    },
    "an activation that is a tensor": lambda: {
        "architecture": {"activation": torch.zeros(3)},
        "model": {"0.weight": torch.zeros(10, 64)},
    },
}

_PACKED_BOMB = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + deflated_zeros(512)[0] + bytes(8)
HOSTILE = [
    *(
        Hostile(
            f"ONNX: {name}",
            certified("network.onnx", model(change)),
            says="error: network.onnx",
            either=name in ("a node of escapes", "10^6 notes"),
        )
        for name, change in ONNX.items()
    ),
    *(
        Hostile(f"safetensors: {name}", certified("network.safetensors", make), says="error: network.safetensors")
        for name, make in SAFETENSORS.items()
    ),
    *(
        Hostile(
            f"MLCERT: {name}",
            certified("network.pkl", functools.partial(bytes.join, b"", (b"\x80\x03", content, b"."))),
            says="error: network.pkl",
        )
        for name, content in MLCERT.items()
    ),
    Hostile("MLCERT: 512 MiB in gzip", certified("network.pkl.gz", lambda: _PACKED_BOMB), says="error: network.pkl.gz"),
    Hostile(
        "MLCERT: 512 MiB of marks in gzip",
        certified("network.pkl.gz", lambda: gzip_bomb(b"(" * 99, 512)),
        says="error: network.pkl.gz",
    ),
    Hostile(
        "MLCERT: gzip cut off",
        certified("network.pkl.gz", lambda: gzip.compress(b"\x80\x03N.")[:-3]),
        says="error: network.pkl.gz",
    ),
    *(
        Hostile(f"quantised: {name}", certified("network.json", quantised(change)), says="error: network.json")
        for name, change in QUANTISED.items()
    ),
    *(
        Hostile(f"state_dict: {name}", certified("network.pt", _state(make)), says="error: network.pt")
        for name, make in STATES.items()
    ),
]
