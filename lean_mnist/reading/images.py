"""Images from elsewhere, PNG and JPEG, as grey pixels: bounded before they are unpacked, in colour if asked for."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import DataError
from lean_mnist.reading.files import read_bytes
from lean_mnist.reading.text import printable, shown

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.uint8]
SUFFIXES = (".png", ".jpg", ".jpeg")
LARGEST_FILE = 1 << 26  # bytes
MOST_PIXELS = 1 << 24
_WHAT = "a PNG or JPEG image"


def read_image(path: str | Path, *, grey: bool = False) -> Pixels:
    """The pixels uint8 (rows, columns) of a PNG or JPEG image of at most 64 MiB and 2^24 pixels.

    It is turned as its EXIF says, as programs show it. One in colour is refused, or with ``grey`` converted by ITU-R
    601-2's weights of red, green and blue; equal channels are grey as they are. Raises ``DataError`` also for pixels of
    16 bits, transparency, animation and damage.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    content = read_bytes(path, _WHAT, largest=LARGEST_FILE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow: what matters of them is refused below
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                columns, rows = image.size
                if rows * columns > MOST_PIXELS:
                    raise _Refused(f"announces {rows:,} x {columns:,} pixels, expected at most {MOST_PIXELS:,}")
                if any(";16" in str(tile) for tile in image.tile):  # Pillow drops their lower halves in silence
                    raise _Refused("has pixels of 16 bits, expected 8 bits of grey or of each colour")
                if image.format == "PNG" and getattr(image, "is_animated", False):
                    raise _Refused("is animated, expected one picture")
                image.load()
                return _grey_pixels(ImageOps.exif_transpose(image), grey)
    except _Refused as reason:
        raise DataError(f"{shown(path)}: {reason}") from None
    except Image.DecompressionBombError:
        raise DataError(f"{shown(path)}: announces too many pixels, expected at most {MOST_PIXELS:,}") from None
    except MemoryError:
        raise
    except Exception as fault:  # a decoder of other people's fails in any way on what is none of its files
        about = "" if isinstance(fault, UnidentifiedImageError) else f" ({printable(fault, 80)})"
        raise DataError(f"{shown(path)}: damaged or no image{about}, expected {_WHAT}") from None


class _Refused(Exception):
    """Reason why an image is not taken, in words."""


def _grey_pixels(image: "Image", grey: bool) -> Pixels:
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif "transparency" in image.info and image.mode in ("1", "L", "RGB"):
        image = image.convert("RGBA")
    if image.mode in ("LA", "RGBA"):
        if image.getchannel("A").getextrema() != (255, 255):
            raise _Refused("is transparent in places, expected opaque pixels")
        image = image.convert(image.mode[:-1])
    if image.mode == "1":
        image = image.convert("L")
    array: npt.NDArray[Any] = np.asarray(image)
    if image.mode == "RGB":
        if (array == array[:, :, :1]).all():
            array = array[:, :, 0]
        elif grey:
            array = np.asarray(image.convert("L"))
        else:
            raise _Refused("is in colour, expected grey pixels; --grey converts them")
    elif image.mode != "L":
        raise _Refused(f"has pixels of the kind {printable(image.mode, 20)}, expected 8 bits of grey or of each colour")
    return np.array(array, dtype=np.uint8)
