"""Two ranks give what one device gives, or are seen not to."""

from typing import Any

import pytest
import torch
from torch import nn

from lean_mnist.crosscheck import Verdict, check_sharded
from lean_mnist.errors import ArgumentError
from tests.support import sharded_models as models
from tests.support.fsdp import FSDP2_ON_CPU


def leaf(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).requires_grad_()


def wrong_results(report: Any) -> set[str]:
    return {f.subject for f in report.failures}


@pytest.mark.parametrize(
    ("shard", "split"), [pytest.param(models.fsdp2, True, marks=FSDP2_ON_CPU), (models.tensor_parallel, False)]
)
def test_a_model_that_is_sharded_right(shard: Any, split: bool) -> None:
    report = check_sharded(models.Network, [leaf(6, 6)], shard, split=split, seed=1)
    assert report.ok, report.details()
    gradients = ["input 0", "first.weight", "first.bias", "last.weight", "last.bias"]
    assert [f.subject for f in report.findings] == ["output 0", *(f"gradient of {name}" for name in gradients)]


@FSDP2_ON_CPU
def test_a_function_whose_gradient_is_wrong_on_one_rank() -> None:
    report = check_sharded(models.wrong_on_rank_one, [leaf(6, 6)], models.fsdp2, seed=1)
    assert report.verdict is Verdict.FAILED
    assert wrong_results(report) == {"gradient of input 0", "gradient of first.weight", "gradient of first.bias"}


def test_ranks_that_do_not_average_their_gradients() -> None:
    report = check_sharded(models.Network, [leaf(6, 6)], models.without_reduction, seed=1)
    assert report.verdict is Verdict.FAILED
    assert {"gradient of first.weight", "gradient of last.bias"} <= wrong_results(report)
    assert "output 0" not in wrong_results(report)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [(models.split_columns, set()), (models.split_columns_without_reduction, {"gradient of input 0"})],
)
def test_a_tensor_parallel_layer_written_by_hand(make: Any, wrong: Any) -> None:
    report = check_sharded(make, [leaf(3, 6)], split=False, gather=models.gathered, seed=1)
    assert wrong_results(report) == wrong, report.details()


def test_a_rank_that_raises() -> None:
    report = check_sharded(models.raising, [leaf(6, 6)], models.without_reduction, seed=1)
    assert report.verdict is Verdict.FAILED
    assert "rank 1 raised OSError: rank one is lost" in str(report)


def test_questions_that_make_no_sense() -> None:
    with pytest.raises(ArgumentError, match=r"world_size: expected a whole number of at least 1, found 0"):
        check_sharded(models.Network, [leaf(6, 6)], world_size=0)
    with pytest.raises(ArgumentError, match=r"make_model: expected a function, found int"):
        check_sharded(3, [leaf(6, 6)])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"fail_on: expected one of error, warning, note, found 'errors'"):
        check_sharded(models.Network, [leaf(6, 6)], fail_on="errors")
    with pytest.raises(ArgumentError, match=r"inputs: expected one batch size, a multiple of 2 ranks, found \{5\}"):
        check_sharded(models.Network, [leaf(5, 6)], models.fsdp2)
    with pytest.raises(ArgumentError, match=r"make_model, shard: expected functions that other processes can import"):
        check_sharded(lambda: models.Network(), [leaf(6, 6)])
    with pytest.raises(ArgumentError, match=r"model: expected one that draws no random numbers"):
        check_sharded(lambda: nn.Sequential(nn.Linear(6, 2), nn.Dropout(0.5)), [leaf(6, 6)])
