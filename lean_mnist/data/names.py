"""Names of the data sets that options accept. Imports nothing, so that ``--help`` stays fast."""

DATASETS: tuple[str, ...] = ("mnist", "fashion-mnist", "kmnist", "qmnist", "emnist-digits", "digits")
"""Every data set that can be asked for by name."""

AUTO = "auto"  # MNIST where it can be had, otherwise ``digits``

DATASET_CHOICES: tuple[str, ...] = (AUTO, *DATASETS)  # what ``--dataset`` accepts

NORMALIZATIONS: tuple[str, ...] = ("standard", "unit", "per-image")  # what ``--normalization`` accepts

DATA_VARIABLE = "LEAN_MNIST_DATA"  # names a folder to search first, which is read, never written
