"""Summary of a run of classification, for ``summary.json`` and for people."""

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lean_mnist.data.official import Origin
from lean_mnist.files import plain
from lean_mnist.generalization.certificates.document import FILE as CERTIFICATE
from lean_mnist.generalization.certificates.document import Certificate
from lean_mnist.generalization.quantize import TrainingClaims
from lean_mnist.invocation import typed
from lean_mnist.training.config import Config
from lean_mnist.training.evaluation.metrics import Evaluation
from lean_mnist.training.hooks.step import FOLDER, MOST
from lean_mnist.training.report import FILE as REPORT
from lean_mnist.training.state import RunState, Verdict

NETWORK = "network.json"  # a quantised network's exact numbers


@dataclass(frozen=True)
class Summary:
    """Summary of a finished run; ``test`` is of the weights in ``best.pt``, or ``last.pt`` where none was selected."""

    config: Config
    origin: Origin
    class_names: tuple[str, ...]
    state: RunState
    test: Evaluation
    folder: Path
    checkpoints: Path
    training_examples: int
    certificate: Certificate | str  # written in ``folder``, or why there is none
    quantized: TrainingClaims | None = None  # of a quantised network, which is then written in ``folder``, too
    engine: str = "eager"  # that took the last steps
    engine_threads: int | None = None  # of the last ones, where it is ``native``; for people, as it is only measured

    @property
    def checking_share(self) -> float:
        """Share of the training time spent on checks."""
        return self.state.checks.seconds / self.state.seconds if self.state.seconds else 0.0

    @property
    def examples_per_second(self) -> float:
        """Training examples a second, checks and evaluations included."""
        return self.state.examples / self.state.seconds if self.state.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``summary.json`` holds them."""
        state, test, best, certificate = self.state, self.test, self.state.best, self.certificate
        return {
            "dataset": self.config.dataset,
            "run": self.config.run_name,
            "data_origin": self.origin.value,
            "class_names": list(self.class_names),
            "preset": self.config.preset,
            "test_examples": test.examples,
            "test_errors": test.errors,
            "test_accuracy": test.accuracy,
            "test_accuracy_interval_95": list(test.interval),
            "test_loss": test.loss,
            "test_looks": state.test_looks,
            "best_epoch": None if best is None else best.epoch,
            "best_step": None if best is None else best.step,
            "averaged": best is not None and self.config.average is not None,
            "validation_examples": self.config.validation_size,
            "validation_accuracy": None if best is None else best.accuracy,
            "training_examples": self.training_examples,
            "epochs": state.epoch,
            "steps": state.step,
            "rollbacks": state.rollbacks,
            "finished": state.finished,
            "seconds": state.seconds,
            "examples_per_second": self.examples_per_second,
            "checks": {**state.checks.to_dict(), "share_of_time": self.checking_share},
            "certificate": (
                {"path": None, "why_not": certificate}
                if isinstance(certificate, str)
                else {"path": str(self.files["certificate"]), **certificate.summary()}
            ),
            "quantized": None if self.quantized is None else self.quantized.to_dict(),
            "files": {name: str(path) for name, path in self.files.items()},
            "device": self.config.device,
            "engine": self.engine,
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
        }

    def to_json(self) -> str:
        """One JSON document."""
        return json.dumps(plain(self.to_dict()), indent=2, ensure_ascii=False, allow_nan=False)

    @property
    def files(self) -> dict[str, Path]:
        """Everything that was written, by name."""
        best = {} if self.state.best is None else {"best": self.checkpoints / "best.pt"}
        last = self.checkpoints / "last.pt"
        network = {} if self.quantized is None else {"network": self.folder / NETWORK}
        certificate = {} if isinstance(self.certificate, str) else {"certificate": self.folder / CERTIFICATE}
        card, report = {"card": self.checkpoints / "model_card.md"}, {"report": self.folder / REPORT}
        return {**best, "last": last, **card, "run": self.folder, **certificate, **network, **report}

    def _of_engine(self) -> str:
        count = self.engine_threads or self.config.threads or torch.get_num_threads()
        chosen = "" if self.config.threads else " (auto)"
        return f"{self.engine}, on {count} thread{'s' * (count != 1)}{chosen}" * (self.config.device == "cpu")

    def __str__(self) -> str:
        """At most 24 lines of 79 columns, but for commands, which stand in one line each, and long paths."""
        state, test, best = self.state, self.test, self.state.best
        low, high = test.interval
        looks = len(state.test_looks)
        once = "looked at once" if looks == 1 else f"looked at {looks} times, which a certificate has to pay for"
        chosen = "none could be called best, because a gradient check failed; these are the last weights"
        if best is not None:
            averaged = ", of weights averaged over its epochs" * (self.config.average is not None)
            chosen = f"epoch {best.epoch} of {state.epoch}, by validation accuracy {best.accuracy:.2%}{averaged}"
        certificate = self.certificate
        rows = [
            ("selected", chosen),
            ("certified", f"nothing: {certificate}" if isinstance(certificate, str) else certificate.line()),
            ("quantized", str(self.quantized or "")),
            *self._of_checks(),
            ("time", f"{state.seconds:.1f} s, {state.step:,} steps, {self.examples_per_second:,.0f} examples/s"),
            ("engine", self._of_engine()),
            ("written", ", ".join(str(path) for path in self.files.values())),
        ]
        measured = f"test accuracy {test.accuracy:.2%}, 95 % interval {low:.2%} to {high:.2%}"
        about = f"{test.errors} errors in {test.examples:,}; the test split was {once}"
        lines = [_wrapped(f"{self.config.dataset}: {measured} ({about})", "  ")]
        lines += [_wrapped(f"  {name:<11}{text}", " " * 13) for name, text in rows if text]
        return "\n".join([*lines, f"  look       {typed('tensorboard', '--logdir', self.folder.parent)}"])

    def _of_checks(self) -> Iterator[tuple[str, str]]:
        state, checks = self.state, self.state.checks
        done = (
            f"{checks.screens:,} steps screened, {checks.comparisons} audited, "
            f"{checks.gradchecks} gradcheck{'s' * (checks.gradchecks != 1)}, {checks.failures} failed; "
            f"{self.checking_share:.1%} of the time"
        )
        yield "checks", "none were due" if checks.verdict is Verdict.UNCHECKED else done
        if checks.comparisons:
            bound = checks.proved_bound
            proved = f"; proved within {bound} of the exact gradient (relative)" if bound else ""
            yield (
                "gradients",
                f"largest divergence {checks.largest_divergence:.1e}, {checks.largest_share:.0%} of what rounding "
                f"explains{proved}",
            )
        if checks.transient:
            yield "transient", f"faults that were gone when a step was computed again: {checks.transient}"
        if state.rollbacks:
            yield "rollbacks", f"{state.rollbacks}, each with a lower learning rate from there on"
        if checks.failures:
            yield "WARNING", f"{checks.failures} gradient checks failed, first at {checks.first_failure}"
            if (self.folder / FOLDER).is_dir():
                yield "replay", f"failures of the first {MOST} failed steps: {self.folder / FOLDER}"


def _wrapped(line: str, indent: str) -> str:
    together = line.replace("δ = ", "δ\0=\0")
    filled = textwrap.fill(together, 79, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return filled.replace("\0", " ")
