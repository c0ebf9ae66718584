"""Cutting examples into parts, and the random generator of each purpose. A test split once cut is not touched here."""

import hashlib

import torch

from lean_mnist.data.examples import Split
from lean_mnist.errors import ConfigError

DEFAULT_FRACTION = 12  # one twelfth: 5,000 of MNIST's 60,000


def generator_for(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator determined by ``(seed, purpose, index)`` and by nothing else.

    Hashing keeps purposes apart, and nothing depends on what was drawn before. ``seed`` may be any integer.
    """
    digest = hashlib.blake2b(f"{purpose}:{seed}:{index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def resolve_validation_size(validation_size: int | None, *, examples: int, limit_train: int | None = None) -> int:
    """Number of validation examples among ``examples`` training examples.

    ``None`` asks for one twelfth, at least 1, and with ``limit_train`` no more than the images it leaves over.
    Raises :class:`ConfigError` for sizes below 1 and for sizes that leave nothing to train on or to validate with.
    """
    if limit_train is not None:
        if limit_train < 1:
            raise ConfigError(f"limit-train: {limit_train}, expected 1 or more")
        if limit_train >= examples:
            rest = f"there are {examples} training examples, and at least 1 has to be left for validation"
            raise ConfigError(f"limit-train: {limit_train}, expected at most {examples - 1}: {rest}")
    if validation_size is not None and validation_size < 1:
        raise ConfigError(f"validation-size: {validation_size}, expected 1 or more")

    at_most = examples - (1 if limit_train is None else limit_train)
    size = validation_size or min(max(1, examples // DEFAULT_FRACTION), max(1, at_most))
    if size > at_most:
        left = "1 of them has" if limit_train is None else f"limit-train {limit_train} of them have"
        rest = f"there are {examples} training examples, and {left} to be left for training"
        raise ConfigError(f"validation-size: {size}, expected at most {at_most}: {rest}")
    return size


def split_training(
    dataset_train: Split, *, validation_size: int | None, limit_train: int | None, seed: int
) -> tuple[Split, Split]:
    """Cut ``dataset_train`` (m examples) into ``(training, validation)``, two disjoint parts in file order.

    Without ``limit_train`` a random choice of ``validation_size`` examples validates and all others train. With it,
    exactly the first ``limit_train`` examples of the file train, and a random choice of those after them validates.
    The choice depends on ``seed`` and on the sizes only, which are as of :func:`resolve_validation_size`.
    """
    examples = len(dataset_train)
    size = resolve_validation_size(validation_size, examples=examples, limit_train=limit_train)
    first = limit_train or 0
    order = first + torch.randperm(examples - first, generator=generator_for(seed, "validation split"))
    chosen = torch.zeros(examples, dtype=torch.bool)
    chosen[order[:size]] = True
    validation = _take(dataset_train, chosen)
    if limit_train is not None:
        return Split(dataset_train.images[:first], dataset_train.labels[:first]), validation
    return _take(dataset_train, ~chosen), validation


def _take(split: Split, chosen: torch.Tensor) -> Split:
    index = chosen.nonzero().flatten()  # whole images are copied at once, which a mask of booleans does not do
    return Split(split.images.index_select(0, index), split.labels.index_select(0, index))


def cut(split: Split, prior_examples: int, seed: int) -> tuple[Split, Split]:
    """Cut a training split into ``(prior part, bound part)``, disjoint, each in the order of the file.

    The first ``prior_examples`` by the SHA-256 of the text ``"{seed}:{index}"`` make the prior's part. Raises
    ``ConfigError`` unless both parts hold something or the prior's is empty.
    """
    examples = len(split)
    if not 0 <= prior_examples < examples:
        raise ConfigError(f"prior-examples: expected from 0 to {examples - 1}, found {prior_examples}")
    ranked = sorted(range(examples), key=lambda index: hashlib.sha256(f"{seed}:{index}".encode()).digest())
    chosen = torch.zeros(examples, dtype=torch.bool)
    chosen[ranked[:prior_examples]] = True
    return _take(split, chosen), _take(split, ~chosen)


def cut_test(split: Split) -> tuple[Split, Split]:
    """Cut a fifth of each class's examples off ``split`` to test, at random but always the same ones.

    A class of two to four examples gives one, a class of one none. Both parts keep the order of ``split``.
    """
    chosen = torch.zeros(len(split), dtype=torch.bool)
    for label in split.labels.unique().tolist():
        of_class = (split.labels == label).nonzero().flatten()
        count = max(len(of_class) // 5, int(len(of_class) > 1))
        order = torch.randperm(len(of_class), generator=generator_for(0, "test split", label))
        chosen[of_class[order[:count]]] = True
    return _take(split, ~chosen), _take(split, chosen)
