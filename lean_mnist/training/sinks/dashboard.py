"""Order of TensorBoard's pages: which tag a record has there, and which charts stand together in *Custom Scalars*.

*Time Series*, with which TensorBoard opens, sorts its sections and their charts by name, numbers first, and opens the
first two sections: so tags begin with numbers. The names of records stay what they are.
"""

import functools
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from lean_mnist.training.sinks.records import Outcome

_OVERVIEW = {
    "train/epoch_loss": "1 training loss",
    "validation/loss": "2 validation loss",
    "validation/accuracy": "3 validation accuracy",
    "checkpoint/best_accuracy": "4 selected accuracy",
    "divergence/largest": "5 divergence x 1e6",
    "error_bound/largest": "6 proved bound x 1e6",
    "throughput/examples_per_second": "7 examples per second",
}
_MILLIONTHS = ("divergence/largest", "error_bound/largest")  # the page's tables have four digits after the point
_SECTIONS = {
    "crosscheck": "3 checks", "screen": "3 checks", "divergence": "3 checks", "error_bound": "3 checks",
    "memory": "3 checks", "picture": "5 pictures", "final": "6 outcome",
}  # fmt: skip
_TOLD_BY_SECTION = ("train", "picture", "final")
_OF_LAYER = re.compile(r"(\w+)/(.*)layers\.(\d+)\.(\w+)")


@functools.cache
def tag_of(name: str) -> str:
    """The tag of the record ``name``, where it is drawn: ``section/chart``; texts keep their names."""
    if name in _OVERVIEW:
        return f"1 overview/{_OVERVIEW[name]}"
    if found := _OF_LAYER.fullmatch(name):
        group, prefix, layer, tensor = found.groups()
        return f"2 layer {layer}/{prefix}{tensor} {_words(group)}"
    group, _, quantity = name.partition("/")
    return f"{_SECTIONS.get(group, '4 training')}/{_words(quantity if group in _TOLD_BY_SECTION else name)}"


def drawn(name: str, value: float) -> float:
    """The number that stands on the page for a scalar's ``value``."""
    return value * 1e6 if name in _MILLIONTHS else value


def _words(name: str) -> str:
    return re.sub(r"[_/]", " ", name)


def _exactly(*names: str) -> list[str]:
    return [f"^{re.escape(tag_of(name))}$" for name in names]


# What the Custom Scalars tab shows, most important first. A line is a regular expression over tags; a band takes whole
# tags, of a value and of its lower and upper end.
LAYOUT: dict[str, dict[str, tuple[str, list[Any]]]] = {
    "Overview": {
        "loss, training and validation": ("Multiline", _exactly("train/epoch_loss", "validation/loss", "test/loss")),
        "largest divergence of a gradient, and the proved bound on its error, in millionths": (
            "Multiline", _exactly("divergence/largest", "error_bound/largest"),
        ),
        "examples per second": ("Multiline", _exactly("throughput/examples_per_second")),
        # The ends of the Clopper–Pearson interval, of one epoch by itself; and, with no width, the selections.
        "validation accuracy in its 95 % interval, and selections": (
            "Margin",
            [
                [tag_of(f"validation/accuracy{end}") for end in ("", "_low", "_high")],
                [tag_of("checkpoint/best_accuracy")] * 3,
            ],
        ),
    },
    "Are its gradients right?": {
        "divergence of each tensor from the float64 reference": ("Multiline", ["^2 layer .* divergence$"]),
        "proved bound on the relative error of each tensor": ("Multiline", ["^2 layer .* error bound$"]),
        "share of what rounding explains": (
            "Multiline", _exactly("crosscheck/share_of_allowed", "screen/share_of_allowed"),
        ),
        "checks passed (1) or failed (0)": (
            "Multiline", _exactly("crosscheck/passed", "crosscheck/gradcheck_passed"),
        ),
    },
    "Is it healthy?": {
        "gradient norms": ("Multiline", ["^2 layer .* gradient norm$", *_exactly("gradient_norm/all")]),
        "parameter norms": ("Multiline", ["^2 layer .* parameter norm$"]),
        "change of the parameters in an epoch, relative to their norm": (
            "Multiline", _exactly("train/parameter_change"),
        ),
        "learning rate": ("Multiline", _exactly("train/learning_rate")),
    },
}  # fmt: skip


