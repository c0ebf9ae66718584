"""Making a PAC-Bayes certificate: draw, bound, and write the document with the raw files that its checker reads.

The divergence, the draws and the bounds are computed here by other means than the checker's; of the checker only the
fixed texts are quoted.

Shapes: ``N`` draws, ``D`` input features, ``H`` units, ``P`` parameters of one network.
"""

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import flint
import numpy as np
import numpy.typing as npt
from torch import Tensor

from lean_mnist.data.datasets import Dataset, Split
from lean_mnist.data.splits import cut
from lean_mnist.errors import CertificateError
from lean_mnist.generalization import checker
from lean_mnist.generalization.bounds import pac_bayes_risk, upper_risk
from lean_mnist.generalization.certificates.counting import Array, Labels, Pixels, count_errors
from lean_mnist.generalization.certificates.document import (
    Certificate,
    claim_fields,
    claim_sentence,
    file_entry,
    network_name,
    risk_text,
    sha256,
    split_data,
    with_hash,
    written,
)
from lean_mnist.generalization.confidence import candidate_courses, claimed_deltas
from lean_mnist.generalization.exact import Exact, ball, decide, decimal_text, exact, least
from lean_mnist.generalization.pacbayes.posterior import GaussianMLP

Stored = npt.NDArray[np.float32]
Layer = tuple[Array, Array, Array, Array]  # μ (H, D), σ (H, D), β (H,), τ (H,)

DIGITS = 6  # after the point, of a divergence in nats
MARGIN = 2.0**-20
_FOUND = ("classes", "duplicates", "occurring")  # of the data, but not of what the draws' key is the hash of
_EXPONENT, _CHUNK = 149, 1000  # every float32 is a whole number times 2^-149


def certify_posterior(
    network: GaussianMLP,
    dataset: Dataset,
    *,
    prior_scale: Exact,
    prior_examples: int,
    split_seed: int,
    candidates: int,
    adaptive: bool = False,
    draws: int,
    deltas: Sequence[Exact],
) -> Certificate:
    """The PAC-Bayes certificate of a Gaussian over networks by the training examples that its prior did not see.

    Args: ``prior_scale`` σ₀, exact; ``prior_examples`` and ``split_seed`` as in ``data.splits.cut``, 0 for a data-free
    prior; ``candidates`` how many priors the one was chosen among with any regard to the bound's examples,
    ``adaptive`` whether some were tried because of what others showed; ``draws`` N; ``deltas`` failure probabilities,
    each of them for its own claim, the estimate's share included. Beside a learnt prior stands what its mean network
    alone is certified by as a holdout. Raises ``CertificateError`` or ``BoundError``.
    """
    scale = exact(prior_scale, "prior-scale")
    courses = candidate_courses(candidates, adaptive)
    if draws < 1:
        raise CertificateError(f"draws: expected at least 1, found {draws}")
    _, part = cut(dataset.train, prior_examples, split_seed)
    flat = {name: np.concatenate([tensor.ravel() for tensor in group]) for name, group in _stored(network).items()}
    content = {name: numbers.astype("<f4").tobytes() for name, numbers in flat.items()}
    files = {name: file_entry(f"certificate.{name}", raw) for name, raw in content.items()}
    kind = "data-free" if prior_examples == 0 else "learnt"
    data = split_data(dataset, "train", network.sizes[-1], {"prior_examples": prior_examples, "seed": split_seed})
    decoder = {"sizes": list(network.sizes), "maximum": dataset.maximum}
    prior = {"kind": kind, "scale": str(scale), "candidates": candidates, "adaptive": adaptive}
    drawn_from = {name: value for name, value in data.fields.items() if name not in _FOUND}
    fixed = {"decoder": decoder, "prior": prior, "data": drawn_from}
    hashes = {name: entry["sha256"] for name, entry in files.items()}
    key = bytes.fromhex(sha256(written({**fixed, "files": hashes, "draws": draws})))
    images, labels = part.images.cpu().numpy(), part.labels.cpu().numpy()
    wrong = draw_outcomes(layers_of(network), images, labels, dataset.maximum, key, draws)
    # One bit a draw, 1 for an error, the first draw in the highest bit of the first byte; filled up with zeros.
    errors, outcomes = int(wrong.sum()), np.packbits(wrong).tobytes()
    content["outcomes"], files["outcomes"] = outcomes, file_entry("certificate.outcomes", outcomes)
    divergence, m = divergence_above(flat["mean"], flat["scale"], flat["prior_mean"], scale), len(part)
    network_words = f"{network_name(network.sizes)} network"
    pairs = f"pairs of a network and an example, the {network_words} whose weights are drawn anew for every image"
    claims, statement = [], list(data.opening)
    for delta in claimed_deltas(deltas):
        of_draws = delta * checker.MONTE_CARLO
        share = (delta - of_draws) / courses
        of_draws /= candidates if adaptive else 1
        empirical = upper_risk("clopper-pearson", errors, draws, of_draws)  # Langford and Caruana 2001
        risk = pac_bayes_risk(empirical, m, divergence, share)
        fields = {"delta": str(delta), "empirical_risk": risk_text(empirical), **claim_fields(risk)}
        claims.append({**fields, "share": str(share), "share_monte_carlo": str(of_draws)})
        about = f"these {m:,} examples and of {draws:,} {pairs}"
        statement.append(claim_sentence(risk, delta, "the PAC-Bayes bound", about, data))
    beside: dict[str, Any] = {}
    if kind == "learnt":
        wrong_ones, of_prior = mean_network_errors(network.prior_means, part, dataset.maximum), []
        alone = f"the prior's mean network alone, one {network_words} for all images, run in float64,"
        for delta in claimed_deltas(deltas):
            risk = upper_risk("clopper-pearson", wrong_ones, m, delta / courses)
            of_prior.append({"delta": str(delta), **claim_fields(risk), "share": str(delta / courses)})
            about = f"the same {m:,} examples, {alone}"
            statement.append(claim_sentence(risk, delta, "the holdout's bound", about, data))
        counted = {"specification": checker.PRIOR_NETWORK, "errors": wrong_ones, "claims": of_prior}
        beside = {"holdout": counted}
    assumed = [checker.PRIORS[kind], checker.CANDIDATES[adaptive], *data.assumptions]
    document = {
        "schema": checker.PAC_BAYES,
        "version": data.version,
        "statement": statement,
        "claims": claims,
        "theorem": checker.PAC_THEOREM,
        "assumptions": [*checker.PAC_ASSUMPTIONS, *assumed],
        "checked": checker.PAC_CHECKED,
        "counts": {"examples": m, "draws": draws, "errors": errors},
        "divergence": decimal_text(divergence, DIGITS, up=True),
        "prior": prior,
        **beside,
        "decoder": with_hash({"specification": checker.PAC_DECODER, **decoder}),
        "draws": {"specification": checker.DRAWS, "key": key.hex()},
        "files": files,
        "parameters": len(flat["mean"]),
        "data": data.fields,
    }
    raw_files = {files[name]["file"]: raw for name, raw in content.items()}
    return Certificate(with_hash(document, "content_sha256"), {**raw_files, **data.beside})


