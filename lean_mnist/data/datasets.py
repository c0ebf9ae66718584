"""Named data sets, as uint8 tensors in memory. Shapes: ``m`` examples; an image is ``rows x columns``."""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np

from lean_mnist.data.examples import Dataset, Split
from lean_mnist.data.idx import PathLike, read_examples
from lean_mnist.data.names import AUTO, DATA_VARIABLE, DATASETS, check_dataset, is_path
from lean_mnist.data.official import LAYOUTS, DownloadError, Layout, download, locate
from lean_mnist.data.own import load_own
from lean_mnist.errors import DataError, DataUnavailable
from lean_mnist.files import errors_named
from lean_mnist.reading.text import shown

__all__ = ["DATASETS", "Dataset", "Split", "load_dataset", "load_digits"]

CLASSES = 10  # of every data set here
IMAGE_SHAPE = (28, 28)  # of every data set that comes as IDX files
# The test split of ``digits``, one bit an example: that of scikit-learn's ``train_test_split(test_size=360,
# stratify=labels, random_state=0)``, which takes longer to import than a run on digits.
_DIGITS_TEST = bytes.fromhex(
    "000004883524104000064100934205001a00080100240028062c12001000940a009019120420f8a0028110a000080a8820441524494240a00a"
    "0000004004d80000818020004805c400104008a0100005404800301000020ec409000224840083a8013c20a6980a0000000b08400804a01848"
    "02024041c1008004404684376a810216004480004042a0a4180a5000840b8561c608108008004c80c02004068e00010882008100380803c008"
    "190000100e01008410a0210033282904c044c080680e0102830082008822a6402c24042108a860809081a00c02820242120138a41500"
)


def load_dataset(
    name: str = AUTO, data_dir: PathLike = "data", *, download: bool = True, says: bool = True, grey: bool = False
) -> Dataset:
    """Load a data set by its name, or own data at a path; images uint8 (m, rows, columns), labels int64 (m,).

    Own data are named by a path with a slash in it, or a file ``.npz``: :mod:`lean_mnist.data.own`, as is ``grey``.

    The IDX sets are searched in the folder that the environment variable ``LEAN_MNIST_DATA`` names (torchvision's
    layout; only read, never written; unset if empty), then in ``data_dir``, then downloaded into ``data_dir`` unless
    ``download`` is false. ``auto`` is MNIST; only where that is in no folder and cannot be downloaded it says so, on
    standard error, and returns ``digits``. Data that are not the official ones of the name are loaded, and said to be
    so there. Nothing is said unless ``says``, for processes beside one that does. Raises :class:`ConfigError` for an
    unknown name, :class:`DataUnavailable` for a set that is nowhere to be had, and :class:`DataError` for damage.
    """
    check_dataset("dataset", name)
    lines: list[str | None] = []
    try:
        if is_path(name):
            dataset = load_own(name, grey=grey)
        elif name == "digits":
            dataset = load_digits()
        else:
            dataset = _load_idx_dataset(name.replace(AUTO, "mnist"), data_dir, download)
    except DataUnavailable as error:
        if name != AUTO:
            raise
        instead = "Training on 'digits' instead: 1,797 images of 8x8 pixels from scikit-learn; this is not MNIST."
        lines, dataset = [str(error), instead], load_digits()
    own = (dataset.gaps(), dataset.overlap()) if dataset.path else ()
    for line in (*lines, dataset.doubt(), *own):
        if says and line is not None:
            print(line, file=sys.stderr, flush=True)
    return dataset


def load_digits() -> Dataset:
    """scikit-learn's handwritten digits: 1,797 images, uint8 0..16, 8 x 8, ten classes; needs no network.

    The test split is a fixed, stratified choice of 360 examples. Both splits keep the order of the file.
    """
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    with errors_named("scikit-learn's digits"):
        table = np.loadtxt(Path(package.origin).with_name("datasets") / "data" / "digits.csv.gz", delimiter=",")
    images, labels = table[:, :-1].reshape(-1, 8, 8).astype(np.uint8), table[:, -1].astype(np.int64)
    tests = np.unpackbits(np.frombuffer(_DIGITS_TEST, dtype=np.uint8))[: len(labels)].astype(bool)
    train, test = (Split.of(images[chosen], labels[chosen]) for chosen in (~tests, tests))
    return Dataset("digits", train, test, classes=CLASSES, maximum=16, source="scikit-learn")


def _load_idx_dataset(name: str, data_dir: PathLike, may_download: bool) -> Dataset:
    layout = LAYOUTS[name]
    variable = os.environ.get(DATA_VARIABLE, "")
    given = Path(os.path.expanduser(variable)) if variable else None
    own, expected = Path(os.path.expanduser(data_dir)), f"expected one that holds {layout.raw}"
    if "\0" in os.fspath(own):
        raise DataError(f"data-dir: {shown(own)} holds a null byte, expected a folder that holds {layout.raw}")
    if given is not None and not os.path.isdir(given):
        raise DataError(f"{DATA_VARIABLE}: {shown(given)} is not a folder, {expected}")
    if os.path.exists(own) and not os.path.isdir(own):
        raise DataError(f"data-dir: {shown(own)} is not a folder, {expected}")
    for root in (given, own):
        if root is not None and (paths := locate(root / layout.raw, layout.files)) is not None:
            return _read_idx_dataset(name, layout, paths)
    try:
        if not may_download:
            raise DownloadError("not allowed")
        if given is not None and own.resolve().is_relative_to(given.resolve()):
            raise DownloadError(f"refused, data-dir lies in {DATA_VARIABLE}, which is never written")
        download(layout, own)
    except DownloadError as error:
        looked = f"{DATA_VARIABLE} ({shown(given) if given is not None else 'not set'}) and data-dir ({shown(own)})"
        raise DataUnavailable(
            f"Data set '{name}' not found: looked for {layout.raw} in {looked}, download failed ({error}); to provide "
            f"it, point {DATA_VARIABLE} or --data-dir at a folder that holds {layout.raw}/{layout.files[0]}[.gz] "
            "and its three companions."
        ) from error
    paths = locate(own / layout.raw, layout.files)
    assert paths is not None, "a download that did not fail leaves all four files"
    return _read_idx_dataset(name, layout, paths)


def _read_idx_dataset(name: str, layout: Layout, paths: list[Path]) -> Dataset:
    train, test = _read_split(paths[0], paths[1], layout), _read_split(paths[2], paths[3], layout)
    test = Split(test.images[: layout.test_limit], test.labels[: layout.test_limit])
    return Dataset(name, train, test, CLASSES, 255, shown(paths[0].parent), layout.class_names)


def _read_split(images_path: Path, labels_path: Path, layout: Layout) -> Split:
    images, labels = read_examples(images_path, labels_path, IMAGE_SHAPE, CLASSES)
    return Split.of(images.transpose(0, 2, 1) if layout.transposed else images, labels)
