"""The place where a reduction went wrong: whose gradient did not arrive as it was sent, or who received another sum.

Asked only after a check of a step has failed. The ranks do the same collective operations again, one sender at a time.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.errors import GradientMismatch, HealthError, LeanMnistError
from lean_mnist.nn.parameters import ParameterSlot, place_of
from lean_mnist.training.distributed.message import PROJECTIONS, Digests, Message, bits_of, misfit, odd_ones, words_of
from lean_mnist.training.distributed.transport import Transport


class Evidence(NamedTuple):
    """Values that one rank holds after a reduction whose checks failed."""

    messages: list[Message]  # the same on every rank
    digests: Tensor  # of the sum of each rank, likewise
    own_P: Tensor  # its gradient, as it was sent
    reduced_P: Tensor  # what it got
    layout: Sequence[ParameterSlot]


def explain(transport: Transport, digests: Digests, evidence: Evidence) -> LeanMnistError:
    """The error that all ranks raise, with the same words. A collective operation; raises ``ContactLost``."""
    messages, step = evidence.messages, evidence.messages[0].step
    infinite = [
        rank for rank, m in enumerate(messages) if m.examples and not m.digests[:, : PROJECTIONS + 1].isfinite().all()
    ]
    if infinite:
        return HealthError(
            f"step {step}: the gradient of {ranks(infinite)} is not finite; "
            f"the weights are as they were before this step"
        )
    found = misfit(messages)
    if not found:
        right = digests.match(evidence.digests, messages, len(messages), evidence.own_P.dtype)
        wrong = [rank for rank, it_is in enumerate(right) if not it_is]
        if len(wrong) == len(messages):
            found = _wrong_everywhere(transport, digests, evidence)
        else:
            found = _wrong_somewhere(transport, evidence, wrong or odd_ones(bits_of(evidence.digests).tolist()))
    return GradientMismatch(f"gradient check failed at step {step}: {found}; the step was not applied")


def _wrong_somewhere(transport: Transport, evidence: Evidence, wrong: list[int]) -> str:
    """Some ranks have a right sum: one of them sends it, and the others say where theirs is different."""
    teller = next(rank for rank in range(transport.size) if rank not in wrong)
    found_P = evidence.reduced_P.cpu()
    right_P = transport.all_gather_object(found_P if transport.rank == teller else None)[teller]
    places = transport.all_gather_object(
        difference(evidence.layout, right_P, found_P, f"rank {teller} has", "here it is")
    )
    said = "; ".join(f"on rank {rank}, {places[rank]}" for rank in wrong if places[rank])
    return f"the reduced gradient of {ranks(wrong)} is not that of rank {teller}" + (f": {said}" if said else "")


def _wrong_everywhere(transport: Transport, digests: Digests, evidence: Evidence) -> str:
    """All have a wrong sum: nobody sends, then one rank at a time, and what arrives is held to what it sent."""
    messages, dtype, arrived_P = evidence.messages, evidence.own_P.dtype, torch.empty_like(evidence.own_P)
    step = messages[0].step
    transport.weighted_sum(evidence.own_P, [0.0] * len(messages), arrived_P, digests, step)
    noise = any(transport.all_gather_object(bool(arrived_P.ne(0).any())))
    exact_P, guilty = torch.zeros_like(evidence.own_P, dtype=torch.float64), []
    for rank, message in enumerate(messages):
        alone = [message.weight if other == rank else 0.0 for other in range(len(messages))]
        arrived = transport.weighted_sum(evidence.own_P, alone, arrived_P, digests, step)
        place = ""
        if message.examples and rank == transport.rank:
            sent_P = evidence.own_P * message.weight
            place = difference(evidence.layout, sent_P, arrived_P, "it sent", "what arrived is")
        right = not message.examples or all(digests.match(arrived[None], [message], len(messages), dtype))
        answers = transport.all_gather_object((right, place))
        if not all(right for right, _ in answers):
            place = answers[rank][1]
            guilty.append(f"rank {rank}" + (f" ({place})" if place else ""))
        exact_P += arrived_P
    if guilty and not noise:
        return f"the gradient of {' and of '.join(guilty)} does not arrive as its checks saw it"
    place = difference(evidence.layout, exact_P.to(dtype), evidence.reduced_P, "the sum is", "it gave", most=True)
    why = "even the sum of nothing is not zero" if noise else "each rank's gradient arrives as it was sent"
    said = transport.all_gather_object(place)[0]  # of rank 0, so that all ranks say the same
    return f"the all-reduce is wrong, of no one rank: {why}" + (f"; {said}" if said else "")


def difference(
    layout: Sequence[ParameterSlot], right_P: Tensor, found_P: Tensor, was: str, now: str, most: bool = False
) -> str:
    """First place at which two vectors differ, or the one with the largest difference; empty if equal bit for bit."""
    if torch.equal(words_of(right_P), words_of(found_P)):
        return ""
    words = torch.int32 if right_P.element_size() == 4 else torch.int64
    differs = right_P.view(words) != found_P.view(words)
    count = int(differs.sum())
    errors = (right_P.double() - found_P.double()).abs().nan_to_num(nan=math.inf)
    index = int(errors.argmax()) if most else int(differs.nonzero()[0])
    place = f"{place_of(layout, index)}: {was} {float(right_P[index]):.6g}, {now} {float(found_P[index]):.6g}"
    return place if most or count == 1 else f"{place} (and {count - 1:,} more)"


def ranks(numbers: Sequence[int]) -> str:
    """``"rank 1"``, ``"ranks 1 and 2"``, ``"ranks 0, 1 and 2"``."""
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    return f"ranks {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