def mean_network_errors(means: Sequence[Tensor], part: Split, maximum: int) -> int:
    """Errors of the network with these weights and biases on ``part``, in float64's worst case.

    Of a prior's means on examples that the prior did not see, that is a holdout.
    """
    numbers = [tensor.detach().cpu().double().numpy() for tensor in means]
    layers = list(zip(numbers[::2], numbers[1::2], strict=True))
    images, labels, scaling = part.images.cpu().numpy(), part.labels.cpu().numpy(), ("unit", 0.0, float(maximum))
    return count_errors(layers, "relu", scaling, images, labels, float(Fraction(checker.UNITS["float64"])))


def layers_of(network: GaussianMLP) -> list[Layer]:
    """Mean and deviation of weights and biases, layer by layer, float64: of the float32 numbers that are stored."""
    stored = _stored(network)
    means, scales = ([tensor.astype(np.float64) for tensor in stored[name]] for name in ("mean", "scale"))
    return list(zip(means[::2], scales[::2], means[1::2], scales[1::2], strict=True))


def _stored(network: GaussianMLP) -> dict[str, list[Stored]]:
    """Means, deviations and the prior's means, as they are stored."""
    deviations = [log_scale.exp() for log_scale in network.log_scales]
    groups: list[Sequence[Tensor]] = [network.means, deviations, network.prior_means]
    numbers = ([tensor.detach().cpu().float().numpy() for tensor in group] for group in groups)
    return dict(zip(("mean", "scale", "prior_mean"), numbers, strict=True))


