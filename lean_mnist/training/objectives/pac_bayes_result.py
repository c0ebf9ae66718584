"""End of a PAC-Bayes run: choice among the finished posteriors, certificate, measurement on the test split."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from lean_mnist.data.datasets import Split
from lean_mnist.generalization.bounds import pac_bayes_risk
from lean_mnist.generalization.certificates.runs import write_certificate
from lean_mnist.generalization.exact import percent
from lean_mnist.generalization.pacbayes.certificate import certify_posterior, draw_outcomes, layers_of
from lean_mnist.generalization.pacbayes.posterior import GaussianMLP
from lean_mnist.invocation import typed
from lean_mnist.training.config.pac_bayes import given
from lean_mnist.training.run_folder import RunFolder
from lean_mnist.training.sinks.records import Figure, Text
from lean_mnist.training.state import RunState

if TYPE_CHECKING:
    from lean_mnist.training.objectives.pac_bayes import PacBayes

ESTIMATE_DRAWS = 60_000  # by which one of several candidates is chosen; and of the test split


@dataclass(frozen=True)
class PacBayesResult:
    """Outcome of a run: ``values`` as ``summary.json`` has them."""

    values: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return self.values

    def __str__(self) -> str:
        v = self.values
        lines = [
            f"{v['dataset']}: {v['prior']} prior, network {'-'.join(map(str, v['sizes']))}, KL {v['divergence']} nats",
            f"  empirical  {percent(Fraction(v['draw_errors'], v['draws']), up=True)} of {v['draws']:,} draws on "
            f"{v['examples']:,} examples are errors; on the test split {v['test_risk']:.2%}, measured",
        ]
        lines += _risks("certified", v["claims"])
        if v["holdout"]:
            lines += _risks("holdout", v["holdout"]["claims"])
            lines.append(
                f"             of the prior's mean network alone: {v['holdout']['errors']:,} errors on the same "
                f"{v['examples']:,} examples, before the posterior learned from them"
            )
        tried = f"{v['candidates']:,} priors{', tried adaptively,' if v['adaptive'] else ''} are paid for"
        lines.append(f"  together   all claims hold with confidence 1 - {v['total_delta']}; {tried}")
        checks, path = v["checks"], v["certificate"]
        failed = f"{checks['failures']} failed, largest divergence {checks['largest_divergence']:.1e}"
        lines.append(f"  checks     {checks['screens']:,} steps screened, {checks['comparisons']} audits, {failed}")
        lines.append(f"  time       {', '.join(f'{name} {s:.0f} s' for name, s in v['seconds'].items())}")
        lines.append(f"  written    {path}")
        lines.append(f"  to check   {typed('python -m lean_mnist.certify', '--check', path)}")
        return "\n".join(lines)


def _risks(name: str, claims: list[dict[str, Any]]) -> list[str]:
    lines = []
    for claim in claims:
        at_most = f"at most {percent(Fraction(claim['risk']), up=True)}"
        bound = "vacuous: it says nothing" if claim["vacuous"] else at_most
        lines.append(f"  {name:<10} risk {bound}, with confidence 1 - {claim['delta']}")
    return lines


def finish_posterior(run: PacBayes, state: RunState, files: RunFolder) -> PacBayesResult:
    """Choose the posterior of the least estimated bound, certify it, and let it be the ``best.pt``."""
    options, dataset, maximum = run.options, run.dataset, run.dataset.maximum
    scales = given(options.prior_scale)
    finished = [run.new_network(scale) for scale in scales]
    for network, weights in zip(finished, run.candidates, strict=True):
        network.load_state_dict(weights)
    estimates = [_estimated_bound(run, network) for network in finished] if len(finished) > 1 else [0.0]
    chosen = estimates.index(min(estimates))
    if len(finished) > 1 and not files.ended_before:
        found = "; ".join(f"{scale}: about {bound:.4f}" for scale, bound in zip(scales, estimates, strict=True))
        files.emit(Text(state.step, "certificate/candidates", f"bound by prior scale: {found}"))
    begun = time.perf_counter()
    certificate = certify_posterior(
        finished[chosen],
        dataset,
        prior_scale=scales[chosen],
        prior_examples=given(options.prior_examples),
        split_seed=options.seed,
        candidates=given(options.candidates),
        adaptive=options.adaptive,
        draws=options.draws,
        deltas=options.delta,
    )
    path, document = write_certificate(certificate, files.folder), certificate.document
    beside = document.get("holdout")
    certifying = time.perf_counter() - begun
    content = {name: value for name, value in files.generations.last.items() if name != "training"}
    architecture = {**content["architecture"], "prior_scale": scales[chosen]}
    files.generations.stage_best({**content, "model": run.candidates[chosen], "architecture": architecture})
    test_risk = float(_risk(finished[chosen], dataset.test, maximum, f"test {options.seed}"))
    if not files.ended_before:
        files.emit(Text(state.step, "certificate/statement", "\n\n".join(document["statement"])))
        for kind, claims in (("pac_bayes_kl", document["claims"]), ("holdout", beside["claims"] if beside else [])):
            for claim in claims:
                name = f"certificate/{kind}_risk_{claim['delta'].replace('/', '_in_')}"
                files.emit(Figure(state.step, name, float(claim["risk"])))
        files.emit(Figure(state.step, "test/risk", test_risk))
    of_chosen = [i for i, stage in enumerate(run.stages) if stage.prior_scale == scales[chosen]]
    seconds = {run.stages[i].name: run.seconds[i] for i in of_chosen} | {"certificate": certifying}
    if len(finished) > 1:
        seconds["other priors"] = sum(run.seconds) - sum(run.seconds[i] for i in of_chosen)
    counts = document["counts"]
    return PacBayesResult({
        "dataset": dataset.name,
        "data_origin": dataset.origin.value,
        "prior": options.prior,
        "prior_scale": scales[chosen],
        "candidates": document["prior"]["candidates"],
        "adaptive": document["prior"]["adaptive"],
        "sizes": document["decoder"]["sizes"],
        "examples": counts["examples"],
        "draws": counts["draws"],
        "draw_errors": counts["errors"],
        "divergence": document["divergence"],
        "claims": document["claims"],
        "holdout": beside and {name: beside[name] for name in ("errors", "claims")},
        "total_delta": str(certificate.total_delta),
        "test_risk": test_risk,
        "test_looks": 1,
        "checks": state.checks.to_dict(),
        "epochs": [run.epochs[i] for i in of_chosen],
        "steps": state.step,
        "seconds": seconds,
        "certificate": str(path),
    })  # fmt: skip


def _estimated_bound(run: PacBayes, network: GaussianMLP) -> float:
    """About the bound that would be certified, by other draws than the certificate's."""
    risk = _risk(network, run.bound_part, run.dataset.maximum, f"estimate {run.options.seed}")
    divergence = max(Fraction(float(network.divergence())), Fraction(0))
    return float(pac_bayes_risk(risk, len(run.bound_part), divergence, run.options.delta[0], digits=6))


def _risk(network: GaussianMLP, split: Split, maximum: int, key: str) -> Fraction:
    """Measured: the share of errors in ``ESTIMATE_DRAWS`` draws on a split."""
    images, labels = split.images.cpu().numpy(), split.labels.cpu().numpy()
    wrong = draw_outcomes(layers_of(network), images, labels, maximum, key.encode(), ESTIMATE_DRAWS)
    return Fraction(int(np.count_nonzero(wrong)), ESTIMATE_DRAWS)
