"""Making a PAC-Bayes certificate: draw, bound, and write the document with the raw files that its checker reads.

The divergence, the draws and the bounds are computed here by other means than the checker's; of the checker only the
fixed texts are quoted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lean_mnist.errors import CertificateError
from lean_mnist.generalization import checker
from lean_mnist.generalization.bounds import checked_delta, pac_bayes_risk, upper_risk
from lean_mnist.generalization.certificates.document import (
    Certificate,
    file_entry,
    network_name,
    risk_text,
    sha256,
    split_data,
    with_hash,
    written,
)
from lean_mnist.generalization.exact import Exact, decimal_text, exact, percent
from lean_mnist.generalization.pacbayes.divergence import DIGITS, divergence_above
from lean_mnist.generalization.pacbayes.draws import Layer, draw_outcomes
from lean_mnist.generalization.pacbayes.parts import cut

if TYPE_CHECKING:
    from lean_mnist.data.datasets import Dataset
    from lean_mnist.generalization.pacbayes.posterior import GaussianMLP


def certify_posterior(
    network: GaussianMLP,
    dataset: Dataset,
    *,
    prior_scale: Exact,
    prior_examples: int,
    split_seed: int,
    candidates: int,
    draws: int,
    deltas: Sequence[Exact],
) -> Certificate:
    """The PAC-Bayes certificate of a Gaussian over networks by the training examples that its prior did not see.

    Args: ``prior_scale`` σ₀, exact; ``prior_examples`` and ``split_seed`` as in :func:`~.parts.cut`, 0 for a data-free
    prior; ``candidates`` how many priors the one was chosen among with any regard to the bound's examples; ``draws`` N;
    ``deltas`` failure probabilities, each of them for its own claim, the estimate's share included.
    Raises ``CertificateError`` or ``BoundError``.
    """
    scale = exact(prior_scale, "prior-scale")
    if candidates < 1 or draws < 1:
        raise CertificateError(f"candidates, draws: expected at least 1 of each, found {candidates} and {draws}")
    _, part = cut(dataset.train, prior_examples, split_seed)
    flat = {name: np.concatenate([tensor.ravel() for tensor in group]) for name, group in _stored(network).items()}
    content = {name: numbers.astype("<f4").tobytes() for name, numbers in flat.items()}
    files = {name: file_entry(f"certificate.{name}", raw) for name, raw in content.items()}
    kind = "data-free" if prior_examples == 0 else "learnt"
    data, beside = split_data(dataset, "train")
    decoder = {"sizes": list(network.sizes), "maximum": dataset.maximum}
    prior = {"kind": kind, "scale": str(scale), "candidates": candidates}
    data["part"] = {"prior_examples": prior_examples, "seed": split_seed}
    fixed = {"decoder": decoder, "prior": prior, "data": data}
    hashes = {name: entry["sha256"] for name, entry in files.items()}
    key = bytes.fromhex(sha256(written({**fixed, "files": hashes, "draws": draws})))
    images, labels = part.images.cpu().numpy(), part.labels.cpu().numpy()
    wrong = draw_outcomes(layers_of(network), images, labels, dataset.maximum, key, draws)
    # One bit a draw, 1 for an error, the first draw in the highest bit of the first byte; filled up with zeros.
    errors, outcomes = int(wrong.sum()), np.packbits(wrong).tobytes()
    content["outcomes"], files["outcomes"] = outcomes, file_entry("certificate.outcomes", outcomes)
    divergence, m = divergence_above(flat["mean"], flat["scale"], flat["prior_mean"], scale), len(part)
    claims, statement = [], []
    for delta in map(checked_delta, deltas):
        of_draws = delta * checker.MONTE_CARLO
        share = (delta - of_draws) / candidates
        empirical = upper_risk("clopper-pearson", errors, draws, of_draws)  # Langford and Caruana 2001
        risk = pac_bayes_risk(empirical, m, divergence, share)
        claims.append(
            {
                "delta": str(delta),
                "empirical_risk": risk_text(empirical),
                "risk": risk_text(risk),
                "vacuous": risk == 1,
                "accuracy": risk_text(1 - risk),
                "share": str(share),
                "share_monte_carlo": str(of_draws),
            }
        )
        statement.append(
            f"At delta = {delta} the PAC-Bayes bound is vacuous: it says nothing about unseen data."
            if risk == 1
            else f"With confidence 1 - {delta} over the drawing of these {m:,} examples and of {draws:,} pairs of a "
            f"network and an example, the {network_name(network.sizes)} network whose weights are drawn anew for every "
            f"image misreads at most {percent(risk, up=True)} of all images drawn like them ({dataset.name})."
        )
    document = {
        "schema": checker.PAC_BAYES,
        "version": checker.VERSION,
        "statement": statement,
        "claims": claims,
        "theorem": checker.PAC_THEOREM,
        "assumptions": [*checker.PAC_ASSUMPTIONS, checker.PRIORS[kind]],
        "checked": checker.PAC_CHECKED,
        "counts": {"examples": m, "draws": draws, "errors": errors},
        "divergence": decimal_text(divergence, DIGITS, up=True),
        "prior": prior,
        "decoder": with_hash({"specification": checker.PAC_DECODER, **decoder}),
        "draws": {"specification": checker.DRAWS, "key": key.hex()},
        "files": files,
        "parameters": len(flat["mean"]),
        "data": {**data, "classes": network.sizes[-1]},
    }
    raw_files = {files[name]["file"]: raw for name, raw in content.items()}
    return Certificate(with_hash(document, "content_sha256"), {**raw_files, **beside})


def layers_of(network: GaussianMLP) -> list[Layer]:
    """Mean and deviation of weights and biases, layer by layer, float64: of the float32 numbers that are stored."""
    stored = _stored(network)
    means, scales = ([tensor.astype(np.float64) for tensor in stored[name]] for name in ("mean", "scale"))
    return list(zip(means[::2], scales[::2], means[1::2], scales[1::2], strict=True))


def _stored(network: GaussianMLP) -> dict[str, list[npt.NDArray[np.float32]]]:
    """Means, deviations and the prior's means, as they are stored."""
    deviations = [log_scale.exp() for log_scale in network.log_scales]
    groups: list[Sequence[Tensor]] = [network.means, deviations, network.prior_means]
    numbers = ([tensor.detach().cpu().float().numpy() for tensor in group] for group in groups)
    return dict(zip(("mean", "scale", "prior_mean"), numbers, strict=True))
