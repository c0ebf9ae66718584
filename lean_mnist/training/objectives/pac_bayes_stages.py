"""Stages of a PAC-Bayes run: for every prior scale, training of the prior, if it is learnt, and of the posterior."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lean_mnist.chainrule.pac_bayes import confidence_cost
from lean_mnist.data.augmentation import Augmentation
from lean_mnist.data.batches import Batch, Batches
from lean_mnist.data.datasets import Split
from lean_mnist.data.normalization import Normalization
from lean_mnist.generalization.pacbayes.posterior import Goal
from lean_mnist.training.config.pac_bayes import PacBayesConfig, given

AUGMENTATION = Augmentation(rotation=15, scale=0.15, elastic=1.0)
PRIOR_BATCH = 128
TRAINING_DELTA = 0.025  # of the bound that is lowered; the certified one states its own


@dataclass(frozen=True)
class Stage:
    """Epochs ``first_epoch`` to before ``end_epoch`` of a run, which start with its step ``first_step``, from 0.

    The learning rate climbs to ``lr`` over a twentieth of the steps and falls to 0 as a cosine.
    """

    name: str  # "prior" or "posterior"
    prior_scale: str
    goal: Goal
    batches: Batches
    lr: float
    first_epoch: int
    end_epoch: int
    first_step: int

    @property
    def steps(self) -> int:
        """Updates of the whole stage."""
        return (self.end_epoch - self.first_epoch) * self.batches.steps_per_epoch

    def learning_rate(self, step: int) -> float:
        """Of the run's step ``step``, counted from 0."""
        step, warm = step - self.first_step, max(1, self.steps // 20)
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm))) / 2


def stages_of(config: PacBayesConfig, prior_part: Split, bound_part: Split, maximum: int) -> list[Stage]:
    """The stages of a run with this resolved configuration, in order."""
    unit, m = Normalization("unit", 0.0, float(maximum)), len(bound_part)
    augmentation = AUGMENTATION if config.augment else None
    cost, weight = confidence_cost(m, TRAINING_DELTA), given(config.divergence_weight)
    bound = Goal(config.objective, math.log(1 / config.p_min), m, cost, weight)
    batches = Batches(bound_part, unit, config.batch_size, config.seed)
    kinds = [("posterior", bound, batches, given(config.lr), given(config.epochs))]
    if config.prior == "learnt":
        batches = Batches(prior_part, unit, PRIOR_BATCH, config.seed, augmentation=augmentation)
        kinds.insert(0, ("prior", Goal(), batches, config.prior_lr, config.prior_epochs))
    stages, epoch, step = [], 0, 0
    for scale in given(config.prior_scale):
        for name, goal, batches, lr, epochs in kinds:
            stages.append(Stage(name, scale, goal, batches, lr, epoch, epoch + epochs, step))
            epoch, step = epoch + epochs, step + stages[-1].steps
    return stages


class StagedBatches:
    """The batches of every stage, by the run's epochs: a ``BatchSource`` that calls ``enter`` as an epoch begins.

    One batch at a time, so that the run's state tells the number of the step that is computed.
    """

    def __init__(self, stages: list[Stage], enter: Callable[[Stage, bool], None]) -> None:
        self._stages, self._enter = stages, enter

    @property
    def split(self) -> Split:
        """The training examples of the first stage."""
        return self._stages[0].batches.split

    def chunks(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """Batches of an epoch from ``start`` on; ``enter`` is told the stage and whether it is at its beginning."""
        stage = next(stage for stage in self._stages if epoch < stage.end_epoch)
        self._enter(stage, epoch == stage.first_epoch and start == 0)
        return ([batch] for batch in stage.batches.epoch(epoch - stage.first_epoch, start))
