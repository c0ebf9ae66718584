"""Tests of the reader of ``torch.save`` files: the same values as PyTorch's, and every other file refused."""

import contextlib
import io
import itertools
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist.errors import CheckpointError
from lean_mnist.nn import MLP
from lean_mnist.reading import archive
from lean_mnist.reading.archive import read_archive
from tests.support.peak_memory import peak_below
from tests.support.torch_files import entries_of, number, of_pickle, packed, saved, tensor, text
from tests.support.training_cases import identical

FLAWED = "expected a thing, found a file that is none, or a damaged one"


def read(path: Path, content: bytes, **options: Any) -> Any:
    (path / "file.pt").write_bytes(content)
    return read_archive(path / "file.pt", "a thing", CheckpointError, **options)


def refusal(path: Path, content: bytes, **options: Any) -> str:
    with pytest.raises(CheckpointError) as raised:
        read(path, content, **options)
    message = str(raised.value)
    assert message.startswith(f"{path / 'file.pt'}: ")
    assert message.isprintable()
    return message.removeprefix(f"{path / 'file.pt'}: ")


def test_it_reads_what_torch_load_reads(tmp_path: Path) -> None:
    values = {
        "plain": [None, True, False, -1, 2**40, -(2**63), 0.5, float("nan"), "ä\n", (), (1, ("x", [])), {1: {}}],
        "dtype": torch.bfloat16,
        "size": torch.Size([2, 3]),
        "model": MLP((4, 3)).state_dict(),
        "shared": [weights := torch.randn(5, 3), weights.T, weights[1:, ::2]],
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3.0),
        "kinds": [torch.ones(2).to(getattr(torch, name)) for name in (
            "float64", "float16", "bfloat16", "uint8", "int8", "int16", "int32", "int64", "bool", "uint16", "uint32",
            "uint64", "complex64", "complex128",
        )],
    }  # fmt: skip
    content = saved(values)
    found, expected = read(tmp_path, content), torch.load(io.BytesIO(content), weights_only=True)
    assert identical(found, expected)
    for own, theirs in zip(found["shared"], expected["shared"], strict=True):
        assert (own.stride(), own.untyped_storage().nbytes()) == (theirs.stride(), theirs.untyped_storage().nbytes())
        assert own.untyped_storage().data_ptr() == found["shared"][0].untyped_storage().data_ptr()
    assert type(found["size"]) is torch.Size


def test_kinds_of_tensors_that_numpy_does_not_know(tmp_path: Path) -> None:
    conjugate = torch.tensor([1 + 2j]).conj()
    parameter = torch.nn.Parameter(torch.ones(2))
    found = read(tmp_path, saved([conjugate, torch.ones(2).to(torch.float8_e4m3fn), parameter]))
    assert found[0].tolist() == [1 - 2j]
    assert (found[1].dtype, found[1].float().tolist()) == (torch.float8_e4m3fn, [1.0, 1.0])
    assert type(found[2]) is torch.Tensor
    assert not found[2].requires_grad


def test_the_file_does_not_choose_the_device(tmp_path: Path) -> None:
    content = of_pickle(b"\x80\x02" + tensor((2,), (1,), length=2, device="cuda:7") + b".", bytes(8))
    assert read(tmp_path, content).device.type == "cpu"


def test_a_later_form_of_zip_directories_and_an_earlier_one(tmp_path: Path) -> None:
    content = saved({"x": torch.ones(3)})
    assert b"PK\x06\x06" in content[-200:]
    assert identical(read(tmp_path, packed(entries_of(content))), {"x": torch.ones(3)})


