"""Arrays of NumPy and images from elsewhere: read exactly, or refused in one line, whatever is in the file."""

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lean_mnist.errors import DataError
from lean_mnist.reading.images import read_image
from lean_mnist.reading.npy import opened_npz, read_npy

RANDOM = np.random.default_rng(3)
ARRAYS = [
    RANDOM.integers(0, 256, (3, 4, 5), dtype=np.uint8),
    RANDOM.standard_normal((2, 3)).astype(np.float32),
    RANDOM.standard_normal((2, 3)),
    np.arange(7).astype(">i4"),
    np.asfortranarray(np.arange(12, dtype=np.int16).reshape(3, 4)),
    np.array(["one", "zwei", ""]),
    np.array(3.5),
    np.zeros((0, 4), dtype=np.uint8),
    np.array([True, False]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_an_array_is_read_as_numpy_wrote_it(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    for packed, write in (("s", np.savez), ("c", np.savez_compressed)):
        write(tmp_path / f"{packed}.npz", first=array, second=np.arange(3))
        with opened_npz(tmp_path / f"{packed}.npz") as arrays:
            assert arrays.names == ["first", "second"]
            read = arrays.read("first")
        for found in (read, read_npy(tmp_path / "a.npy")):
            assert found.dtype == array.dtype.newbyteorder("=")
            assert np.array_equal(found, array)


def npy(header: str, content: bytes = b"", *, length: int | None = None, version: int = 1) -> bytes:
    text = header.encode("latin-1") + b"\n"
    size = len(text) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", size) + text + content


def header(descr: str = "'|u1'", order: str = "False", shape: str = "(2,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}, print], dtype=object), allow_pickle=True)
    return file.getvalue()


HOSTILE_ARRAYS: list[tuple[bytes, str]] = [
    (b"", "expected an array of NumPy, found another file"),
    (b"PK\3\4 something else", "expected an array of NumPy, found another file"),
    (pickled(), "holds objects, of which nothing is run, expected plain numbers or text"),
    (
        npy(header(), b"ab", length=10**9, version=2),
        "announces a header of 1,000,000,000 bytes, expected at most",
    ),
    (npy(header(shape="(1000000000,)"), b"ab"), "expected 1,000,000,000 bytes for shape (1000000000,), found 2 bytes"),
    (npy(header(shape="(9, 1000000000)")), "announces shape (9, 1000000000) of |u1, expected at most 1,073,741,824"),
    (npy(header(shape=f"({'1, ' * 40})"), b"a"), "announces shape"),
    (npy(header(shape="(0, 999999999999, 999999999999)")), "announces shape"),
    (npy(header(shape=f"({'9' * 30},)")), "expected one array of plain numbers or text, found another header"),
    (npy(header(shape="(-1,)")), "expected one array of plain numbers or text, found another header"),
    (npy(header(descr="[('a', '<f4')]")), "expected one array of plain numbers or text, found another header"),
    (npy("__import__('os').system('true')"), "expected one array of plain numbers or text, found another header"),
    (npy("(" * 5000), "expected one array of plain numbers or text, found another header"),
    (npy(header(descr="'<c8'")), "holds '<c8', expected plain numbers or text"),
    (npy(header(descr="'<f1'")), "holds '<f1', expected plain numbers or text"),
    (npy(header(descr="'<U0'")), "holds '<U0', expected plain numbers or text"),
    (npy(header(descr="'<U1'"), b"\xff" * 8), "holds what is no character, expected plain numbers or text"),
    (npy(header(descr="'>U1'"), b"\0\x11\0\0" * 2), "holds what is no character, expected plain numbers or text"),
    (npy(header(), b"abc"), "expected 2 bytes for shape (2,), found more"),
    (npy(header(), b"a"), "expected 2 bytes for shape (2,), found 1 bytes"),
]


@pytest.mark.parametrize(("content", "expected"), HOSTILE_ARRAYS, ids=range(len(HOSTILE_ARRAYS)))
def test_a_hostile_array_is_one_line(content: bytes, expected: str, tmp_path: Path) -> None:
    alone, inside = tmp_path / "a.npy", tmp_path / "a.npz"
    alone.write_bytes(content)
    with pytest.raises(DataError, match=f"^{re.escape(str(alone))}: {re.escape(expected)}"):
        read_npy(alone)
    with zipfile.ZipFile(inside, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    with (
        pytest.raises(DataError, match=f"^{re.escape(str(inside))}: x: {re.escape(expected)}") as caught,
        opened_npz(inside) as arrays,
    ):
        arrays.read("x")
    assert "\n" not in str(caught.value)


def damaged_entry() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy(header(shape="(9000,)"), bytes(range(250)) * 36))
    content = bytearray(file.getvalue())
    content[300] ^= 0xFF
    return bytes(content)


def packed_by(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("x.npy", npy(header(shape="(9000,)"), bytes(9000)))
    return file.getvalue()


def many_entries() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for index in range(101):
            archive.writestr(f"{index}.npy", b"")
    return file.getvalue()


HOSTILE_ZIPS: list[tuple[bytes, str]] = [
    (b"", "expected arrays of NumPy (.npz), found a file that is none"),
    (b"PK\5\6" + bytes(17) + b"\1", "x: expected an array of that name, found none"),
    (many_entries(), "expected arrays of NumPy (.npz), found 101 entries, at most 100 are taken"),
    (b"PK\5\6" + bytes(6) + b"\5\0\x99" + bytes(9), "damaged ("),
    (damaged_entry(), "x: damaged ("),
    (packed_by(zipfile.ZIP_LZMA), "x: packed by another method than NumPy's, expected an array of NumPy"),
    (packed_by(zipfile.ZIP_BZIP2), "x: packed by another method than NumPy's, expected an array of NumPy"),
]


@pytest.mark.parametrize(("content", "expected"), HOSTILE_ZIPS, ids=range(len(HOSTILE_ZIPS)))
def test_a_hostile_archive_is_one_line(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{re.escape(f'{path}: {expected}')}"), opened_npz(path) as arrays:
        arrays.read("x")


def test_an_array_that_is_not_there_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=np.zeros(1), two=np.zeros(1))
    with (
        pytest.raises(DataError, match=r"a\.npz: x: expected an array of that name, found one, two$"),
        opened_npz(tmp_path / "a.npz") as arrays,
    ):
        arrays.read("x")


GREY = RANDOM.integers(0, 256, (5, 7), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def opaque(array: np.ndarray, alpha: int = 255) -> np.ndarray:
    return np.dstack([array, np.full(array.shape[:2], alpha, dtype=np.uint8)])


GREY_IMAGES: dict[str, Callable[[], Image.Image]] = {
    "L": lambda: Image.fromarray(GREY),
    "RGB of equal channels": lambda: Image.fromarray(np.dstack([GREY] * 3)),
    "RGBA, opaque": lambda: Image.fromarray(opaque(np.dstack([GREY] * 3))),
    "LA, opaque": lambda: Image.fromarray(opaque(GREY)),
    "palette of greys": lambda: Image.fromarray(GREY).convert("P"),
}


@pytest.mark.parametrize("kind", GREY_IMAGES)
def test_a_grey_image_is_read_exactly_however_it_is_stored(kind: str, tmp_path: Path) -> None:
    GREY_IMAGES[kind]().save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png")
    assert found.dtype == np.uint8
    assert np.array_equal(found, GREY)


def test_black_and_white_becomes_0_and_255(tmp_path: Path) -> None:
    Image.fromarray(GREY > 127).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.where(GREY > 127, 255, 0))


def test_colour_is_refused_and_converted_only_if_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(COLOUR).save(path)
    with pytest.raises(DataError, match=r"a\.png: is in colour, expected grey pixels; --grey converts them$"):
        read_image(path)
    exact = COLOUR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read_image(path, grey=True) - exact).max() <= 1


def test_a_jpeg_is_read_as_pillow_unpacks_it(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.jpeg", quality=95)
    with Image.open(tmp_path / "a.jpeg") as image:
        assert np.array_equal(read_image(tmp_path / "a.jpeg"), np.asarray(image))


@pytest.mark.parametrize("end", ["png", "jpg"])
def test_an_image_is_turned_as_its_exif_says(end: str, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(GREY).save(tmp_path / f"plain.{end}", quality=100)
    Image.fromarray(GREY).save(tmp_path / f"a.{end}", exif=turned, quality=100)
    assert np.array_equal(read_image(tmp_path / f"a.{end}"), np.rot90(read_image(tmp_path / f"plain.{end}"), -1))


def png(width: int, height: int, content: bytes = b"", *, bits: int = 8, kind: int = 0, trns: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    start += chunk(b"tRNS", trns) if trns else b""
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


def saved(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


HOSTILE_IMAGES: list[tuple[bytes, str]] = [
    (b"", "damaged or no image, expected a PNG or JPEG image"),
    (b"GIF89a", "damaged or no image, expected a PNG or JPEG image"),
    (saved(Image.fromarray(GREY), "GIF"), "damaged or no image, expected a PNG or JPEG image"),
    (b"<svg onload='alert(1)'/>", "damaged or no image, expected a PNG or JPEG image"),
    (png(10**9, 10**9), "announces too many pixels, expected at most 16,777,216"),
    (png(10_000, 5_000), "announces 5,000 x 10,000 pixels, expected at most 16,777,216"),
    (png(4_000, 4_000, b"\0"), "damaged or no image ("),
    (saved(Image.fromarray(GREY))[:-30], "damaged or no image ("),
    (saved(Image.fromarray(GREY.astype(np.uint16))), "has pixels of 16 bits, expected 8 bits of grey"),
    (png(2, 1, bytes([0, *[1, 2] * 6]), bits=16, kind=2), "has pixels of 16 bits, expected 8 bits of grey"),
    (png(1, 1, bytes([0, 1, 2, 255, 255]), bits=16, kind=4), "has pixels of 16 bits, expected 8 bits of grey"),
    (png(8, 1, b"\0\x55", bits=1, trns=b"\0\0"), "is transparent in places, expected opaque pixels"),
    (
        saved(Image.fromarray(GREY), save_all=True, append_images=[Image.fromarray(255 - GREY)]),
        "is animated, expected one picture",
    ),
    (saved(Image.fromarray(opaque(COLOUR, 3))), "is transparent in places, expected opaque pixels"),
    (saved(Image.new("CMYK", (4, 4)), "JPEG"), "has pixels of the kind CMYK, expected 8 bits of grey"),
]


@pytest.mark.parametrize(("content", "expected"), HOSTILE_IMAGES, ids=range(len(HOSTILE_IMAGES)))
def test_a_hostile_image_is_one_line(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{re.escape(f'{path}: {expected}')}") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a PNG or JPEG image, found: a folder"):
        read_image(tmp_path)
    with pytest.raises(DataError, match="expected a PNG or JPEG image, found: No such file"):
        read_image(tmp_path / "none.png")