def divergence_above(means: Stored, scales: Stored, prior_means: Stored, prior_scale: Fraction) -> Fraction:
    """The least decimal of ``DIGITS`` digits that is at least KL(posterior ‖ prior), of shapes (P,) and σ₀ > 0::

        KL = ½ (Σ σ_i²/σ₀² − P + Σ (μ_i − μ₀_i)²/σ₀²) − Σ ln σ_i + P ln σ₀

    Every stored number is a binary fraction, so both sums of squares are exact, and the sum of logarithms is that of a
    product, of which a thousand factors at a time are multiplied exactly. Raises ``CertificateError`` for numbers that
    are not finite, and scales that are not above 0.
    """
    for name, values in (("mean", means), ("scale", scales), ("prior mean", prior_means)):
        if not np.isfinite(values).all() or (name == "scale" and not (values > 0).all()):
            raise CertificateError(f"{name}: holds infinities, NaN or a scale that is not above 0")
    count = len(scales)
    squares = sum(s * s for s in _whole(scales))
    squares += sum((a - b) ** 2 for a, b in zip(_whole(means), _whole(prior_means), strict=True))
    half = (Fraction(squares, 4**_EXPONENT) / prior_scale**2 - count) / 2
    mantissas, exponents = np.frexp(scales.astype(np.float64))
    factors, twos = np.ldexp(mantissas, 24).astype(np.int64).tolist(), int(exponents.sum()) - 24 * count
    products = [math.prod(factors[start : start + _CHUNK]) for start in range(0, count, _CHUNK)]

    def divergence() -> flint.arb:
        """An enclosure of the divergence."""
        logs = sum((ball(product).log() for product in products), flint.arb(0))
        return ball(half) - logs - twos * ball(2).log() + count * ball(prior_scale).log()

    def covers(n: int) -> bool:
        """Decide if n units are enough; where no bits tell they are equal, as posterior and prior are one."""
        return decide(lambda: ball(Fraction(n, 10**DIGITS)) - divergence()) is not False

    with flint.ctx.workprec(96):
        start = int((divergence() * 10**DIGITS).floor().unique_fmpz() or 0)
    return Fraction(least(covers, start, 0, None), 10**DIGITS)


def _whole(values: Stored) -> list[int]:
    return [int(value) for value in np.ldexp(values.astype(np.float64), _EXPONENT).tolist()]


def draw_outcomes(
    layers: Sequence[Layer], images: Pixels, labels: Labels, maximum: int, key: bytes, draws: int
) -> npt.NDArray[np.bool_]:
    """The draws that are errors, bool (N,); images uint8 (m, rows, columns), features ``pixel / maximum``.

    Every draw takes an example at random and draws the weights anew for it. A layer's pre-activations, given its
    inputs, are then independent Gaussians, ``z_j ~ N(Σ μ_ji h_i + β_j, Σ σ_ji² h_i² + τ_j²)`` with biases of mean β and
    deviation τ, because no weight is used twice: drawing them is drawing the weights, exactly, at the price of two
    products a layer (Kingma, Salimans and Welling, 2015, train this way). The draws are independent, so their errors
    are binomial. The random numbers are not chosen: draw i reads the output of SHAKE-128 on a key and i, and the key is
    the hash of what is certified; ``checker.DRAWS`` is the specification.
    """
    pixels = images.reshape(len(images), -1)
    variances = [(mean.T.copy(), np.square(scale).T.copy(), bias, np.square(own)) for mean, scale, bias, own in layers]
    units = [len(bias) for _, _, bias, _ in layers]
    wrong = np.empty(draws, dtype=bool)
    for start in range(0, draws, _CHUNK):
        numbers = range(start, min(start + _CHUNK, draws))
        examples, noise = random_numbers(key, numbers, len(images), sum(units))
        h, at = pixels[examples] / maximum, 0
        for mean_DH, variance_DH, bias, own in variances:
            z = h @ mean_DH + bias
            z += np.sqrt(np.square(h) @ variance_DH + own) * noise[:, at : at + len(bias)]
            h, at = np.maximum(z, 0), at + len(bias)
        rows, chosen = np.arange(len(z)), labels[examples]
        own_logit = z[rows, chosen].copy()
        z[rows, chosen] = -np.inf
        wrong[numbers.start : numbers.stop] = ~(own_logit - z.max(1) > MARGIN)
    return wrong


def random_numbers(key: bytes, numbers: range, examples: int, units: int) -> tuple[Labels, Array]:
    """For each of these draws an example's index, int64 (N,), and ``units`` standard normal numbers, float64."""
    words = 1 + units + units % 2
    raw = b"".join(hashlib.shake_128(key + number.to_bytes(8, "big")).digest(8 * words) for number in numbers)
    streams = np.frombuffer(raw, "<u8").reshape(len(numbers), words)
    chosen = np.array([int(word) * examples >> 64 for word in streams[:, 0]], np.int64)
    radius = np.sqrt(-2 * np.log(((streams[:, 1::2] >> np.uint64(11)) + 0.5) * 2.0**-53))
    angle = (streams[:, 2::2] >> np.uint64(11)) * (2 * np.pi * 2.0**-53)
    noise = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2).reshape(len(numbers), -1)
    return chosen, noise[:, :units]