def layout() -> Any:
    """Summary of the *Custom Scalars* page."""
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    def chart(title: str, kind: str, lines: list[Any]) -> Any:
        if kind == "Multiline":
            return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=lines))
        bands = [layout_pb2.MarginChartContent.Series(value=v, lower=low, upper=high) for v, low, high in lines]
        return layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=bands))

    categories = [
        layout_pb2.Category(title=title, chart=[chart(name, *content) for name, content in charts.items()])
        for title, charts in LAYOUT.items()
    ]
    content = layout_pb2.Layout(category=categories).SerializeToString()
    tensor = TensorProto(dtype="DT_STRING", string_val=[content])
    return _summary(metadata.CONFIG_SUMMARY_TAG, metadata.PLUGIN_NAME, b"", tensor=tensor)


def text(name: str, value: str) -> Any:
    """Summary of a text in Markdown."""
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.plugins.text import metadata, plugin_data_pb2

    tensor = TensorProto(dtype="DT_STRING", string_val=[value.encode()])
    tensor.tensor_shape.dim.add(size=1)
    content = plugin_data_pb2.TextPluginData(version=0).SerializeToString()
    return _summary(name, metadata.PLUGIN_NAME, content, tensor=tensor)


def curve(name: str, value: npt.NDArray[np.float64]) -> Any:
    """Summary of the *PR curves* page: (6, T), as the record has it."""
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.plugins.pr_curve import metadata, plugin_data_pb2

    tensor = TensorProto(dtype="DT_FLOAT", float_val=value.reshape(-1))
    for size in value.shape:
        tensor.tensor_shape.dim.add(size=size)
    content = plugin_data_pb2.PrCurvePluginData(version=0, num_thresholds=value.shape[1]).SerializeToString()
    return _summary(name, metadata.PLUGIN_NAME, content, tensor=tensor)


def hparams(record: Outcome) -> list[Any]:
    """Summaries of the *HParams* page; its metrics are the scalars of ``record.value``, in this run.

    The page sorts settings that differ between runs first, and believes the first run that says which these are. No
    run knows: each says so of the settings that tell it from the default, and of the first that people change.
    """
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

    kinds = {bool: api_pb2.DATA_TYPE_BOOL, int: api_pb2.DATA_TYPE_FLOAT64, float: api_pb2.DATA_TYPE_FLOAT64}
    settings = {name: value if type(value) in kinds else str(value) for name, value in record.settings.items()}
    types = {name: kinds.get(type(value), api_pb2.DATA_TYPE_STRING) for name, value in settings.items()}
    infos = [api_pb2.HParamInfo(name=name, type=kind, differs=name in record.telling) for name, kind in types.items()]
    metrics = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag_of(name)), display_name=_words(name.partition("/")[2]))
        for name in record.value
    ]
    start = plugin_data_pb2.SessionStartInfo()
    for name, value in settings.items():
        setattr(start.hparams[name], _FIELDS.get(type(value), "string_value"), value)
    contents = {
        "experiment": api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics),
        "session_start_info": start,
        "session_end_info": plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS),
    }
    made = []
    for kind, content in contents.items():
        data = plugin_data_pb2.HParamsPluginData(version=0, **{kind: content}).SerializeToString(deterministic=True)
        made.append(_summary(f"_hparams_/{kind}", "hparams", data))
    return made


_FIELDS = {bool: "bool_value", int: "number_value", float: "number_value"}


def _summary(tag: str, plugin: str, content: bytes, **value: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

    data = SummaryMetadata.PluginData(plugin_name=plugin, content=content)
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=data), **value)])
