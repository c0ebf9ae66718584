"""The configuration: what it refuses, how it is written down and read back, and the presets."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.data.augmentation import Augmentation
from lean_mnist.data.names import DATASET_CHOICES, NORMALIZATIONS
from lean_mnist.errors import ConfigError
from lean_mnist.nn.modules import INITIALIZATIONS
from lean_mnist.training.config import DEFAULT_LR, Config
from lean_mnist.training.config.files import config_from_dict, read_config
from lean_mnist.training.config.presets import PRESETS, preset
from lean_mnist.training.objectives.build import build_augmentation
from tests.support.training_cases import surroundings

INF, NAN = float("inf"), float("nan")

REFUSED: list[tuple[str, Any, str]] = [  # field, value, what the message says
    *((name, 0, "expected at least 1, found 0") for name in ("epochs", "batch_size", "accumulate", "decay_epochs")),
    ("log_every", -3, "expected at least 1, found -3"),
    *((name, 0, "expected at least 1, found 0") for name in ("validation_size", "limit_train", "early_stopping")),
    *((name, -1, "expected at least 0, found -1") for name in ("warmup_steps", "check_every", "gradcheck_every")),
    ("seed", -1, "expected at least 0, found -1"),
    ("seed", 2**63, "expected a number below 2^63, found 9223372036854775808"),
    ("weight_decay", -0.1, "expected at least 0, found -0.1"),
    ("weight_decay", NAN, "expected at least 0, found nan"),
    ("weight_decay", INF, "expected at most 9007199254740992, found inf"),
    ("logit_penalty", -1.0, "expected at least 0, found -1.0"),
    *((name, 0.0, "expected a number above 0, found 0.0") for name in ("lr", "clip_norm", "init_scale", "decay")),
    ("augment_shift", -1.0, "expected at least 0, found -1.0"),
    ("augment_rotation", INF, "expected at most 9007199254740992, found inf"),
    ("augment_scale", 1.0, "expected a number from 0 up to, not including, 1, found 1.0"),
    ("augment_elastic", NAN, "expected at least 0, found nan"),
    ("augment_smoothness", 0.0, "expected a number above 0, found 0.0"),
    *(("augment_smoothness", value, f"expected from 0.001 to 10^6, found {value}") for value in (1e-200, 1e200)),
    ("clip_pixels", 1e300, "expected at most 9007199254740992, found 1e+300"),
    ("rank_timeout", 2**40, f"expected at most 10^6, found {2**40}"),
    ("lr", NAN, "expected a number above 0, found nan"),
    ("clip_norm", INF, "expected a number above 0, found inf"),
    ("hidden", (), "expected one or more widths of at least 1, found none"),
    ("hidden", (64, 0), "expected one or more widths of at least 1, found 64 0"),
    ("momentum", 1.0, "expected a number from 0 up to, not including, 1, found 1.0"),
    ("momentum", -0.5, "expected a number from 0 up to, not including, 1, found -0.5"),
    ("momentum", NAN, "expected a number from 0 up to, not including, 1, found nan"),
    ("label_smoothing", 1.5, "expected a number from 0 to 1, found 1.5"),
    ("average", 1.0, "expected a number between 0 and 1, found 1.0"),
    ("average", NAN, "expected a number between 0 and 1, found nan"),
    ("label_smoothing", NAN, "expected a number from 0 to 1, found nan"),
    *(
        ("run_name", name, f"expected the name of one folder, found {name!r}")
        for name in ("", ".", "..", "a/b", "a\\b")
    ),
]


@pytest.mark.parametrize(("field", "value", "message"), REFUSED, ids=str)
def test_a_value_that_cannot_be_used_is_refused_by_the_name_of_its_option(field: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**{field: value})
    assert str(caught.value) == f"--{field.replace('_', '-')}: {message}"


@pytest.mark.parametrize(
    ("field", "value"),
    [("label_smoothing", 0.0), ("label_smoothing", 1.0), ("momentum", 0.0), ("check_every", 0), ("seed", 2**63 - 1)],
)
def test_values_at_the_edge_are_accepted(field: str, value: Any) -> None:
    assert getattr(Config(**{field: value}), field) == value


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().epochs = 3  # type: ignore[misc]


def test_the_learning_rate_is_the_optimizers_own_unless_given() -> None:
    for optimizer, rate in DEFAULT_LR.items():
        assert Config(optimizer=optimizer).learning_rate == rate  # type: ignore[arg-type]
    assert Config(optimizer="adam", lr=0.5).learning_rate == 0.5


CHOICES = [
    (Config, "normalization", NORMALIZATIONS),
    (Config, "activation", tuple(ACTIVATIONS)),
    (Config, "initialization", INITIALIZATIONS),
    (Config, "preset", tuple(PRESETS)),
    (Config, "optimizer", tuple(DEFAULT_LR)),
]


@pytest.mark.parametrize(
    ("cls", "field", "expected"), CHOICES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_choices_of_an_option_are_those_of_the_code_behind_it(
    cls: type, field: str, expected: tuple[str, ...]
) -> None:
    assert set(get_args(get_type_hints(cls)[field])) == set(expected)


def test_a_data_set_is_a_known_name_or_a_path() -> None:
    for name in (*DATASET_CHOICES, "./shapes", "a/b", "shapes.npz", "..", "C:\\shapes"):
        assert Config(dataset=name).dataset == name
    with pytest.raises(ConfigError, match=r"^--dataset: expected one of .*, found 'mnits' \(did you mean 'mnist'\?\)"):
        Config(dataset="mnits")


VARIED = [
    Config(),
    Config(hidden=(3, 2, 1), bias=False, lr=1e-30, validation_size=7, nesterov=False, track_test=True, quiet=True),
    Config(run_name="--x=y ü", data_dir="a folder/with = and -- in it", runs_dir="", init_scale=1 / 3, seed=2**63 - 1),
    *(preset(name) for name in PRESETS),
]


@pytest.mark.parametrize("config", VARIED, ids=range(len(VARIED)))
def test_a_configuration_survives_being_written_down(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict()), encoding="utf-8")
    assert read_config(path, Config) == config
    assert config_from_dict(config.to_dict(), "a checkpoint", Config) == config


def test_fields_that_are_not_there_have_their_defaults() -> None:
    assert config_from_dict({"epochs": 3}, "here", Config) == Config(epochs=3)


WRONG: list[tuple[Any, str]] = [  # what a config.json holds, what the message names
    ({"epochz": 3}, "no configuration field is called 'epochz' (did you mean 'epochs'?)"),
    ({"zzz": 3}, "no configuration field is called 'zzz'"),
    ({"hidden": ["--lr", "5"]}, "--hidden: expected values, found an option among them: ['--lr', '5']"),
    ({"hidden": ["--help"]}, "--hidden: expected values, found an option among them: ['--help']"),
    ({"lr": ["--help"]}, "--lr: expected values, found an option among them: ['--help']"),
    ({"run_name": ["a", "--help-all"]}, "--run-name: expected values, found an option among them"),
    ([1, 2], "expected an object of configuration fields, found list"),
    ("text", "expected an object of configuration fields, found str"),
    ({"epochs": "many"}, "epochs"),
    ({"epochs": 2.5}, "epochs"),
    ({"epochs": None}, "epochs"),
    ({"epochs": True}, "epochs"),
    ({"epochs": False}, "epochs"),
    ({"epochs": [1, 2]}, "epochs"),
    ({"epochs": {"a": 1}}, "epochs"),
    ({"epochs": 0}, "--epochs: expected at least 1, found 0"),
    ({"lr": "fast"}, "lr"),
    ({"lr": NAN}, "expected a config.json that a run wrote, found NaN, which is no number"),
    ({"bias": "yes"}, "bias"),
    ({"bias": 1}, "bias"),
    ({"bias": None}, "bias"),
    ({"hidden": [1.5]}, "hidden"),
    ({"hidden": "wide"}, "hidden"),
    ({"hidden": []}, "hidden"),
    ({"hidden": [[3]]}, "hidden"),
    ({"data_dir": {"a": 1}}, "data-dir"),
    ({"data_dir": ["a", "b"]}, "a"),
    (
        {"optimizer": "adm"},
        "--optimizer: expected one of sgd, adam, adamw, rmsprop, found 'adm' (did you mean 'adam'?)",
    ),
    ({"dataset": None}, "dataset"),
    ({"data_dir": "a\0b"}, r"--data-dir: expected at most 4096 characters, none of them null, found a\x00b"),
    ({"run_name": "a\nb"}, r"--run-name: expected the name of one folder, found 'a\nb'"),
    ({"a\n\x1b": 1}, r"no configuration field is called 'a\n\x1b'"),
    ({"hidden": [1] * 1000}, "--hidden: expected at most 98 widths of at most 16777216, found 1 1 1"),
    ({"hidden": [1 << 60]}, "--hidden: expected at most 98 widths"),
    ({"epochs": 10**300}, "--epochs: expected at most 9007199254740992, found 1000"),
    ({"data_dir": "x" * 5000}, "--data-dir: expected at most 4096 characters"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[ascii(values)[:60] for values, _ in WRONG])
def test_a_field_of_the_wrong_kind_is_refused_in_one_line(values: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_config(path, Config)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


HOSTILE = [
    b"[" * 100_000, b'{"a":' * 100_000, b'{"epochs": ' + b"9" * 5000 + b"}", b'{"epochs": 1, "epochs": 2}',
    b'{"lr": NaN}', b'{"data_dir": "\\ud800"}', b'{"data_dir": "\0"}', b" " * (1 << 21),
]  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"not JSON", None, *HOSTILE])
def test_a_file_that_is_no_configuration_is_refused_in_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json: .*expected a config\.json that a run wrote") as caught:
        read_config(path, Config)
    assert "\n" not in str(caught.value)


LEAN = {
    "dataset": "mnist", "normalization": "unit", "hidden": (128,), "activation": "relu", "bias": True,
    "initialization": "he-normal", "label_smoothing": 0.0, "logit_penalty": 0.0, "batch_size": 64, "accumulate": 1,
    "optimizer": "sgd", "lr": 0.01, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "schedule": "constant",
    "warmup_steps": 0, "clip_norm": 10.0, "early_stopping": None, "precision": "float32",
}  # fmt: skip


@pytest.mark.parametrize(("name", "images", "epochs"), [("lean-full", 12_000, 50), ("lean-medium", 5_000, 10)])
def test_the_lean_presets_are_the_recipes_of_lean_mnist(name: str, images: int, epochs: int) -> None:
    expected = {**LEAN, "preset": name, "limit_train": images, "epochs": epochs}
    values = dataclasses.asdict(preset(name))
    assert {field: values[field] for field in expected} == expected
    # Whatever the recipe does not speak of, how gradients are checked included, is as it is by default.
    others = set(values) - set(expected) - {"validation_size"}
    assert {field: values[field] for field in others} == {field: getattr(Config(), field) for field in others}


def test_mini_trains_on_a_hundred_images_and_default_is_the_default() -> None:
    assert preset("mini").limit_train == 100
    assert preset("default") == Config()


def test_the_best_small_network_has_one_hidden_layer_of_128() -> None:
    assert preset("small-best").hidden == (128,)
    assert len(preset("best").hidden) > 1


def test_only_elastic_augmentation_is_elastic() -> None:
    strengths: dict[str, Any] = {"augment_shift": 3.0, "augment_rotation": 4.0, "augment_scale": 0.5}
    affine = {"shift": 3.0, "rotation": 4.0, "scale": 0.5, "smoothness": 8.0}
    strengths |= {"augment_elastic": 7.0, "augment_smoothness": 8.0}
    assert build_augmentation(Config(**strengths)) is None
    assert build_augmentation(Config(augment="affine", **strengths)) == Augmentation(**affine)
    assert build_augmentation(Config(augment="elastic", **strengths)) == Augmentation(**affine, elastic=7.0)


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"--preset: .* found 'lean-ful' \(did you mean 'lean-full'\?\)"):
        preset("lean-ful")


def test_the_command_line_is_read_without_pytorch() -> None:
    code = (
        "import sys; from lean_mnist.training.arguments import read_arguments;"
        "read_arguments(['--epochs', '3', '--preset', 'mini']);"
        "print([name for name in ('torch', 'torchvision', 'tensorboard', 'sklearn', 'scipy') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=surroundings(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