class _Object:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize(
    "value",
    [_Object(), MLP((4, 3)), torch.eye(2).to_sparse(), torch.zeros(2, device="meta"), b"bytes", {1}, 1j],
    ids=["made by a call", "module", "sparse", "without memory", "bytes", "set", "complex"],
)
def test_other_objects_are_named_and_not_made(value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(tmp_path, saved([value]))
    assert message.startswith("holds objects other than tensors and plain values (")
    assert message.endswith("); it was refused and nothing in it was run")
    assert capsys.readouterr().out == ""


def test_a_name_is_printed_escaped(tmp_path: Path) -> None:
    assert r"values (a\x1b.b\u202ec)" in refusal(tmp_path, of_pickle(b"\x80\x02ca\x1b\nb\xe2\x80\xaec\n)R."))
    refusal(tmp_path, of_pickle(b"\x80\x02c" + b"a" * 10_000 + b"\nb\n)R."))


def test_a_file_of_a_version_before_zip_files_says_how_to_convert_it(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    message = refusal(tmp_path, (tmp_path / "old.pt").read_bytes())
    assert "torch.save(torch.load(path), path) converts it" in message


def shared(depth: int) -> list[Any]:
    value: list[Any] = [1]
    for _ in range(depth):
        value = [value, value]
    return value


def test_shared_and_endless_values(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    within: dict[str, Any] = {}
    within["self"] = within
    deep: Any = 1
    for _ in range(100):
        deep = (deep,)
    for value in (shared(40), endless, within, deep, [[0] * 1000] * 1000):
        assert "nested too deeply or shared too often" in refusal(tmp_path, saved(value))
    assert read(tmp_path, saved(shared(8))) == shared(8)
    many = torch.ones(1000)
    assert "shared too often" in refusal(tmp_path, saved([many] * 100))


def test_structure_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "more than 300,000 parts" in refusal(tmp_path, of_pickle(b"\x80\x02]" + b"Na" * 150_000 + b"."))
    assert "whole number of more than 64 bits" in refusal(tmp_path, saved([1 << 72]))
    for key in (1.5, (1,), 1 << 40, True):
        assert "other keys than texts and small whole numbers" in refusal(tmp_path, saved({key: 1}))
    monkeypatch.setattr(archive, "_LARGEST_PICKLE", 100)
    assert "its structure has " in refusal(tmp_path, saved(["a" * 200]))
    monkeypatch.setattr(archive, "LARGEST", 10)
    assert "bytes, expected a thing of at most 10" in refusal(tmp_path, saved([]))


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ((1 << 30,), (0,), 0),
        ((1 << 31, 1 << 31), (0, 0), 0),
        ((5,), (1,), 0),
        ((4,), (1,), 1),
        ((2,), (1 << 31,), 0),
        ((2, 2), (3, 1), 0),
        ((0, 1 << 31), (1, 1), 0),
        ((), (), 4),
    ],
)
def test_tensors_that_announce_more_than_is_there(
    shape: tuple[int, ...], stride: tuple[int, ...], offset: int, tmp_path: Path
) -> None:
    content = of_pickle(b"\x80\x02" + tensor(shape, stride, offset=offset, length=4) + b".", bytes(16))
    assert "which its bytes do not fill" in refusal(tmp_path, content)


def test_tensors_of_few_numbers_that_stand_in_many_places(tmp_path: Path) -> None:
    content = saved([torch.ones(1).expand(1000), torch.ones(2, 1).expand(2, 3)])
    assert "which its bytes do not fill" in refusal(tmp_path, content)
    found = read(tmp_path, content, expanded=True)
    assert found[0].stride() == (0,)
    assert found[1].tolist() == [[1.0] * 3] * 2
    assert "which its bytes do not fill" in refusal(tmp_path, saved(torch.ones(1).expand(1 << 23)), expanded=True)
    assert "shared too often" in refusal(tmp_path, saved([torch.ones(1).expand(1 << 20)] * 5), expanded=True)


MALFORMED: dict[str, bytes] = {
    "negative size": tensor((-1,), (1,), length=4),
    "negative stride": tensor((2,), (-1,), length=4, offset=3),
    "negative offset": tensor((2,), (1,), length=4, offset=-1),
    "size beyond 64 bits": tensor((1 << 65,), (1,), length=4),
    "more strides": tensor((2,), (1, 1), length=4),
    "another length": tensor((2,), (1,), length=3),
    "another type of storage": tensor((2,), (1,), length=4)
    + tensor((1,), (1,), length=2, storage="torch\nLongStorage\n"),
    "a key that is not there": tensor((2,), (1,), length=4, key="1"),
    "a storage of a function": tensor((2,), (1,), length=4, storage="torch\nSize\n"),
    "no storage": b"ctorch._utils\n_rebuild_tensor_v2\n(]K\x00))\x89}tR",
    "a storage left": b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(4) + b"tQ",
    "a name left": b"ctorch\nSize\n",
    "a call of a dtype": b"ctorch\nfloat32\n)R",
    "a call of a list": b"])R",
    "a call without a tuple": b"ctorch\nSize\n]R",
    "a size of texts": b"ctorch\nSize\n(" + text("a") + b"t\x85R",
    "a dict with content": b"ccollections\nOrderedDict\n]\x85R",
    "state of a list": b"]}b",
    "state of a tensor": tensor((2,), (1,), length=4) + b"}b",
    "tensor in place of a name": tensor((2,), (1,), length=4) + b")R",
    "nothing": b"",
    "two values": b"NN",
    "an open mark": b"(N",
    "no mark": b"t",
    "an empty stack": b"a",
    "a memo that is empty": b"h\x07",
    "text that ends early": b"X\xff\xff\xff\xff",
    "text that is none": b"X\x01\x00\x00\x00\xff",
    "half a character": b"X\x03\x00\x00\x00\xed\xa0\x80",
    "an append to a tuple": b")Na",
    "an odd dict": b"}(Nu",
    "a decimal number": b"L" + b"9" * 100_000 + b"L\n",
    "another opcode": b"i",
    "bytes after the end": b"N.",
    "an early end": b"N.N",
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_pickles(kind: str, tmp_path: Path) -> None:
    content = of_pickle(b"\x80\x02" + MALFORMED[kind] + b".", bytes(16))
    assert refusal(tmp_path, content) == FLAWED


def test_a_truth_value_is_true_or_false(tmp_path: Path) -> None:
    pickle = b"\x80\x02" + tensor((2,), (1,), length=2, storage="torch\nBoolStorage\n") + b"."
    assert read(tmp_path, of_pickle(pickle, b"\x00\x01")).tolist() == [False, True]
    assert "neither true nor false" in refusal(tmp_path, of_pickle(pickle, b"\x00\x02"))


def test_strict_zip_files(tmp_path: Path) -> None:
    content = saved({"x": torch.zeros(100)})
    entries = entries_of(content)
    small = packed(entries)
    assert "content is compressed" in refusal(tmp_path, packed(entries, zipfile.ZIP_DEFLATED))
    twice = packed({**entries, "archive/data/1": bytes(400)}).replace(b"archive/data/1", b"archive/data/0")
    end, directory = small.rindex(b"PK\x05\x06"), small.index(b"PK\x01\x02")
    many = bytearray(small)
    many[end + 8 : end + 12] = struct.pack("<2H", 60_000, 60_000)
    overlapping = bytearray(small)
    overlapping[directory + 42 : directory + 46] = struct.pack("<I", 1)
    larger = bytearray(small)
    larger[directory + 20 : directory + 28] = struct.pack("<2I", 1 << 30, 1 << 30)
    for changed in (
        b"", b"PK", b"x" + content, content + b"x", content[:-1], content[1:], small[:-2] + b"\x01\x00x",
        twice, bytes(many), bytes(overlapping), bytes(larger), packed({**entries, "other/x": b""}),
        packed({"archive/version": b"3"}), packed({"archive": b""}),
        packed({**entries, "archive/byteorder": b"big"}), small.replace(b"archive/data.pkl", b"archive/data.pkx", 1),
    ):  # fmt: skip
        assert refusal(tmp_path, changed)
    assert "of another byte order" in refusal(tmp_path, packed({**entries, "archive/byteorder": b"big"}))
    assert "its structure has 1,073,741,824 bytes" in refusal(tmp_path, bytes(larger))


def test_every_flipped_bit_of_a_number_is_refused(tmp_path: Path) -> None:
    weights = torch.randn(20)
    content = saved({"x": weights})
    start = content.index(weights.numpy().tobytes())
    for place in range(0, 80, 3):
        changed = bytearray(content)
        changed[start + place] ^= 1 << place % 8
        assert refusal(tmp_path, bytes(changed)) == FLAWED


def test_a_changed_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    value = {"model": MLP((5, 3)).state_dict(), "list": [1, "two", 3.0, (torch.float32, None)]}
    content, draw = saved(value), random.Random(7)
    for _ in range(200):
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= draw.randrange(1, 256)
        with contextlib.suppress(CheckpointError):
            assert identical(read(tmp_path, bytes(changed)), value)


def test_a_changed_structure_with_right_checksums_is_refused_or_plain(tmp_path: Path) -> None:
    """No other error comes out, and no more memory is taken than the file has."""
    entries = entries_of(saved({"model": MLP((5, 3)).state_dict(), "list": [1, "two", 3.0, (torch.float32, None)]}))
    draw, accepted = random.Random(8), 0
    for _ in range(300):
        pickle = bytearray(entries["archive/data.pkl"])
        for _ in range(draw.choice((1, 1, 2, 5))):
            at, kind = draw.randrange(len(pickle)), draw.randrange(3)
            pickle[at : at + (kind > 0)] = bytes([draw.randrange(256)]) if kind < 2 else b""
        with contextlib.suppress(CheckpointError):
            read(tmp_path, packed({**entries, "archive/data.pkl": bytes(pickle)}))
            accepted += 1
    assert accepted < 200


def test_memory_stays_near_the_size_of_the_file(tmp_path: Path) -> None:
    cases = (b"]" * 50_000, b"(" * 50_000, b"}" + b"NNs" * 20_000, text("ä" * 100_000) + text("😀" + "a" * 500_000))
    for pickle in cases:
        content = of_pickle(b"\x80\x02" + pickle + b".")
        (tmp_path / "file.pt").write_bytes(content)
        with peak_below(2 * len(content) + (64 << 20)), pytest.raises(CheckpointError):
            read_archive(tmp_path / "file.pt", "a thing", CheckpointError)


def test_cuts(tmp_path: Path) -> None:
    content = saved({"x": torch.ones(20), "y": [1, 2]})
    for size in itertools.chain(range(0, len(content), 37), [len(content) - 1]):
        assert refusal(tmp_path, content[:size]) == FLAWED
