"""The independent checker of certificates: ``python checker.py CERTIFICATE``. Standard library only, in this one file.

It trusts nothing that the certificate says. It reads the raw weights and the raw examples, compares their SHA-256,
counts the errors again, decides every bound again in integers, writes every sentence and derived number again, and
rejects the certificate, naming the field, if one character differs. It shares no arithmetic with what made it.

A certificate is of one of three kinds, named by its ``schema``: of a network by a test split (``HOLDOUT``), of a
quantised network by the examples it was learned from (``CODE``), of a Gaussian over networks by the same
(``PAC_BAYES``). For each there is a form (which fields there are and what may stand in them), a function that derives
what follows from the other fields, and a function that counts and bounds again from the raw files; ``KINDS`` lists
them. Everything fails closed: what cannot be shown to be right is rejected, and so is NaN wherever a float decides.

Data are official where images and labels have the SHA-256 of that split of that data set (``OFFICIAL``): such a
certificate has version 1. Of any other data it has version 2, whose statement begins by saying that nobody vouches for
them, how many images are there twice and how many classes occur. What a certificate announces is bounded before a file
is opened: sizes of files, lengths of lists, and work (``announced_work``).

How errors are counted. Weights and activations become integers over a power of two; all units of a layer stand in one
long integer, 64 or 128 bits a unit, so that one multiplication serves them all and every sum is exact. Around each unit
goes a bound on what rounding can do to it, in any evaluation that the certificate speaks of (``DECODER`` says which):

    e'_j = |w_j| E + g (|w_j| (N + E) + |b_j|) + 2^-149 (√n (N + E) + n + 1),   g = (n + 3)u / (1 - (n + 3)u),

and around the vector of activations ``E' = min(|s|, L √‖W Wᵀ‖_∞ E + |min(s, L f + r)|)``, with s a unit's bound through
the activation, L its slope, r its rounding (2^-149 in it where 0.01 z may underflow), and f all of e' but its first
term (after the first layer, ``E' = |s|``). Here ``u = 2^-24`` for float32, ``|w_j|`` is the Euclidean norm of the
unit's n weights, ``N`` that of its inputs and ``E`` that of the bounds on their errors (Higham, Accuracy and Stability
of Numerical Algorithms, 2nd ed., section 3.1, and the inequality of Cauchy and Schwarz). An example is right if its
label's logit minus its bound exceeds every other plus its own. Where 64 bits a unit leave a doubt, 128 decide.

What these norms leave open is bounded again by components (``Network.traced``), unless the certificate is of an earlier
release. With h the exact activations, s bounds on their errors and k the number of those that may not be 0 (adding
zeros rounds nothing), a unit's own sum, in any order, is off by at most

    f_j = u (k + 3 + 2 k g) (|w_j|·(|h| + s) + |b_j| + |z_j| + |w_j|·s) / 2 + 2^-149 (√n (N + E) + n + 1),

where ``|w_j|`` are the weights' absolute values and ``g = (k + 1)u / (1 - (k + 1)u)``: each of k additions errs by u
times a partial sum of the products, whose size is at most the sum of the positive or of the negative ones, and the
larger of these is half of the absolute values' sum plus half of the sum's size. So ``e_j = |w_j|·s + f_j``. From the
difference of two logits its gradient v goes back through the units that are on, or off, whatever rounding does, and the
error of the difference is at most the sum of all ``|v_j| f_j``. Through a unit that rounding could switch it does not
go: that unit adds ``|v_j| s_j``, with v before the activation. What the checker's own rounding can do is added.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import stat
import struct
import sys
import time
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import cached_property, partial
from itertools import pairwise
from multiprocessing import get_context
from operator import mul
from typing import Any, BinaryIO, NamedTuple

Fields = dict[str, Any]
Numbers = Sequence[float]
Floats = list[float]
Rows = Sequence[Numbers]
Layers = Sequence[tuple[Rows, Numbers]]  # of each layer its rows of weights, and its biases

HOLDOUT = "lean_mnist certificate"
CODE = "lean_mnist code-length certificate"
PAC_BAYES = "lean_mnist PAC-Bayes certificate"
VERSION, UNVOUCHED_VERSION = 1, 2  # of official data, and of any other
DIGITS = 12  # of every bound
ONE = 10**DIGITS
SMOOTH_ACTIVATIONS: dict[str, tuple[Callable[[float], float], float]] = {  # with a slope that is nowhere exceeded
    "sigmoid": (lambda v: 1 / (1 + math.exp(-v)) if v > -700 else 0.0, 0.25),
    "tanh": (math.tanh, 1.0),
    "gelu": (lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2, 1.13),
    "silu": (lambda v: v / (1 + math.exp(-v)) if v > -700 else 0.0, 1.1),
}
ACTIVATIONS = ("relu", "leaky-relu", "identity", *SMOOTH_ACTIVATIONS)
DTYPES = {"float16": ("e", 2), "float32": ("f", 4), "float64": ("d", 8)}
UNITS = {"float32": "1/16777216", "float64": "1/68719476736"}  # 2^-24; 2^-36, which is far above float64's 2^-53
ARITHMETICS = {  # by the unit: what a count holds for
    UNITS["float32"]: "float32 or finer, in any order of summation",
    UNITS["float64"]: "float64, in any order of summation (in float32 it may misread more)",
}
CODES = ("fixed", "enumerative")
PAC_FILES = ("mean", "scale", "prior_mean", "outcomes")
MONTE_CARLO = Fraction(2, 7)  # of delta: what the estimate of the empirical risk pays; the bound pays the rest
KL_DIGITS = 6
POWER = 0.99  # with which as many outcomes of a PAC-Bayes certificate as are drawn again find a forgery that matters
FOLDERS = ("", "MNIST/raw", "FashionMNIST/raw", "KMNIST/raw")
OFFICIAL = {  # SHA-256 of images and labels as IDX files, unpacked; of digits, as certificates write them
    ("mnist", "train"): (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    ("mnist", "test"): (
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    ("digits", "train"): (
        "5553194a2c3035ccdbcca666c6d57d689bcd30eb1008d89df7d2a420f3f99aca",
        "758ea24dda58850b7a23dc99bf34b7d9eb0e6b680563fbe5406b73b826d71243",
    ),
    ("digits", "test"): (
        "47b60a4cc7331c65fcc4f43274e67ae4228677489b5d49413fc3f0036656cfd6",
        "34128b0eac0fff7f74f52eea4c879f532d754c733fdf8ef29f74075e51a5611f",
    ),
}
OFFICIAL_CLASSES = 10
LARGEST = 1 << 28  # bytes of a raw file, unpacked
LARGEST_CERTIFICATE, MOST_VALUES = 10_000_000, 250_000
MOST_CODES = 1_500_000  # weights of a quantised network
MOST_WORK = 5 * 10**11  # steps, about a nanosecond each, unless told otherwise


class Rejected(ValueError):
    """The certificate does not hold; the message begins with the field."""


# The fixed texts. A certificate quotes them to the letter, so that it says neither more nor less than what is checked
# below; whether they are true of what is checked is for the reader to judge.


def _text(words: str) -> str:
    """The words with single spaces between them, however they are broken into lines here."""
    return " ".join(words.split())


FORMER_DECODER = _text("""Features are (pixel - mean) / scale, pixels row by row; with per-image normalisation mean
and scale are each image's own mean and population standard deviation, and an image of one colour gives zeros. Each
layer is z = W h + b; the activation stands between layers (leaky-relu's slope is float64's 0.01, gelu is the exact
one); the class is that of the largest logit. An example counts as correct only if its label's logit is the largest, by
more than rounding can change, in exact arithmetic and in every evaluation whose operations have a relative error of at
most the unit below, in any order of summation, with or without fused multiply-add. Float32 has 1/16777216 if neither
TF32 nor flushing to zero is on; float64 has less than 1/68719476736. Every other example counts as an error, also one
whose outcome rounding could change.""")
DECODER = FORMER_DECODER.replace("multiply-add.", "multiply-add; adding zero changes nothing.", 1)
IID = _text("""The examples of this split and the images that the claim is about were drawn independently from one
distribution (i.i.d.). Nothing is claimed about images from elsewhere: other writers, scanners, or preparation.""")
HASHES = _text("""SHA-256 has no collisions, and Python computes as its manual says (whole numbers exactly, floats
as IEEE 754).""")
ASSUMPTIONS = (
    IID,
    _text("""This split was looked at as often as the history says and not oftener; a look is any evaluation on it whose
result somebody or something could act on. Nothing else of it influenced the weights."""),
    HASHES,
)
SMOOTH = _text("""The functions exp, tanh and erf, here and where the network is run, are within 16 units of rounding,
counted against 1 + |z|.""")
SELECTED_BY = "a validation split, cut from the training examples"
SELECTED_ELSEWHERE = "whoever made the network elsewhere; that it was none of this split is taken on trust"
CLUSTERS = _text("""That they are independent is not tested here. Images by one writer are alike; where several stand in
a split, errors come in clusters, and the claim is surer of itself than it should be.""")
ADAPTIVE = "Of what each look showed, nothing but its number of errors influenced what was made or looked at next."
NOT_ADAPTIVE = "No network that was looked at was made, chosen or changed because of what an earlier look showed."
DEVELOPERS = _text("""{looks} of the looks are those that the developers of the preset {preset} took at this split while
they made its recipe; they are paid for as all others.""")
THEOREMS = {
    "clopper-pearson": {
        "formula": "p > k/m and P[Binomial(m, p) <= k] <= share confirm that the risk is at most p",
        "source": "Clopper and Pearson, Biometrika 26 (1934); the test set bound of Langford, JMLR 6 (2005)",
    },
    "kl": {
        "formula": "p >= k/m and m kl(k/m || p) >= ln(1/share) confirm that the risk is at most p",
        "source": "Chernoff, Ann. Math. Statist. 23 (1952); with relative entropy in Langford, JMLR 6 (2005)",
    },
    "hoeffding": {
        "formula": "p >= k/m and 2 m (p - k/m)^2 >= ln(1/share) confirm that the risk is at most p",
        "source": "Hoeffding, JASA 58 (1963), theorem 1",
    },
}

UNVOUCHED = _text("""The examples were not made, picked, labelled or repeated with any regard to the network, and are
what their name says: nobody vouches for it.""")

CODE_DECODER = _text("""Features are pixel / denominator, pixels row by row. A weight is shift + scale * value(code),
with shift and scale float16, one pair a layer; the value of a code is the code (encoding integer) or the float16 whose
bits it is (float16). Biases are float16. Layers are z = W h + b with ReLU between them, in exact arithmetic; the class
is the smallest index of a largest logit.""")
CODE_SPECIFICATIONS = {
    "fixed": _text("""Layer by layer: shift and scale (16 bits each), the codes row by row (as many bits each as the
network has), the biases (16 bits each)."""),
    "enumerative": _text("""As the fixed code, but the n codes of a layer are written as how often each of the K symbols
occurs, in ceil(log2 C(n + K - 1, K - 1)) bits, and which of the sequences with these counts they are, in
ceil(log2 (n! / prod n_k!)) bits."""),
}
CODE_THEOREMS = {
    "fixed": "union over a finite space of 2^length networks",
    "enumerative": "union over a prefix code (Blumer et al., Information Processing Letters 24, 1987)",
}
CODE_SHARES = {  # by whether candidates were tried because of what earlier ones showed
    False: "delta / candidates * 2^-length",
    True: "delta * 10000 / (10001^candidates - 1) * 2^-length",
}
CODE_ASSUMPTIONS = (
    IID,
    _text("""The space (sizes, bits, biases, encoding, denominator) and the code were fixed before these examples were
seen, or chosen among as many as candidates says, which pay for it. The weights may depend on the examples in any way.
"""),
    HASHES,
)

ANSWERS = 10_001  # certified risks in per cent with two decimals
CANDIDATES = {
    False: "No candidate was made or changed because of what an earlier one showed of these examples.",
    True: _text("""Of what each candidate showed of these examples, nothing but its certified risk at one delta, in per
cent with two decimals, influenced which one was tried next: the sum of 10001^i over i < candidates pays for that."""),
}

PAC_DECODER = _text("""Features are pixel / maximum, pixels row by row. For every image all weights and biases are drawn
anew, each from its own Gaussian with the stored mean and standard deviation (scale), independently. Layers are
z = W h + b with ReLU between them; the class is that of the largest logit. The prior is the Gaussian with the means
prior_mean and one standard deviation for all. Files hold float32, little-endian: weight (row by row) and bias of each
layer.""")
DRAWS = _text("""Draw i reads SHAKE-128(key, i as 8 bytes, big-endian) as 64-bit words, little-endian. With the first
word x it takes the example number floor(x m / 2^64) of the m that the bound is evaluated on. Of the words after it each
pair (a, b) gives two standard normal numbers r cos(t), r sin(t), with r = sqrt(-2 ln((floor(a / 2^11) + 1/2) / 2^53))
and t = 2 pi floor(b / 2^11) / 2^53: one a unit, layer by layer. Since no weight is used twice, z_j is Gaussian given h,
so that z_j = sum mean_ji h_i + mean_j + noise_j sqrt(sum scale_ji^2 h_i^2 + scale_j^2), in float64. The draw is an
error unless its label's logit exceeds every other by more than 2^-20. The outcomes are one bit a draw, 1 for an error,
the first in the highest bit of the first byte.""")
PAC_THEOREM = {
    "formula": _text("""p >= q and m kl(q || p) >= KL + ln(2 sqrt(m) / share) confirm that the risk is at most p, where
q bounds the empirical risk of the posterior: the least q with P[Binomial(draws, q) <= errors] <= share_monte_carlo"""),
    "source": _text("""Seeger, JMLR 3 (2002); Maurer, arXiv:cs/0411099 (2004); the estimate as in Langford and Caruana,
NIPS (2001)"""),
}
PAC_ASSUMPTIONS = (
    _text("""The examples that the bound is evaluated on and the images that the claim is about were drawn independently
from one distribution (i.i.d.). Nothing is claimed about images from elsewhere: other writers, scanners, preparation.
"""),
    _text("""The prior was fixed without these examples, or chosen among as many as candidates says, which pay for it.
The posterior may depend on them in any way."""),
    _text("""SHA-256 has no collisions, SHAKE-128 gives numbers as good as random ones, and Python computes as its
manual says (whole numbers exactly, floats as IEEE 754); math.log, sin and cos are accurate to a few units of rounding.
"""),
)
PRIORS = {
    "learnt": "The prior's means were learned from the examples of the prior's part alone.",
    "data-free": "The prior's means were drawn at random, without any example.",
}
PRIOR_NETWORK = _text("""The holdout: the prior's mean network, with the weights and biases prior_mean for every image,
else as the decoder says. It was fixed before the posterior learned from the examples of the bound, and its errors are
counted on all of these. One is right only if its label's logit is the largest, by more than rounding can change, in
every evaluation whose operations have a relative error of at most 1/68719476736, as those of float64 have, in any order
of summation. p > k/m and P[Binomial(m, p) <= k] <= share confirm that the risk is at most p (Clopper and Pearson).""")
PAC_CHECKED = {
    "derived": _text("""From the files: the divergence KL (exactly, then rounded up), which examples the bound is
evaluated on, the key of the draws, how many outcomes are errors, q and the risk of every claim, every sentence
and hash."""),
    "recounted": _text("""As many outcomes as the check is asked for, which it picks at random: each is drawn again and
has to be as stated. Of outcomes of which a share s is wrong, n redrawn ones find one with probability 1 - (1 - s)^n.
"""),
    "trusted": _text("""The outcomes that were not drawn again; that the prior does not depend on the examples of the
bound; the number of candidates; that no other draws were made and discarded."""),
}


# The form: which fields a certificate has, in which order, and what may stand in each, whatever stands in the others.


def rule(kind: type, words: str, holds: Callable[[Any], bool]) -> Callable[[str, Any], None]:
    """The form of a field with a value of type ``kind`` for which ``holds``; in ``words``, what that is."""

    def check(field: str, value: Any) -> None:
        """Raise ``Rejected``, naming the ``field``, unless its value has this form."""
        try:
            good = type(value) is kind and holds(value)
        except (ValueError, ZeroDivisionError):
            good = False
        if not good:
            found = type(value).__name__ if isinstance(value, (dict, list)) else ascii(str(value)[:80])
            raise Rejected(f"{field}: expected {words}, found {found}")

    return check


def one_of(*allowed: Any, why: str = "") -> Callable[[str, Any], None]:
    """The form of a field with one of these values."""
    words = " or ".join(map(str, allowed)) if len(allowed) < 3 else f"one of {', '.join(map(str, allowed))}"
    return rule(type(allowed[0]), words[:100] + why, lambda value: value in allowed)


def whole(low: int, high: int) -> Callable[[str, Any], None]:
    """The form of a field with a whole number from ``low`` to ``high``."""
    return rule(int, f"a whole number from {low:,} to {high:,}", lambda value: low <= value <= high)


def exact(words: str, holds: Callable[[Fraction], bool]) -> Callable[[str, Any], None]:
    """The form of a field with a rational number, as text such as 7/200."""
    return rule(str, f"{words}, in lowest terms", lambda text: str(rational(text)) == text and holds(rational(text)))


def rational(text: str) -> Fraction:
    """The number that is written; raises ``ValueError`` or ``ZeroDivisionError``."""
    if not (len(text) <= 1000 and set(text) <= set("-0123456789/.")):
        raise ValueError(text)
    return Fraction(text)


def decimal(value: Fraction, digits: int = DIGITS) -> str:
    """``value`` of at least 0 with so many digits after the point, the rest cut off."""
    part = value.numerator * 10**digits // value.denominator
    return f"{part // 10**digits}.{part % 10**digits:0{digits}}"


def _sizes_fit(sizes: list[Any]) -> bool:
    widths = all(type(size) is int and 1 <= size <= 65_000 for size in sizes)
    return widths and 2 <= len(sizes) <= 100 and sizes[0] * sizes[1] <= 10**9


def _is_decimal(text: str, digits: int, most: Fraction | float) -> bool:
    return 0 <= rational(text) <= most and decimal(rational(text), digits) == text


def _is_float64(value: Fraction) -> bool:
    return abs(value) <= 10**6 and value == Fraction(float(value))


def _is_name(name: str) -> bool:
    return 1 <= len(name) <= 100 and name[0] != "." and set(name) <= _NAME_CHARACTERS


_NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_SIZES = rule(list, "two or more numbers from 1 to 65,000", _sizes_fit)
_MANY, _COUNT, _WIDTH, _NUMBER = whole(1, 10**9), whole(1, 500_000), whole(1, 65_000), whole(0, 10**12)
# A thousand bits tell a delta of 250 characters from any tail.
_DELTA = exact("a probability above 0 and below 1/2", lambda v: 0 < v < Fraction(1, 2) and len(str(v)) <= 250)
_RISK = rule(str, f"a decimal from 0 to 1 with {DIGITS} digits", lambda text: _is_decimal(text, DIGITS, 1))
_NATS = rule(str, f"a decimal with {KL_DIGITS} digits", lambda text: _is_decimal(text, KL_DIGITS, math.inf))
_MEAN = exact("a float64 of moderate size, written exactly", _is_float64)
_SCALE = exact("a float64 from 1e-6 to 1e6, written exactly", lambda v: v >= Fraction(1, 10**6) and _is_float64(v))
_PRIOR_SCALE = exact("a number above 0, of moderate size", lambda value: Fraction(1, 10**30) < value < 10**6)
_TEST = one_of("test", why=", the only split that neither teaches nor selects")
_TRAIN = one_of("train", why="; for a test split a holdout certificate says more")

_HEAD: Fields = dict(schema=str, version=int, statement=[str])
_CLAIM: Fields = dict(bound=one_of(*THEOREMS), delta=_DELTA, risk=_RISK, vacuous=bool, accuracy=str, epsilon=str)
_THEOREM = dict(formula=str, source=str)
_PAC_CLAIM: Fields = dict(delta=_DELTA, empirical_risk=_RISK, risk=_RISK, vacuous=bool, accuracy=str)
_PRIOR_CLAIM: Fields = dict(delta=_DELTA, risk=_RISK, vacuous=bool, accuracy=str, share=str)
_COUNTS = dict(examples=_COUNT, errors=whole(0, 10**7), correct=int)
_EVALUATION: Fields = dict(step=_NUMBER, purpose=one_of("track", "final"), errors=_NUMBER)
_DEVELOPERS: Fields = dict(preset=rule(str, "a preset's name", lambda name: _is_name(name)), looks=whole(0, 10**6))
_SELECTED_BY = one_of(SELECTED_BY, SELECTED_ELSEWHERE)
_NOT_USED = dict(learned_from=one_of(False), selected=one_of("nothing"), selected_by=_SELECTED_BY)
_NORMALIZATION = dict(kind=one_of("standard", "unit", "per-image"), mean=_MEAN, scale=_SCALE)
_NETWORK = dict(activation=one_of(*ACTIVATIONS), bias=bool, normalization=_NORMALIZATION, unit=one_of(*UNITS.values()))
_SPACE = dict(bits=whole(1, 16), biases=bool, encoding=one_of("integer", "float16"), denominator=whole(1, 10**6))
_FILE: Fields = dict(file=rule(str, "the name of a file beside the certificate", _is_name), sha256=str)
_DATASET = rule(str, "a name of a-z, 0-9, - and _", lambda name: _is_name(name) and name == name.lower())
_PLACED: Fields = dict(folder=one_of(*FOLDERS), **_FILE)
_IMAGES: Fields = dict(examples=_COUNT, rows=_WIDTH, columns=_WIDTH, images=_PLACED, labels=_PLACED)
_PART = dict(prior_examples=whole(0, 10**7), seed=whole(0, 2**63 - 1))

_HOLDOUT_FORM: Fields = dict(
    **_HEAD,
    claims=[dict(**_CLAIM, share=str, theorem=_THEOREM)],
    assumptions=[str],
    counts=_COUNTS,
    space=dict(chosen_among=str, bits=one_of(0)),
    history=dict(looks=whole(1, 10**6), adaptive=bool, recorded=[_EVALUATION], developers=_DEVELOPERS, **_NOT_USED),
    arithmetic=str,
    decoder=dict(specification=one_of(DECODER), sizes=_SIZES, **_NETWORK, sha256=str),
    weights=dict(
        file=_FILE["file"], dtype=one_of(*DTYPES), sha256=str, tensors=[dict(name=str, shape=[int])], parameters=int
    ),
    data=dict(dataset=_DATASET, split=_TEST, **_IMAGES, classes=int),
    content_sha256=str,
)
# Of earlier releases, which bounded rounding by norms alone, named no arithmetic and knew of no developers.
_FORMER_HOLDOUT_FORM = {name: form for name, form in _HOLDOUT_FORM.items() if name != "arithmetic"}
_FORMER_HOLDOUT_FORM["history"] = {n: form for n, form in _HOLDOUT_FORM["history"].items() if n != "developers"}
_FORMER_HOLDOUT_FORM["decoder"] = {**_HOLDOUT_FORM["decoder"], "specification": one_of(FORMER_DECODER)}
_CODE_FORM: Fields = dict(
    **_HEAD,
    claims=[dict(**_CLAIM, theorem=_THEOREM)],
    share=one_of(*CODE_SHARES.values()),
    assumptions=[str],
    counts=_COUNTS,
    code=dict(name=one_of(*CODES), specification=str, length=_MANY, candidates=_MANY, adaptive=bool, theorem=str),
    decoder=dict(specification=one_of(CODE_DECODER), sizes=_SIZES, **_SPACE, sha256=str),
    weights=_FILE,
    data=dict(dataset=_DATASET, split=_TRAIN, **_IMAGES, classes=int),
    content_sha256=str,
)
_PAC_FORM: Fields = dict(
    **_HEAD,
    claims=[dict(**_PAC_CLAIM, share=str, share_monte_carlo=str)],
    theorem={name: one_of(text) for name, text in PAC_THEOREM.items()},
    assumptions=[str],
    checked={name: one_of(text) for name, text in PAC_CHECKED.items()},
    counts=dict(examples=int, draws=_MANY, errors=whole(0, 10**9)),
    divergence=_NATS,
    prior=dict(kind=one_of(*PRIORS), scale=_PRIOR_SCALE, candidates=_MANY, adaptive=bool),
    holdout=dict(specification=one_of(PRIOR_NETWORK), errors=whole(0, 10**7), claims=[_PRIOR_CLAIM]),
    decoder=dict(specification=one_of(PAC_DECODER), sizes=_SIZES, maximum=whole(1, 255), sha256=str),
    draws=dict(specification=one_of(DRAWS), key=str),
    files={name: _FILE for name in PAC_FILES},
    parameters=int,
    data=dict(dataset=_DATASET, split=_TRAIN, **_IMAGES, part=_PART, classes=int),
    content_sha256=str,
)


# What certificates of earlier releases lack; a data-free prior has no holdout.
_OPTIONAL = ("code.adaptive", "prior.adaptive", "holdout")
# Of data that are not official, how many images are equal to an earlier one, and how many classes occur.
_UNVOUCHED_FORM: Fields = dict(duplicates=whole(0, 500_000), occurring=whole(1, 256))

# Reading: what has the wrong form is refused here, so that what follows need not look again.


def read(path: str) -> Fields:
    """The certificate at ``path``, of the right form and written as certificates are; raises ``Rejected``."""
    try:
        with open_regular(path) as file:
            raw = file.read(LARGEST_CERTIFICATE + 1) or b""  # None of what would have to be waited for
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or "no path"
        raise Rejected(f"{shown(path)}: expected a certificate, found: {reason}") from None
    return parsed(raw, path)


def parsed(raw: bytes, path: str) -> Fields:
    """``raw`` as the certificate that it is, of the right form and as certificates are written; raises ``Rejected``."""
    try:
        if not (len(raw) <= LARGEST_CERTIFICATE and sum(map(raw.count, (b"[", b"{", b","))) <= MOST_VALUES):
            raise ValueError
        document = json.loads(raw.decode(), parse_float=int, parse_constant=int)  # so that 0.5 and NaN are refused
    except (ValueError, RecursionError):
        expected = "expected a certificate (JSON without fractions)"
        raise Rejected(f"{shown(path)}: {expected}, found something else") from None
    schema, version = (document.get(name) for name in ("schema", "version")) if isinstance(document, dict) else ("", 0)
    if not isinstance(schema, str) or schema not in KINDS or version not in (VERSION, UNVOUCHED_VERSION):
        known = " or ".join(f"{name!r}, version {VERSION} or {UNVOUCHED_VERSION}" for name in KINDS)
        raise Rejected(f"schema: expected {known}, found another or none")
    form = KINDS[schema].form
    if schema == HOLDOUT and "arithmetic" not in document:
        form = _FORMER_HOLDOUT_FORM
    if version == UNVOUCHED_VERSION:
        form = {**form, "data": {**form["data"], **_UNVOUCHED_FORM}}
    _take("certificate", document, form)
    if canonical(document) != raw:  # of the right form, so that it is nested no deeper than that
        raise Rejected("layout: expected the text that certificates are written with; spaces, names or digits differ")
    return document


def shown(path: str) -> str:
    """``path`` as it is printed: quoted and escaped if a terminal would not print it as such."""
    return path if path.isprintable() else ascii(path)


def open_regular(path: str) -> BinaryIO:
    """The file at ``path``, open for reading; ``OSError`` where it is a folder, pipe or device, without waiting."""
    waits = getattr(os, "O_NONBLOCK", 0)  # without it the opening of a pipe waits for somebody who writes into it
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | waits))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(0, "a pipe, socket or device", path)
    return file


def canonical(document: Any) -> bytes:
    """The one way in which a certificate is written."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _take(field: str, value: Any, form: Any) -> None:
    """Raise ``Rejected`` unless ``value`` has the ``form``: a type, a rule, a dict of forms or a list of one form."""
    if isinstance(value, str) and not value.isprintable():
        raise Rejected(f"{field}: holds a character that is not printable, such as a line feed or a terminal's escape")
    if isinstance(form, dict):
        inside = "" if field == "certificate" else f"{field}."
        given = value if isinstance(value, dict) else {}
        form = {name: part for name, part in form.items() if name in given or inside + name not in _OPTIONAL}
        if not isinstance(value, dict) or list(value) != list(form):
            found = ascii(list(value))[:300] if isinstance(value, dict) else type(value).__name__
            raise Rejected(f"{field}: expected the fields {', '.join(form)}, found {found}")
        for name, part in form.items():
            _take(inside + name, value[name], part)
    elif isinstance(form, list):
        most = 50_000 if field == "history.recorded" else 500
        if not isinstance(value, list) or not len(value) <= most:
            raise Rejected(f"{field}: expected a list of at most {most:,}, found {type(value).__name__}")
        for index, item in enumerate(value):
            _take(f"{field}[{index}]", item, form[0])
    elif not isinstance(form, type):
        form(field, value)
    elif type(value) is not form:
        raise Rejected(f"{field}: expected {form.__name__}, found {type(value).__name__}")


# Deriving: every field that follows from others, written again and compared, so that it cannot say anything else.


def check_document(document: Fields) -> None:
    """Raise ``Rejected``, naming the field, unless every field that follows from the others is as it follows."""
    data, counts, sizes = document["data"], document["counts"], document["decoder"]["sizes"]
    if data["rows"] * data["columns"] != sizes[0]:
        raise Rejected(f"data.rows: expected images of {sizes[0]} pixels, found {data['rows']} x {data['columns']}")
    if not document["claims"]:
        raise Rejected("claims: expected at least one, found none")
    counted = counts.get("draws", counts["examples"])
    if not counts["errors"] <= counted:
        raise Rejected(f"counts.errors: expected from 0 to {counted} errors, found {counts['errors']}")
    named = (data["dataset"], data["split"])
    for official, hashes in OFFICIAL.items():
        if official != named and data["images"]["sha256"] == hashes[0]:
            raise Rejected(f"data: these are the {' '.join(official)} images, not those of {' '.join(named)}")
    version = VERSION if vouched(document) else UNVOUCHED_VERSION
    if document["version"] != version:
        why = "since these are not the official files of that split, nobody vouches for them; make it anew"
        raise Rejected(f"version: expected {version}" + (f", {why}" if version == UNVOUCHED_VERSION else ""))
    compare(document, derive(document))


def former_form(document: Fields) -> list[str]:
    """A sentence on what a certificate in the form of an earlier release leaves open; none of one in today's form."""
    if document["schema"] == HOLDOUT:
        fields, field = document, "arithmetic"
        holds = ARITHMETICS[document["decoder"]["unit"]]
        said = f"names no arithmetic (its count holds for {holds}), and no looks that the developers of a preset took"
    else:
        fields, field = document["code" if document["schema"] == CODE else "prior"], "adaptive"
        said = "does not say that no candidate was tried because of what others showed, and pays as if none was"
    return [] if field in fields else [f"form of an earlier release: it {said}."]


def vouched(document: Fields) -> bool:
    """Official examples of the named split, by their SHA-256 and number of classes."""
    data, classes = document["data"], document["decoder"]["sizes"][-1]
    hashes = OFFICIAL.get((data["dataset"], data["split"]))
    return hashes == (data["images"]["sha256"], data["labels"]["sha256"]) and classes == OFFICIAL_CLASSES


def derive(document: Fields) -> Fields:
    """The fields of a certificate that follow from its other fields, by name: a part of the document."""
    content = {name: value for name, value in document.items() if name != "content_sha256"}
    decoder = {name: value for name, value in document["decoder"].items() if name != "sha256"}
    data, found, classes = document["data"], KINDS[document["schema"]].derive(document), decoder["sizes"][-1]
    opening, assumed = [], []
    if document["version"] != VERSION:
        images, labels = (f"{kind} with SHA-256 {data[kind]['sha256']}" for kind in ("images", "labels"))
        assumed.append(UNVOUCHED)
        opening.append(
            f"Nobody vouches for the {data['examples']:,} examples that are called '{data['dataset']}' here, nor for "
            f"that name: {images}, of which {data['duplicates']:,} are equal to an earlier one, and {labels}, in which "
            f"{data['occurring']} of {classes} classes occur."
        )
    return {
        **found,
        "statement": opening + found["statement"],
        "assumptions": found["assumptions"] + assumed,
        "decoder": {"sha256": hashlib.sha256(canonical(decoder)).hexdigest()},
        "data": {"classes": classes},
        "content_sha256": hashlib.sha256(canonical(content)).hexdigest(),
    }


def data_name(document: Fields) -> str:
    """The data as a sentence names them."""
    name: str = document["data"]["dataset"]
    return name if document["version"] == VERSION else f"called '{name}', vouched for by nobody"


def compare(found: Any, expected: Any, field: str = "") -> None:
    """Raise ``Rejected``, naming the first field of ``found`` that differs from ``expected``, which may be a part."""
    if isinstance(expected, dict) and isinstance(found, dict) and set(expected) <= set(found):
        for name in expected:
            compare(found[name], expected[name], f"{field}.{name}".lstrip("."))
    elif isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        for index, item in enumerate(expected):
            compare(found[index], item, f"{field}[{index}]")
    elif type(found) is not type(expected) or found != expected:
        raise Rejected(f"{field}: expected {str(expected)[:100]!a}, found {str(found)[:100]!a}")


def derive_holdout(document: Fields) -> Fields:
    """Derived fields of a certificate by a test split."""
    decoder, history = document["decoder"], document["history"]
    smooth = [SMOOTH] if decoder["activation"] in SMOOTH_ACTIVATIONS else []
    looks, m = history["looks"], document["data"]["examples"]
    developers = history.get("developers", {"looks": 0})
    by_developers = [DEVELOPERS.format(**developers)] if developers["looks"] else []
    least = len(history["recorded"]) + developers["looks"]
    if not least <= looks <= (300 if history["adaptive"] else 10**6):
        raise Rejected(
            "history.looks: expected at least the recorded looks and the developers', at most 300 if they are adaptive"
        )
    if by_developers and developers["preset"] == "none":
        found = f"none, whose developers looked {developers['looks']} times"
        raise Rejected(f"history.developers: expected a preset's name, found {found}")
    _check_record(history, least, decoder["unit"], document["counts"]["errors"], m)
    tried = courses(looks, history["adaptive"], m + 1)
    counted, tensors = _derive_counted(document), _tensors(decoder["sizes"], decoder["bias"])
    for claim, derived in zip(document["claims"], counted["claims"], strict=True):
        derived["share"] = str(Fraction(claim["delta"]) / tried)
    named, assumed = Fields(), list(ASSUMPTIONS)
    if "arithmetic" in document:  # else of an earlier release
        named["arithmetic"], assumed[1:1] = ARITHMETICS[decoder["unit"]], [CLUSTERS]
        named["history"] = {} if by_developers else {"developers": {"preset": "none"}}
    return {
        **counted,
        **named,
        "assumptions": [*assumed, *smooth, ADAPTIVE if history["adaptive"] else NOT_ADAPTIVE, *by_developers],
        "space": {"chosen_among": f"the networks of {looks} look(s) at this split"},
        "weights": {"tensors": tensors, "parameters": sum(math.prod(tensor["shape"]) for tensor in tensors)},
    }


def courses(tried: int, adaptive: bool, answers: int) -> int:
    """The divisor of delta: how many hypotheses were tried, or, where each could depend on what one of so many
    ``answers`` all earlier ones gave, how many could have been."""
    return (answers**tried - 1) // (answers - 1) if adaptive else tried


def tried_candidates(fields: Fields, field: str) -> tuple[int, list[str]]:
    """The divisor of delta for the candidates, and what is assumed of them."""
    tried, adaptive = fields["candidates"], fields.get("adaptive", False)
    if adaptive and not tried <= 300:
        raise Rejected(f"{field}.candidates: expected at most 300 if they are adaptive, found {tried}")
    return courses(tried, adaptive, ANSWERS), [CANDIDATES[adaptive]] if "adaptive" in fields else []


def _check_record(history: Fields, least: int, unit: str, errors: int, examples: int) -> None:
    """Raise ``Rejected`` where the record of evaluations contradicts itself or the count."""
    recorded: list[Fields] = history["recorded"]
    steps, final = [look["step"] for look in recorded], [look for look in recorded if look["purpose"] == "final"]
    if steps != sorted(steps) or not len(final) <= 1:
        raise Rejected("history.recorded: expected evaluations in the order of their steps, one of them the final one")
    if not all(look["errors"] <= examples for look in recorded):
        raise Rejected(f"history.recorded: expected at most {examples} errors in each, found more")
    if recorded and history["selected_by"] == SELECTED_ELSEWHERE:
        raise Rejected("history.recorded: expected no evaluations of a run, because the network was made elsewhere")
    if history["looks"] == least:  # then the count is not a look of its own, but the final one
        if not final:
            raise Rejected("history.looks: expected one more than are recorded, because none of these is the final one")
        # An evaluation in float32 is one of those that the count speaks of, if they are all that round no worse.
        if unit == UNITS["float32"] and not final[0]["errors"] <= errors:
            raise Rejected(
                f"counts.errors: expected at least the final evaluation's {final[0]['errors']}, found {errors}"
            )


def _tensors(sizes: list[int], bias: bool) -> list[Fields]:
    """Names and shapes of the raw weights, in the order in which they stand in the file, each row by row."""
    return [
        {"name": f"layers.{layer}.{name}", "shape": shape}
        for layer, (inputs, units) in enumerate(pairwise(sizes))
        for name, shape in (("weight", [units, inputs]), ("bias", [units]))
        if bias or name == "weight"
    ]


def derive_code(document: Fields) -> Fields:
    """Derived fields of a certificate of a quantised network by the examples it was learned from."""
    space, name = document["decoder"], document["code"]["name"]
    weights = sum(n * k for n, k in pairwise(space["sizes"]))
    if not weights <= MOST_CODES:
        raise Rejected(f"decoder.sizes: expected at most {MOST_CODES:,} weights, found {weights:,}")
    if space["encoding"] == "float16" and space["bits"] != 16:
        raise Rejected(f"decoder.bits: expected 16 for the encoding float16, found {space['bits']}")
    if document["share"] != (share := CODE_SHARES[document["code"].get("adaptive", False)]):
        raise Rejected(f"share: expected {share}, found {document['share']}")
    if name == "enumerative" and not space["bits"] <= 8:
        raise Rejected(f"code.name: expected fixed for more than 8 bits, found {name}")
    return {
        **_derive_counted(document),
        "assumptions": [*CODE_ASSUMPTIONS, *tried_candidates(document["code"], "code")[1]],
        "code": {"specification": CODE_SPECIFICATIONS[name], "theorem": CODE_THEOREMS[name]},
    }


def _derive_counted(document: Fields) -> Fields:
    """Derived fields where the errors of one network in all examples were counted."""
    m, errors, claims = document["data"]["examples"], document["counts"]["errors"], document["claims"]
    subject = f"these {m:,} examples, this {'-'.join(map(str, document['decoder']['sizes']))} network"
    if "arithmetic" in document:
        subject += f", run in {ARITHMETICS[document['decoder']['unit']]},"
    statement = [_sentence(document, claim, subject, f"the bound {claim['bound']}", reads=True) for claim in claims]
    margins = [str(Fraction(claim["risk"]) - Fraction(errors, m)) for claim in claims]
    return {
        "statement": statement,
        "claims": [
            _derived(claim, epsilon=margin, theorem=THEOREMS[claim["bound"]])
            for claim, margin in zip(claims, margins, strict=True)
        ],
        "counts": {"examples": m, "correct": m - errors},
    }


def _derived(claim: Fields, **more: Any) -> Fields:
    """Derived fields of a claim: those that every one has, and ``more``."""
    risk = Fraction(claim["risk"])
    return {"vacuous": risk >= 1, "accuracy": decimal(1 - risk), **more}


def _sentence(document: Fields, claim: Fields, subject: str, bound: str, reads: bool = False) -> str:
    """A claim in words: what is drawn, and who it is the ``subject`` of, and how its ``bound`` is called."""
    risk, delta, name = Fraction(claim["risk"]), claim["delta"], data_name(document)
    if risk >= 1:
        return f"At delta = {delta} {bound} is vacuous: it says nothing about unseen data."
    least = f", and reads at least {percent(1 - risk, False)} as they are labelled" if reads else ""
    misreads = f"misreads at most {percent(risk, True)} of all images drawn like them{least} ({name})."
    return f"With confidence 1 - {delta} over the drawing of {subject} {misreads}"


def derive_pac_bayes(document: Fields) -> Fields:
    """Derived fields of a certificate of a Gaussian over networks by examples that its prior did not see."""
    data, prior, draws, claims = document["data"], document["prior"], document["counts"]["draws"], document["claims"]
    sizes, learned_from = document["decoder"]["sizes"], data["part"]["prior_examples"]
    if (prior["kind"] == "data-free") != (learned_from == 0):
        raise Rejected(f"prior.kind: expected {' or '.join(PRIORS)}, data-free just where prior_examples is 0")
    if not learned_from < data["examples"]:
        raise Rejected("data.part: expected fewer examples for the prior than there are")
    m, network = data["examples"] - learned_from, f"{'-'.join(map(str, sizes))} network"
    tried, assumed = tried_candidates(prior, "prior")
    # Each candidate has draws of its own, which do not depend on what came before.
    of_draws = MONTE_CARLO / (prior["candidates"] if prior.get("adaptive") else 1)
    about = f"pairs of a network and an example, the {network} whose weights are drawn anew for every image"
    about = f"these {m:,} examples and of {draws:,} {about}"
    found: Fields = {
        "statement": [_sentence(document, claim, about, "the PAC-Bayes bound") for claim in claims],
        "claims": [
            _derived(claim, share=str(delta * (1 - MONTE_CARLO) / tried), share_monte_carlo=str(delta * of_draws))
            for claim, delta in ((claim, Fraction(claim["delta"])) for claim in claims)
        ],
    }
    if "holdout" in document:
        own = document["holdout"]["claims"]
        if prior["kind"] != "learnt" or not document["holdout"]["errors"] <= m:
            raise Rejected(f"holdout.errors: expected at most {m:,}, of a learnt prior, found others")
        if len(own) != len(claims):
            raise Rejected(f"holdout.claims: expected {len(claims)}, as many as claims, found another number")
        about = f"the prior's mean network alone, one {network} for all images, run in float64,"
        about = f"the same {m:,} examples, {about}"
        of_prior = [{**claim, "delta": other["delta"]} for claim, other in zip(own, claims, strict=True)]
        found["statement"] += [_sentence(document, claim, about, "the holdout's bound") for claim in of_prior]
        shares = [{"delta": c["delta"], "share": str(Fraction(c["delta"]) / tried)} for c in of_prior]
        found["holdout"] = {"claims": [_derived(c, **share) for c, share in zip(of_prior, shares, strict=True)]}
    fixed = {  # before the first draw: what its random numbers are made of
        "decoder": {name: document["decoder"][name] for name in ("sizes", "maximum")},
        "prior": prior,
        "data": {name: data[name] for name in _PAC_FORM["data"] if name != "classes"},
        "files": {name: document["files"][name]["sha256"] for name in PAC_FILES[:3]},
        "draws": draws,
    }
    return {
        **found,
        "assumptions": [*PAC_ASSUMPTIONS, PRIORS[prior["kind"]], *assumed],
        "counts": {"examples": m},
        "draws": {"key": hashlib.sha256(canonical(fixed)).hexdigest()},
        "parameters": sum(units * (inputs + 1) for inputs, units in pairwise(sizes)),
    }


def percent(value: Fraction, up: bool) -> str:
    """A probability in per cent with two decimals, rounded up or down, never to nearest."""
    hundredths = -(-value * 10_000 // 1) if up else value * 10_000 // 1
    return f"{decimal(Fraction(hundredths, 100), 2)} %"


# The raw files.


def duplicates(images: Sequence[bytes]) -> int:
    """The number of images equal to an earlier one, by 64 bits of a hash, which only can find too many."""
    hashes = array("Q", (int.from_bytes(hashlib.sha256(image).digest()[:8], "big") for image in images))
    return sum(one == other for one, other in pairwise(sorted(hashes)))


class Files(NamedTuple):
    """The folder of a certificate, and the data folders that are searched before."""

    folder: str
    data_folders: list[str]

    def beside(self, named: dict[str, str], field: str, size: int) -> bytes:
        """A raw file of ``size`` bytes beside the certificate; raises ``Rejected``: missing, elsewhere or altered."""
        return _content(os.path.join(self.folder, named["file"]), named, field, size)

    def examples(self, document: Fields) -> tuple[list[bytes], bytes]:
        """The images, and the labels, one byte each; raises ``Rejected``: missing, altered, or impossible."""
        data = document["data"]
        m, rows, columns, classes = (data[name] for name in ("examples", "rows", "columns", "classes"))
        found, size = {}, rows * columns
        for kind, header, width in (
            ("images", struct.pack(">IIII", 0x803, m, rows, columns), size),
            ("labels", struct.pack(">II", 0x801, m), 1),
        ):
            found[kind] = self._find(data[kind], f"data.{kind}", len(header) + m * width)
            if not found[kind].startswith(header):
                raise Rejected(f"data.{kind}: expected an IDX file of {m} examples of {rows} x {columns} pixels")
        labels = found["labels"][8:]
        images = [found["images"][start : start + size] for start in range(16, 16 + m * size, size)]
        wrong = next((index for index, label in enumerate(labels) if not label < classes), None)
        if wrong is not None:
            raise Rejected(f"data.labels: label {labels[wrong]} at index {wrong}, expected 0 to {classes - 1}")
        if not vouched(document):
            compare(data, {"duplicates": duplicates(images), "occurring": len(set(labels))}, "data")
        return images, labels

    def _find(self, named: dict[str, str], field: str, size: int) -> bytes:
        """A data file's content, unpacked: in torchvision's layout below a data folder, or beside the certificate.

        The first one of that name decides, so that no file beside the certificate stands in for one of the user's.
        """
        name, inner = named["file"], named["folder"]
        places = [*(os.path.join(place, inner) for place in self.data_folders if inner), self.folder]
        for path in (os.path.join(place, name + end) for place in places for end in ("", ".gz")):
            if os.path.exists(path):
                return _content(path, named, field, size, packed=True)
        found = ", ".join(map(shown, places))
        raise Rejected(f"{field}.file: {name} was not found in {found}; give its folder with --data-dir")


def _content(path: str, named: dict[str, str], field: str, size: int, packed: bool = False) -> bytes:
    """The ``size`` bytes of a file, unpacked if need be; raises ``Rejected`` if it is not the one that is named.

    No more is held than that, whatever the file holds.
    """
    if not size <= LARGEST:
        raise Rejected(f"{field}.file: {size:,} bytes are announced, expected at most {LARGEST:,}")
    try:
        with open_regular(path) as file:
            held = os.fstat(file.fileno()).st_size
            zipped = packed and file.read(2) == b"\x1f\x8b"
            file.seek(0)
            raw = file.read(2 * size + 65_536 if zipped else size + 1) or b""
        if zipped:
            raw = zlib.decompressobj(31).decompress(raw, size + 1)
            held = len(raw)
    except zlib.error:
        raise Rejected(f"{field}.file: {shown(path)} is a damaged gzip file") from None
    except OSError as error:
        raise Rejected(f"{field}.file: {shown(path)}: {error.strerror}") from None
    if len(raw) != size:
        found = f"{'at least ' if zipped else ''}{held}; {shown(path)} is not the file that the certificate is about"
        raise Rejected(f"{field}.file: expected {size} bytes, found {found}")
    if hashlib.sha256(raw).hexdigest() != named["sha256"]:
        raise Rejected(f"{field}.sha256: {shown(path)} is not the file that the certificate is about")
    return raw


def _numbers(raw: bytes, dtype: str, field: str) -> Numbers:
    """Parse little-endian floats; raises ``Rejected`` where there are numbers that cannot be."""
    code = DTYPES[dtype][0]  # one by one, because as Python's floats they take eight times the file
    values = array("d" if code == "d" else "f", (value for (value,) in struct.iter_unpack(f"<{code}", raw)))
    wrong = next((place for place, value in enumerate(values) if not abs(value) < 2.0**60), None)
    if wrong is not None:
        raise Rejected(f"{field}: holds NaN, an infinity, or a number of 2^60 or more, at place {wrong}")
    return values


def _layers(values: Numbers, sizes: list[int], bias: bool) -> Layers:
    """Pairs (rows of weights, biases), layer by layer."""
    layers, at = [], 0
    for inputs, units in pairwise(sizes):
        end = at + inputs * units
        rows = [values[row : row + inputs] for row in range(at, end, inputs)]
        at = end + units if bias else end
        layers.append((rows, values[end:at] if bias else (0.0,) * units))
    return layers


# Work is bounded before it begins.


class Effort(NamedTuple):
    """The processes that share long work, how many draws are made again, and the most steps that all may take."""

    processes: int = 1
    redraw: int = 0
    most_work: int = MOST_WORK


def announced_work(document: Fields, redraw: int) -> int:
    """About how many nanoseconds one processor takes for what a certificate announces, before any file is read."""
    sizes, counts, m = document["decoder"]["sizes"], document["counts"], document["data"]["examples"]
    weights, units = sum(n * k for n, k in pairwise(sizes)), sum(sizes)
    per_bound = 10**6 + _tail_work(counts["errors"], counts.get("draws", m))
    work = 2 * per_bound * len(document["claims"]) + 1000 * weights
    if document["schema"] == PAC_BAYES:  # a bound is decided for a score of counts, to find the least forgery
        work = 12 * work + 3000 * m + redraw * (18 * weights + 2500 * units)
        if "holdout" not in document:
            return work
        m -= document["data"]["part"]["prior_examples"]
        work += 2 * len(document["claims"]) * (10**6 + _tail_work(document["holdout"]["errors"], m))
    if document["schema"] != CODE:  # the products of all pairs of rows, which bound the norm of an inner layer
        work += sum(15 * min(n, k) ** 2 * max(n, k) for n, k in pairwise(sizes[1:-1]))
    return work + m * (5 * weights + 1500 * units + 15_000)


def allowed_work(document: Fields, redraw: int, most_work: int) -> int:
    """The work that is announced; raises ``Rejected`` if it is more than ``most_work``."""
    work = announced_work(document, redraw)
    if not work <= most_work:
        much = f"about {work:.1e} steps (nanoseconds of one processor) are announced, at most {most_work:.1e} allowed"
        fewer = f"; --redraw less than {redraw:,} asks for less" if redraw else ""
        raise Rejected(f"work: {much}; --most-work raises that{fewer}")
    return work


def _tail_work(errors: int, trials: int) -> int:
    """Of one binomial tail: its terms, and a binomial coefficient of so many bits."""
    bits = int(errors * (2 + math.log2(trials / errors))) if errors else 0
    return 2000 * errors + bits * bits // 200


# The bounds, decided in integers.


def check_risk(field: str, stated: str, confirmed: Callable[[int], bool]) -> None:
    """Raise ``Rejected`` unless the stated risk, in units of 10^-12, is the least that is ``confirmed``."""
    n = int(Fraction(stated) * ONE)
    if not confirmed(n):
        raise Rejected(f"{field}: {stated} does not follow from the counts")
    if n and confirmed(n - 1):
        raise Rejected(f"{field}: {stated} is not the least that follows; it was altered")


def check_risks(field: str, claims: list[Fields], k: int, m: int, share: Callable[[Fields], Fraction]) -> None:
    """Raise ``Rejected`` unless each claim's risk is the least that its bound, or the exact tail, confirms."""
    for index, claim in enumerate(claims):
        confirmed = partial(confirms, claim.get("bound", "clopper-pearson"), k, m, share(claim))
        check_risk(f"{field}[{index}].risk", claim["risk"], confirmed)


def confirms(bound: str, k: int, m: int, share: Fraction, n: int) -> bool:
    """Decide whether the bound shows, with failure probability ``share``, that the risk is at most n / 10^12."""
    if n >= ONE or n * m <= k * ONE:
        return n >= ONE
    gain = {"clopper-pearson": _tail, "kl": _relative_entropy, "hoeffding": _square}[bound]

    def enclosure(bits: int) -> tuple[int, int]:
        """Of what is left over once the share is paid."""
        (low, high), cost = gain(k, m, n, bits), _ln(share.denominator, share.numerator, bits)
        return low - cost[1], high - cost[0]

    answer = _decide(enclosure)
    if answer is not None or bound == "hoeffding" or not m * (k + 1) <= 10**6:
        return answer is True
    # Equal up to a thousand bits: compare the rational numbers themselves.
    x, y = Fraction(n, ONE), Fraction(ONE - n, ONE)
    if bound == "clopper-pearson":
        return sum(math.comb(m, i) * x**i * y ** (m - i) for i in range(k + 1)) <= share
    return (Fraction(k, m) / x) ** k * (Fraction(m - k, m) / y) ** (m - k) * share >= 1


def pac_bayes_confirms(q: int, m: int, divergence: Fraction, share: Fraction, p: int) -> bool:
    """Decide whether ``m kl(q || p) >= KL + ln(2 sqrt(m) / share)``, with q and p in units of 10^-12."""
    if p >= ONE or p <= q:
        return p >= ONE

    def enclosure(bits: int) -> tuple[Fraction, Fraction]:
        """Of the difference between both sides."""
        low, high = _relative_entropy(q, ONE, p, bits)
        root = _ln(4 * m * share.denominator**2, share.numerator**2, bits)  # twice ln(2 sqrt(m) / share)
        cost = [divergence * (1 << bits) + Fraction(end, 2) for end in root]
        return Fraction(m * low, ONE) - cost[1], Fraction(m * high, ONE) - cost[0]

    return _decide(enclosure) is True


def _decide(enclosure: Callable[[int], tuple[int | Fraction, int | Fraction]]) -> bool | None:
    """Decide whether the number in ``enclosure(bits)`` is at least 0; ``None`` if a thousand bits do not tell."""
    for bits in (128, 384, 1152):
        low, high = enclosure(bits)
        if low >= 0 or high < 0:
            return low >= 0
    return None


def _tail(k: int, m: int, p: int, bits: int) -> tuple[int, int]:
    """An enclosure of ``-2^bits ln P[Binomial(m, p/10^12) ≤ k]``: terms from the k-th downward."""
    one, q = 1 << bits, ONE - p
    ratio_low = ratio_high = total_low = total_high = one
    for i in range(k, 0, -1):
        ratio_low = ratio_low * (i * q) // ((m - i + 1) * p)
        ratio_high = ratio_high * (i * q) // ((m - i + 1) * p) + 1
        total_low, total_high = total_low + ratio_low, total_high + ratio_high
    # P = C(m, k) (p/10^12)^k (q/10^12)^(m−k) total / one
    parts = [_ln(math.comb(m, k), 1, bits), (_ln(total_low, one, bits)[0], _ln(total_high, one, bits)[1])]
    parts += [(n * low, n * high) for n, (low, high) in ((k, _ln(p, ONE, bits)), (m - k, _ln(q, ONE, bits)))]
    return -sum(high for _, high in parts), -sum(low for low, _ in parts)


def _square(k: int, m: int, p: int, bits: int) -> tuple[int, int]:
    """An enclosure of ``2^bits 2 m (p/10^12 - k/m)^2``."""
    n, d = 2 * (p * m - k * ONE) ** 2 << bits, m * ONE * ONE
    return n // d, n // d + 1


def _relative_entropy(a: int, b: int, p: int, bits: int) -> tuple[int, int]:
    """An enclosure of ``2^bits b kl(a/b || p/10^12)``."""
    low = high = 0
    for part, other in ((a, p), (b - a, ONE - p)):
        if part:
            ln_low, ln_high = _ln(part * ONE, b * other, bits)
            low, high = low + part * ln_low, high + part * ln_high
    return low, high


def _ln(n: int, d: int, bits: int) -> tuple[int, int]:
    """Integers ``low ≤ 2^bits ln(n/d) ≤ high``: ``n/d = 2^s y``, ``ln y = 2 artanh((y − 1)/(y + 1))``."""
    work = bits + 64
    s = n.bit_length() - d.bit_length()
    n, d = n << max(0, -s), d << max(0, s)
    two, y = _artanh(1, 3, work), _artanh(abs(n - d), n + d, work)
    y = y if n >= d else (-y[1], -y[0])
    ends = sorted((s * two[0], s * two[1]))
    return (2 * (y[0] + ends[0])) >> 64, -((-2 * (y[1] + ends[1])) >> 64)


def _artanh(n: int, d: int, bits: int) -> tuple[int, int]:
    """``low ≤ 2^bits artanh(n/d) ≤ high``, for n/d at most 1/3; each of fewer than ``bits`` terms is within 4 units."""
    z = (n << bits) // d
    square, power, total, odd = (z * z) >> bits, z, z, 1
    while power:
        power, odd = (power * square) >> bits, odd + 2
        total += power // odd
    return total, total + 4 * bits + 8


# By a test split: integers for the network, floats for the bounds on rounding.

_INPUT_BITS = {64: 24, 128: 45}  # of an activation (a pixel has 8), by the bits that a unit has in the long integer
_OWN = 2.0**-48  # what a handful of float64 operations may do, relative to their largest term
_OVERFLOW = 2.0**90  # a bound on rounding as large as this comes with sums that may overflow float32
_LOW, _MIDDLE, _HIGH = 1 + 2.0**-12, 1 + 2.0**-11, 1 + 2.0**-10  # the certificate's maker uses the one in the middle
_SHARED = 2e8  # products of weights and examples from which on processes share them
_NEGLECTED = 2.0**-36  # at least what float64 loses in a sum of 65,000 products, relative to that of their sizes


def check_holdout(document: Fields, files: Files, effort: Effort) -> None:
    """Bound the risk and count the errors of a network again."""
    decoder, weights = document["decoder"], document["weights"]
    m, k, parameters = document["counts"]["examples"], document["counts"]["errors"], weights["parameters"]
    size = parameters * DTYPES[weights["dtype"]][1]
    values = _numbers(files.beside(weights, "weights", size), weights["dtype"], "weights.file")
    images, labels = files.examples(document)
    check_risks("claims", document["claims"], k, m, lambda claim: Fraction(claim["share"]))
    layers = _layers(values, decoder["sizes"], decoder["bias"])
    del values
    low, high = count_all(layers, decoder, images, labels, effort)
    if not low <= k <= high:
        raise Rejected(f"counts.errors: expected {low}, counted again from weights and data, found {k}")


def joined(values: Sequence[int], width: int) -> int:
    """One integer of all ``values``, none of them negative, ``width`` bytes each, the first one lowest."""
    return int.from_bytes(b"".join([value.to_bytes(width, "little") for value in values]), "little")


class Layer:
    """A dense layer of which all units stand in one integer an input, ``slot`` bits each, and what its bounds need."""

    def __init__(self, rows: Rows, bias: Numbers, u: float, slot: int, input_bits: int, stretch: float) -> None:
        self.units, self.inputs, self.rows, self.bias, self.input_bits = len(rows), len(rows[0]), rows, bias, input_bits
        self.norms = [math.sqrt(math.fsum(w * w for w in row)) * (1 + _OWN) for row in rows]
        self.sums = [math.fsum(row) for row in rows]
        self.absolute = [math.fsum(map(abs, row)) * (1 + _OWN) for row in rows]
        self.width = slot // 8
        bits = slot - 2 - input_bits - self.inputs.bit_length()  # so that no sum leaves its slot
        self.largest_weight = max(abs(w) for row in rows for w in row)
        self.shift = bits - math.frexp(self.largest_weight)[1]
        half = 1 << (slot - 1)
        self.offset = joined([half] * self.units, self.width)
        self.columns = [
            joined([round(math.ldexp(w, self.shift)) + half for w in column], self.width) - self.offset
            for column in zip(*rows, strict=True)
        ]
        self.stretch = stretch  # at least its spectral norm
        self.gamma = (self.inputs + 3) * u / (1 - (self.inputs + 3) * u)
        self.root = math.sqrt(self.inputs)

    @cached_property
    def magnitudes(self) -> list[Numbers]:
        """Absolute values of the weights, row by row."""
        return [array("d", map(abs, row)) for row in self.rows]

    @cached_property
    def transposed(self) -> list[Numbers]:
        """The weights, column by column."""
        return [array("d", column) for column in zip(*self.rows, strict=True)]

    def products(self, inputs: list[int] | bytes) -> Floats:
        """``2^shift Σ_i w_ji a_i`` for whole numbers a_i of at most ``input_bits`` bits; rounded once, to a float."""
        used = [(column, value) for column, value in zip(self.columns, inputs, strict=True) if value]
        total = sum(map(mul, [column for column, _ in used], [value for _, value in used])) + self.offset
        raw = total.to_bytes(self.units * self.width, "little")
        words, half = struct.unpack(f"<{len(raw) // 8}Q", raw), 1 << 63
        if self.width == 8:
            return [float(word - half) for word in words]
        return [float(((high - half) << 64) + low) for low, high in zip(words[::2], words[1::2], strict=True)]

    def applied(self, h: Floats) -> Floats:
        """``W h + b``, where h is rounded to ``input_bits`` bits below its largest number."""
        shift = self.input_bits - math.frexp(max(map(abs, h)))[1]
        unit = math.ldexp(1.0, -shift - self.shift)
        sums = self.products([round(math.ldexp(value, shift)) for value in h])
        return [unit * v + b for v, b in zip(sums, self.bias, strict=True)]

    def rounded(self, h: Floats, z: Floats) -> Floats:
        """Bounds on what the rounding of h and of the weights to whole numbers, and the last two operations, did to
        each number of ``z = applied(h)``."""
        largest = max(map(abs, h))
        coarse = math.ldexp(1.0, -self.shift) * self.inputs * largest
        fine = math.ldexp(1.0, math.frexp(largest)[1] - self.input_bits)
        terms = zip(self.absolute, z, self.bias, strict=True)
        return [a * fine + coarse + _OWN * (abs(value) + abs(b)) for a, value, b in terms]

    def fresh(self, norm: float, error: float) -> Floats:
        """The formula at the top of this file without its first term: the rounding that this layer adds."""
        reach, floor = norm + error, 2.0**-149 * (self.root * (norm + error) + self.inputs + 1)
        g, gr = self.gamma, self.gamma * reach
        return [w * gr + g * abs(b) + floor for w, b in zip(self.norms, self.bias, strict=True)]


class Network:
    """Logits of raw images with a bound on each."""

    def __init__(self, layers: Layers, decoder: Fields, slot: int = 128, coarse: Network | None = None) -> None:
        scaling, self.activation = decoder["normalization"], decoder["activation"]
        numbers = (scaling["mean"], scaling["scale"], decoder["unit"])
        self.kind, (self.mean, self.scale, self.u) = scaling["kind"], (float(Fraction(text)) for text in numbers)
        self.input_bits = _INPUT_BITS[slot]
        self.layers: list[Layer] = []
        for index, (rows, bias) in enumerate(layers):
            stretch = math.inf
            if 0 < index < len(layers) - 1:
                stretch = coarse.layers[index].stretch if coarse else spectral(rows)
            self.layers.append(Layer(rows, bias, self.u, slot, self.input_bits if index else 8, stretch))
        self.classes = self.layers[-1].units

    def logits(self, pixels: bytes) -> tuple[Floats, Floats]:
        """The logits of one image and, for each, how far any evaluation's may be from it (both without slack)."""
        below = self.layers[0]
        z, first, norm, error = self.first(pixels)
        fresh = [f + first for f in below.fresh(norm, error)]
        errors = [w * error + f for w, f in zip(below.norms, fresh, strict=True)]
        for layer in self.layers[1:]:
            if not _sound(z, errors):
                break
            h, spread, slope, own = activate(self.activation, z, errors, self.u)
            added = math.hypot(*[min(s, slope * f + r) for s, f, r in zip(spread, fresh, own, strict=True)])
            carried = slope * below.stretch * error + added if math.isfinite(below.stretch) else math.inf
            error = min(math.hypot(*spread), carried)
            error *= 1 + _OWN
            z, norm = layer.applied(h), math.hypot(*h) * (1 + _OWN)
            fresh = [f + r for f, r in zip(layer.fresh(norm, error), layer.rounded(h, z), strict=True)]
            errors = [w * error + f for w, f in zip(layer.norms, fresh, strict=True)]
            below = layer
        return (z, errors) if _sound(z, errors) else ([0.0] * self.classes, [math.inf] * self.classes)

    def gaps(self, pixels: bytes, label: int) -> list[tuple[float, float]]:
        """The label's logit minus each other one, and a bound on the error of any evaluation in that."""
        z, errors = self.logits(pixels)
        own, reach = z[label], errors[label]
        return [(own - v, reach + e) for j, (v, e) in enumerate(zip(z, errors, strict=True)) if j != label]

    def scaling(self, pixels: bytes) -> tuple[float, float]:
        """The mean and scale of the features of one image."""
        if self.kind != "per-image":
            return self.mean, self.scale
        n, total = len(pixels), sum(pixels)
        variance = n * sum(map(mul, pixels, pixels)) - total * total
        return total / n, math.sqrt(variance) / n if variance else 1.0

    def first(self, pixels: bytes) -> tuple[Floats, float, float, float]:
        """The first layer's z, what the checker's own rounding may have done to each, the features' norm and how far
        they may be."""
        layer, (mean, scale) = self.layers[0], self.scaling(pixels)
        n, total, squares = layer.inputs, sum(pixels), sum(map(mul, pixels, pixels))
        # |x|² = Σ (pixel - mean)² / scale²
        norm = math.sqrt(max(0.0, squares - 2 * mean * total + n * mean * mean)) / scale
        error = self.u * (2 * math.sqrt(n) * abs(mean) / scale + 5 * norm)
        if self.kind == "per-image":
            error += norm * self.u * (0.55 * (n + 6) + 2 * (mean / scale + 1)) if norm else 0.0
        unit = math.ldexp(1.0, -layer.shift)
        terms = [(unit * v, mean * w) for v, w in zip(layer.products(pixels), layer.sums, strict=True)]
        z = [(product - shifted) / scale + b for (product, shifted), b in zip(terms, layer.bias, strict=True)]
        # What rounding the weights to whole numbers did, and a handful of operations on these terms.
        largest = max([abs(product) + abs(shifted) for product, shifted in terms])
        own = (unit * total + _OWN * largest) / scale + _OWN * max(map(abs, layer.bias))
        return z, own, norm, error

    def traced(self, pixels: bytes, label: int, others: Sequence[int]) -> Floats:
        """Bounds by components on how far any evaluation's label's logit minus each of the ``others`` may be from the
        exact one; the gradient goes back through units of certain slope."""
        steps, (mean, scale), (z, own, norm, reach) = [], self.scaling(pixels), self.first(pixels)
        inputs, rounded = [abs(pixel - mean) / scale for pixel in pixels], [own] * len(z)
        before, k = [w * reach for w in self.layers[0].norms], len(pixels)
        if self.kind != "per-image" and mean == 0:
            k -= pixels.count(0)
        for index, layer in enumerate(self.layers):
            g = (k + 1) * self.u / (1 - (k + 1) * self.u)
            floor = 2.0**-149 * (layer.root * (norm + reach) + layer.inputs + 1)
            factor = self.u * (k + 3 + 2 * k * g) / 2
            fresh = [
                factor * (sum(map(mul, row, inputs)) + abs(b) + abs(v) + 2 * p) + floor + r
                for row, b, v, p, r in zip(layer.magnitudes, layer.bias, z, before, rounded, strict=True)
            ]
            errors = [p + f for p, f in zip(before, fresh, strict=True)]
            if not _sound(z, errors):
                return [math.inf] * len(others)
            if index == 0:
                fresh = errors  # the features' error as well
            if layer is self.layers[-1]:
                break
            h, spread, _, own_h = activate(self.activation, z, errors, self.u)
            certain = [certain_slope(self.activation, v, e * _MIDDLE) for v, e in zip(z, errors, strict=True)]
            added = [
                s if slope is None else slope * f + r
                for slope, f, s, r in zip(certain, fresh, spread, own_h, strict=True)
            ]
            following = self.layers[index + 1]
            steps.append((following, [slope or 0.0 for slope in certain], added, sum(spread)))
            inputs, k = list(map(abs, h)), sum(1 for v, s in zip(h, spread, strict=True) if v or s)
            norm, reach = math.hypot(*h), math.hypot(*spread)
            before = [sum(map(mul, row, spread)) for row in following.magnitudes]
            z = following.applied(h)
            rounded = following.rounded(h, z)
        found = []
        for other in others:
            gradient, error = [0.0] * len(z), fresh[label] + fresh[other]
            gradient[label], gradient[other] = 1.0, -1.0
            for layer, slopes, added, spreads in reversed(steps):
                # The sums below are rounded: what is neglected meets errors of at most the spreads.
                error += _NEGLECTED * sum(map(abs, gradient)) * layer.largest_weight * spreads
                columns = zip(layer.transposed, slopes, added, strict=True)
                gradient = [sum(map(mul, column, gradient)) if slope or a else 0.0 for column, slope, a in columns]
                error += sum(map(mul, map(abs, gradient), added))
                gradient = list(map(mul, gradient, slopes))
            found.append(error * (1 + 2.0**-20))  # far more than rounding takes from such sums of nothing negative
        return found


def certain_slope(name: str, z: float, error: float) -> float | None:
    """The slope of a piecewise linear activation at every point within ``error`` of z; ``None`` if there is not one."""
    if name == "identity":
        return 1.0
    if name not in ("relu", "leaky-relu") or not abs(z) > error:
        return None
    return 1.0 if z > 0 else 0.01 if name == "leaky-relu" else 0.0


def _sound(z: Floats, errors: Floats) -> bool:
    """All finite, and no bound negative or too large; false for NaN, which ``max`` may pass over."""
    return all(map(math.isfinite, z)) and all([0.0 <= error < _OVERFLOW for error in errors])


def spectral(rows: Rows) -> float:
    """At least the spectral norm of a matrix: ``√‖W Wᵀ‖_∞``, or with ``Wᵀ W`` where that is smaller in size."""
    rows = list(map(tuple, rows)) if len(rows) <= len(rows[0]) else list(zip(*rows, strict=True))
    sums = [0.0] * len(rows)
    for i, row in enumerate(rows):
        for j in range(i + 1):
            product = abs(sum(map(mul, row, rows[j])))
            sums[i] += product
            if j < i:
                sums[j] += product
    return math.sqrt(max(sums)) * (1 + 2.0**-20)  # far more than rounding takes from so few sums


def activate(name: str, z: Floats, errors: Floats, u: float) -> tuple[Floats, Floats, float, Floats]:
    """``h = σ(z)``; how far an evaluation's h may be where its z may be as far as ``errors``; slope, rounding in it."""
    none = [0.0] * len(z)
    if name == "relu":  # an evaluation's z is at most z + e, so that its h is at most that, or 0
        return [max(0.0, v) for v in z], [max(0.0, min(e, v + e)) for v, e in zip(z, errors, strict=True)], 1.0, none
    if name == "identity":
        return z, errors, 1.0, none
    if name == "leaky-relu":
        h, slope = [v if v > 0 else 0.01 * v for v in z], 1.0
        own = [3 * u * (abs(v) + e) + 2.0**-149 for v, e in zip(h, errors, strict=True)]  # 0.01 z may underflow
    else:
        function, slope = SMOOTH_ACTIVATIONS[name]
        h, own = list(map(function, z)), [16 * u * (1 + abs(v) + e) for v, e in zip(z, errors, strict=True)]
    return h, [slope * e + r for e, r in zip(errors, own, strict=True)], slope, own


def count(
    layers: Layers, decoder: Fields, images: Sequence[bytes], labels: bytes, most_open: int = 10**9
) -> tuple[int, int]:
    """The fewest and the most errors that a correct count can give; they differ where a margin is at its bound.

    64 bits a unit decide nearly every example, and 128 where that leaves a doubt. What norms leave open is bounded by
    components, unless the decoder is that of an earlier release.
    """
    coarse, fine, fewest, most = Network(layers, decoder, 64), None, 0, 0
    former = decoder.get("specification") == FORMER_DECODER
    for pixels, label in zip(images, labels, strict=True):
        gaps = coarse.gaps(pixels, label)
        if all(gap > _HIGH * error for gap, error in gaps):
            continue
        if not any(gap < -_HIGH * error for gap, error in gaps):  # not certainly wrong either
            fine = fine or Network(layers, decoder, coarse=coarse)
            gaps = fine.gaps(pixels, label)
            if not former and all(gap > 0 for gap, _ in gaps) and not all(gap > _HIGH * error for gap, error in gaps):
                if not most_open > 0:
                    raise Rejected("work: too many examples need bounds by components; --most-work allows more")
                most_open -= 1
                others = [other for other in range(fine.classes) if other != label]
                doubted = [at for at, (gap, error) in enumerate(gaps) if not gap > _HIGH * error]
                found = fine.traced(pixels, label, [others[at] for at in doubted])
                for at, error in zip(doubted, found, strict=True):
                    gaps[at] = gaps[at][0], min(gaps[at][1], error)
        fewest += not all(gap > _LOW * error for gap, error in gaps)
        most += not all(gap > _HIGH * error for gap, error in gaps)
    return fewest, most


def count_all(
    layers: Layers, decoder: Fields, images: Sequence[bytes], labels: bytes, effort: Effort
) -> tuple[int, int]:
    """``count`` over all examples, shared among processes where that is long."""
    sizes = [len(layers[0][0][0]), *(len(rows) for rows, _ in layers)]
    weights, inner = (sum(n * k for n, k in pairwise(part)) for part in (sizes, sizes[1:]))
    # One left open by norms takes about so much work by components.
    most_open = effort.most_work // (45 * weights + 12 * inner * sizes[-1] + 5000 * sum(sizes))
    processes = effort.processes if len(labels) * weights > _SHARED else 1
    found = shared(processes, partial(count, most_open=most_open), (layers, decoder), images, labels)
    return sum(low for low, _ in found), sum(high for _, high in found)


def shared(processes: int, function: Callable[..., Any], fixed: tuple[Any, ...], *lists: Sequence[Any]) -> list[Any]:
    """Results of ``function(*fixed, *parts)`` for parts of the lists, one part for each of so many processes."""
    if processes == 1:
        return [function(*fixed, *lists)]
    step = max(1, -(-len(lists[0]) // processes))
    parts = [slice(start, start + step) for start in range(0, len(lists[0]), step)]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        jobs = [pool.submit(function, *fixed, *(each[part] for each in lists)) for part in parts]
        return [job.result() for job in jobs]


# By the examples that a quantised network was learned from.
#
# A union over everything that could have been learned pays for the learning. With B bits to write a network down, its
# share of delta is delta 2^-B: of 2^B networks each gets as much, and by Kraft's inequality the shares of a prefix code
# sum to at most delta. Numbers are whole ones over powers of two throughout, so the count is exact.

_HALF = 16  # bits of a shift, a scale and a bias
WholeLayer = tuple[list[Sequence[int]], list[int], int]  # weights and biases as whole numbers over 2^exponent


def check_code(document: Fields, files: Files, _: Effort) -> None:
    """Measure the code's length, bound the risk, and count the errors of a quantised network again."""
    space, code = document["decoder"], document["code"]
    m, k = document["counts"]["examples"], document["counts"]["errors"]
    layers, length = read_codes(
        files.beside(document["weights"], "weights", -(-fixed_bits(space) // 8)), space, code["name"]
    )
    if length != code["length"]:
        raise Rejected(f"code.length: expected {length} bits, measured on the weights, found {code['length']}")
    tried = tried_candidates(code, "code")[0]
    check_risks("claims", document["claims"], k, m, lambda claim: Fraction(claim["delta"]) / tried / 2**length)
    found = _count_exactly(layers, space["denominator"], *files.examples(document))
    if found != k:
        raise Rejected(f"counts.errors: expected {found}, counted again from weights and data, found {k}")


def fixed_bits(space: Fields) -> int:
    """The number of bits in which a network is written without an enumerative code."""
    biases = _HALF if space["biases"] else 0
    return sum(2 * _HALF + k * (n * int(space["bits"]) + biases) for n, k in pairwise(space["sizes"]))


def read_codes(raw: bytes, space: Fields, code: str) -> tuple[list[WholeLayer], int]:
    """The layers of the raw weights, and how many bits their code writes them in; raises ``Rejected``."""
    bits, at, length = space["bits"], 0, fixed_bits(space)
    if raw[-1] % (1 << (-length % 8)):
        raise Rejected("weights.file: its last bits, which only fill up a byte, are not 0")

    def take(count: int, width: int) -> list[int]:
        """The next ``count`` numbers of ``width`` bits."""
        nonlocal at
        start, at = at, at + count * width
        part = raw[start // 8 : -(-at // 8)]
        text = format(int.from_bytes(part, "big"), f"0{8 * len(part)}b")[start % 8 :]
        return [int(text[place : place + width], 2) for place in range(0, count * width, width)]

    layers = []
    for inputs, units in pairwise(space["sizes"]):
        shift, scale = map(_half_units, take(2, _HALF))
        # in units of 2^-24, or of 2^-48 where a code is itself a float16
        halves = space["encoding"] == "float16"
        exponent, shift = (48, shift << 24) if halves else (24, shift)
        codes, rows = array("H"), list[Sequence[int]]()
        for _ in range(units):
            row = take(inputs, bits)
            codes.extend(row)
            values = [shift + scale * value for value in (map(_half_units, row) if halves else row)]
            rows.append(values if halves else array("q", values))
        biases = [_half_units(pattern) for pattern in take(units, _HALF)] if space["biases"] else [0] * units
        layers.append((rows, [bias << (exponent - 24) for bias in biases], exponent))
        if code == "enumerative":
            length += _enumerative(codes, 1 << bits) - len(codes) * bits
    return layers, length


def _half_units(pattern: int) -> int:
    """The float16 of these bits as a whole number of 2^-24."""
    value: float = struct.unpack("<e", pattern.to_bytes(2, "little"))[0]
    if not math.isfinite(value):
        raise Rejected("weights.file: holds NaN or an infinity")
    return int(math.ldexp(value, 24))


def _enumerative(codes: array[int], symbols: int) -> int:
    """The bits of the enumerative code of these codes."""
    n, sequences, total = len(codes), 1, 0
    for symbol in range(symbols):
        count = codes.count(symbol)
        total += count
        sequences *= math.comb(total, count)
    return (math.comb(n + symbols - 1, symbols - 1) - 1).bit_length() + (sequences - 1).bit_length()


def _count_exactly(layers: list[WholeLayer], denominator: int, images: Sequence[bytes], labels: bytes) -> int:
    """The errors of the smallest index of a largest logit, in whole numbers: all units of a layer in one long one."""
    packed, largest, scale = [], 255, denominator
    for rows, biases, exponent in layers:
        # h is a whole number over scale, so that z = W h + b is one over scale 2^exponent
        own = [bias * scale for bias in biases]
        largest = max(sum(map(abs, row)) * largest + abs(bias) for row, bias in zip(rows, own, strict=True)) or 1
        slot = 8 * (largest.bit_length() // 8 + 1)
        half = 1 << (slot - 1)
        width, offset = slot // 8, joined([half] * len(rows), slot // 8)
        columns = [joined([weight + half for weight in column], width) - offset for column in zip(*rows, strict=True)]
        packed.append((columns, joined([bias + half for bias in own], width), width, half, len(rows)))
        scale <<= exponent
    errors = 0
    for pixels, label in zip(images, labels, strict=True):
        z: Any = pixels
        for index, (columns, start, width, half, units) in enumerate(packed):
            h = [max(0, value) for value in z] if index else z
            raw = (sum(map(mul, columns, h)) + start).to_bytes(units * width, "little")
            z = [int.from_bytes(raw[at : at + width], "little") - half for at in range(0, len(raw), width)]
        errors += z.index(max(z)) != label
    return errors


# By the examples that the prior of a Gaussian over networks did not see: one network is drawn anew for every image.

_TIE = 2.0**-20
_NEAR = 2.0**-30  # what float64 may do to a margin, generously
_FLOAT_BITS = 53


def check_pac_bayes(document: Fields, files: Files, effort: Effort) -> None:
    """Derive the divergence and the bounds again, and draw some of the outcomes again, picked at random."""
    decoder, prior, counts = document["decoder"], document["prior"], document["counts"]
    draws, errors, m = counts["draws"], counts["errors"], counts["examples"]
    sizes = [4 * document["parameters"]] * 3 + [-(-draws // 8)]
    raw = {
        name: files.beside(document["files"][name], f"files.{name}", size)
        for name, size in zip(PAC_FILES, sizes, strict=True)
    }
    outcomes = raw["outcomes"]
    means, scales, prior_means = (_numbers(raw[name], "float32", f"files.{name}") for name in PAC_FILES[:3])
    if not all(scale > 0 for scale in scales):
        raise Rejected("files.scale: holds a standard deviation that is not above 0")
    stated = Fraction(document["divergence"])
    _check_divergence(means, scales, prior_means, Fraction(prior["scale"]), stated)
    if outcomes[-1] % (1 << (-draws % 8)):
        raise Rejected(f"files.outcomes: expected {len(outcomes)} bytes, one bit a draw, filled up with zeros")
    found = int.from_bytes(outcomes, "big").bit_count()
    if found != errors:
        raise Rejected(f"counts.errors: expected {found}, counted in the outcomes, found {errors}")
    _check_claims(document)
    images, labels = files.examples(document)
    chosen, key = bound_part(document["data"]), bytes.fromhex(document["draws"]["key"])
    if "holdout" in document:
        _check_prior(document, prior_means, [images[i] for i in chosen], bytes([labels[i] for i in chosen]), effort)
    numbers = random.SystemRandom().sample(range(draws), min(effort.redraw, draws))
    examples = [chosen[random_numbers(key, number, 0)[0] * m >> 64] for number in numbers]
    parts = [images[example] for example in examples], [labels[example] for example in examples]
    wrong = [outcomes[number // 8] >> (7 - number % 8) & 1 for number in numbers]
    processes = effort.processes if len(numbers) * len(means) > _SHARED else 1
    shared(processes, draw_again, (decoder, means, scales, key), numbers, *parts, wrong)


def _check_prior(document: Fields, means: Numbers, images: Sequence[bytes], labels: bytes, effort: Effort) -> None:
    """Count the errors of the prior's mean network again, and bound its risk."""
    holdout, sizes, k = document["holdout"], document["decoder"]["sizes"], document["holdout"]["errors"]
    check_risks("holdout.claims", holdout["claims"], k, len(images), lambda claim: Fraction(claim["share"]))
    scaling = {"kind": "unit", "mean": "0", "scale": str(document["decoder"]["maximum"])}
    decoder = {"activation": "relu", "normalization": scaling, "unit": UNITS["float64"]}
    layers = _layers(means, sizes, True)
    fewest, most = count_all(layers, decoder, images, labels, effort)
    if not fewest <= k <= most:
        raise Rejected(f"holdout.errors: expected {fewest}, counted again, found {k}")


def draw_again(
    decoder: Fields,
    means: Numbers,
    scales: Numbers,
    key: bytes,
    numbers: Sequence[int],
    images: Sequence[bytes],
    labels: Sequence[int],
    stated: Sequence[int],
) -> None:
    """Raise ``Rejected`` unless each of these draws, given its image, is an error just where that is stated."""
    pairs = PairDraws(decoder, means, scales)
    for number, image, label, wrong in zip(numbers, images, labels, stated, strict=True):
        margin = pairs.margin(image, label, random_numbers(key, number, pairs.units)[1])
        if not (margin < _TIE + _NEAR if wrong else margin > _TIE - _NEAR):
            raise Rejected(f"files.outcomes: draw {number} is {'no' if wrong else 'an'} error, stated otherwise")


def _check_claims(document: Fields) -> None:
    """Confirm the bounds of a PAC-Bayes certificate, given what it counts and its divergence."""
    counts, divergence = document["counts"], Fraction(document["divergence"])
    for index, claim in enumerate(document["claims"]):
        q, share, of_draws = claim["empirical_risk"], Fraction(claim["share"]), Fraction(claim["share_monte_carlo"])
        estimated = partial(confirms, "clopper-pearson", counts["errors"], counts["draws"], of_draws)
        check_risk(f"claims[{index}].empirical_risk", q, estimated)
        confirmed = partial(pac_bayes_confirms, int(Fraction(q) * ONE), counts["examples"], divergence, share)
        check_risk(f"claims[{index}].risk", claim["risk"], confirmed)


def least_forgery(document: Fields) -> int:
    """The fewest errors that, were they called none, would change some claim by a unit of its second digit.

    That is, counted as errors they would raise its risk by such a unit, or to 1. Where all claims are vacuous, so that
    none can change, it is a hundredth of the draws. Where claims do not follow from the counts, for which the check is
    to reject the certificate, nothing is looked for, as that might take long: it is all draws.
    """
    try:
        _check_claims(document)
    except Rejected:
        return int(document["counts"]["draws"])
    found = [_forgery(document, claim) for claim in document["claims"] if Fraction(claim["risk"]) < 1]
    return min(found, default=-(-document["counts"]["draws"] // 100))


def _forgery(document: Fields, claim: Fields) -> int:
    counts, divergence = document["counts"], Fraction(document["divergence"])
    m, draws, errors = counts["examples"], counts["draws"], counts["errors"]
    risk, share, of_draws = (Fraction(claim[name]) for name in ("risk", "share", "share_monte_carlo"))
    stated = int(risk * ONE)
    short = min(ONE, stated + 10 ** max(0, len(str(stated)) - 2)) - 1  # of the risk that it would be
    q = _least(ONE, lambda q: not pac_bayes_confirms(q, m, divergence, share, short))
    return _least(draws - errors, lambda f: not confirms("clopper-pearson", errors + f, draws, of_draws, q - 1))


def _least(most: int, holds: Callable[[int], bool]) -> int:
    """The least number from 1 on for which ``holds``, which it does for all from there to ``most`` on."""
    return min(most, 1 + bisect_left(range(1, most), True, key=holds))


def detection(draws: int, forged: int, redrawn: int) -> float:
    """``1 - C(N - F, n) / C(N, n)``: of N draws of which F are forged, n different ones have one among them."""
    if redrawn > draws - forged:
        return 1.0
    ends = (draws - forged, draws - redrawn), (draws, draws - forged - redrawn)
    above, below = (sum(math.lgamma(end + 1) for end in pair) for pair in ends)
    return 0.0 - math.expm1(min(0.0, above - below))  # which is no -0.0


def bound_part(data: Fields) -> list[int]:
    """The examples that the bound is evaluated on: all but those ranked first by the SHA-256 of "seed:index"."""
    seed, size = data["part"]["seed"], data["part"]["prior_examples"]
    ranked = sorted(range(data["examples"]), key=lambda index: hashlib.sha256(f"{seed}:{index}".encode()).digest())
    return sorted(ranked[size:])


def _check_divergence(means: Numbers, scales: Numbers, prior_means: Numbers, s: Fraction, stated: Fraction) -> None:
    """KL = (sum scale² / s² - P + sum (mean - prior_mean)² / s²) / 2 - sum ln scale + P ln s, s the prior's scale."""
    count, ldexp = len(means), math.ldexp
    squares = 0  # in units of 2^-298: every float32 is a whole number of 2^-149
    for mean, scale, prior_mean in zip(means, scales, prior_means, strict=True):
        own, shift = int(ldexp(scale, 149)), int(ldexp(mean, 149)) - int(ldexp(prior_mean, 149))
        squares += own * own + shift * shift
    half = (Fraction(squares, 1 << 298) / s**2 - count) / 2
    step = Fraction(1, 10**KL_DIGITS)
    bits, low, high = 384, 0, 0
    for start in range(0, count, 250):
        parts = [math.frexp(scale) for scale in scales[start : start + 250]]
        product = math.prod(int(ldexp(mantissa, 24)) for mantissa, _ in parts)
        exponent = sum(exponent for _, exponent in parts) - 24 * len(parts)
        ends = _ln(product << max(0, exponent), 1 << max(0, -exponent), bits)
        low, high = low - ends[1], high - ends[0]
    ln_s = _ln(s.numerator, s.denominator, bits)
    least = half + Fraction(low + count * ln_s[0], 1 << bits)
    most = half + Fraction(high + count * ln_s[1], 1 << bits)
    equal = stated == 0 and half == 0 and least <= 0 <= most  # posterior and prior are one
    if not equal and not (most <= stated and stated - step < least):
        found = decimal(max(most, Fraction(0)) + step, KL_DIGITS)[:40]
        raise Rejected(f"divergence: expected {found}, rounded up from the files, found another number")


def random_numbers(key: bytes, number: int, units: int) -> tuple[int, Floats]:
    """The first word of a draw, and one standard normal number a unit, as ``DRAWS`` says."""
    count = 1 + units + units % 2
    first, *words = struct.unpack(f"<{count}Q", hashlib.shake_128(key + number.to_bytes(8, "big")).digest(8 * count))
    noise = []
    for a, b in zip(words[::2], words[1::2], strict=True):
        radius, angle = math.sqrt(-2 * math.log(((a >> 11) + 0.5) * 2.0**-53)), (b >> 11) * (2 * math.pi * 2.0**-53)
        noise += [radius * math.cos(angle), radius * math.sin(angle)]
    return first, noise[:units]


class PairDraws:
    """Draws of a network and an image: the weights are drawn for that image alone."""

    def __init__(self, decoder: Fields, means: Numbers, scales: Numbers) -> None:
        self.maximum, self.layers = decoder["maximum"], []
        parts = zip(_layers(means, decoder["sizes"], True), _layers(scales, decoder["sizes"], True), strict=True)
        for mean, (scale_rows, own) in parts:
            variance = [array("d", (s * s for s in row)) for row in scale_rows], [s * s for s in own]
            self.layers.append([Layer(*each, 0.0, 128, _FLOAT_BITS, 0.0) for each in (mean, variance)])
        self.units = sum(decoder["sizes"][1:])

    def margin(self, pixels: bytes, label: int, noise: Floats) -> float:
        """The label's logit minus the largest other one, for given normal numbers, one a unit."""
        h, at = [pixel / self.maximum for pixel in pixels], 0
        for index, (mean, variance) in enumerate(self.layers):
            try:
                sums, squares = mean.applied(h), variance.applied([value * value for value in h])
                z = [s + e * math.sqrt(v) for s, v, e in zip(sums, squares, noise[at : at + mean.units], strict=True)]
            except OverflowError:  # of what is infinite, or soon would be
                z = [math.inf]
            if not all(map(math.isfinite, z)):
                raise Rejected(f"files.mean: a draw gives a unit of layer {index} that is infinite or NaN")
            h, at = [max(0.0, value) for value in z], at + mean.units
        return z[label] - max((value for place, value in enumerate(z) if place != label), default=-math.inf)


# The whole check.


class Kind(NamedTuple):
    """A kind: its form, what follows from its fields, and its check."""

    form: Fields
    derive: Callable[[Fields], Fields]
    check: Callable[[Fields, Files, Effort], None]


KINDS = {
    HOLDOUT: Kind(_HOLDOUT_FORM, derive_holdout, check_holdout),
    CODE: Kind(_CODE_FORM, derive_code, check_code),
    PAC_BAYES: Kind(_PAC_FORM, derive_pac_bayes, check_pac_bayes),
}


class Redrawn(NamedTuple):
    """The number of draws made again, and with which probability they show that ``forged`` errors are missing.

    Fewer errors called none would change no claim by a unit of its second digit (``least_forgery``).
    """

    draws: int
    redrawn: int
    forged: int
    power: float

    def __str__(self) -> str:
        formula = f"1 - C(N - F, n) / C(N, n) with N = {self.draws:,}, F = {self.forged:,}, n = {self.redrawn:,}"
        return (
            f"Consistent, not proved: of {self.forged:,} errors called none (fewer change no claim by a unit of its "
            f"second digit) {self.redrawn:,} redraws find one with probability "
            f"{percent(Fraction(self.power), False)} ({formula})."
        )


class Checked(NamedTuple):
    """A certificate that passed, with its ``verdict``: ``holds``, or where draws were made again ``consistent``.

    Errors are in ``examples``, or where ``again`` says what was drawn again, in as many draws.
    """

    certificate: str
    verdict: str
    examples: int
    errors: int
    statement: list[str]
    seconds: float
    again: Redrawn | None = None
    official: bool = True  # whether the examples are official ones; if not, the statement begins by saying so
    sha256: str = ""  # of the certificate
    total_delta: str = ""  # of all claims together
    former: Sequence[str] = ()  # what its form, of an earlier release, leaves open

    def __str__(self) -> str:
        counted, power = f"{self.errors} errors in {self.examples:,} examples, counted again", []
        if self.again is not None:
            counted = f"{self.errors} errors in {self.examples:,} draws as stated, {self.again.redrawn:,} made again"
            power = [str(self.again)]
        of = "" if self.official else " of data that nobody vouches for"
        counted = f"{shown(self.certificate)}: {self.verdict}{of}; {counted} in {self.seconds:.1f} s"
        together = f"All claims together hold with confidence 1 - {self.total_delta}."
        return "\n".join([counted, *(f"  {line}" for line in [*power, *self.former, *self.statement, together])])

    def to_dict(self) -> Fields:
        """Plain values, for JSON."""
        return {**self._asdict(), "again": None if self.again is None else self.again._asdict()}


def check(
    path: str,
    data_folders: list[str],
    processes: int = 1,
    redraw: int | None = None,
    most_work: int = MOST_WORK,
    tell: Callable[[str], None] = lambda line: None,
) -> Checked:
    """Check the certificate at ``path`` and return what it says; raises ``Rejected``, naming the field.

    More ``processes`` share the work where it is long; the program that asks for them needs the usual
    ``if __name__ == "__main__"``. Of a PAC-Bayes certificate, and no other, ``redraw`` outcomes are drawn again; if
    not given, as many as find the least forgery that matters with probability ``POWER``. One that announces more than
    ``most_work`` is not begun; ``tell`` is told beforehand how long it will be, where that is more than a few seconds.
    """
    begun, document = time.perf_counter(), read(path)
    files, counts = Files(os.path.dirname(os.path.abspath(path)), data_folders), document["counts"]
    again, counted = None, counts["examples"]
    if redraw is not None and document["schema"] != PAC_BAYES:
        raise Rejected(f"--redraw: expected with a {PAC_BAYES} alone; {shown(path)} has no draws to repeat")
    try:
        check_document(document)
        work = allowed_work(document, 0, most_work)
        if document["schema"] == PAC_BAYES:
            counted, forged = counts["draws"], least_forgery(document)
            if redraw is None:
                redraw = _least(counted, lambda n: detection(counted, forged, n) >= POWER)
            again = Redrawn(counted, min(redraw, counted), forged, detection(counted, forged, redraw))
            work = allowed_work(document, again.redrawn, most_work)
        if work > 5e9:
            tell(f"{shown(path)}: about {work / 1e9:.0f} s of processor time, or less, on at most {processes} cores")
        KINDS[document["schema"]].check(document, files, Effort(processes, again.redrawn if again else 0, most_work))
    except Rejected:
        raise
    except (ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise Rejected(f"{shown(path)}: cannot be checked ({type(error).__name__})") from None
    statement, sha256 = document["statement"], hashlib.sha256(canonical(document)).hexdigest()
    seconds, verdict = time.perf_counter() - begun, "holds" if again is None else "consistent"
    claims = document["claims"] + document.get("holdout", {"claims": []})["claims"]
    told = vouched(document), sha256, str(sum(Fraction(claim["delta"]) for claim in claims)), former_form(document)
    return Checked(path, verdict, counted, counts["errors"], statement, seconds, again, *told)


def announce(line: str) -> None:
    """Print on standard error at once."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """``checker.py CERTIFICATE [--data-dir FOLDER] …``: status 0 if it passes, 2 with one line if not."""
    options = dict(zip(arguments[1::2], arguments[2::2], strict=False))
    numbers = [options.pop(name, None) for name in ("--redraw", "--most-work")]
    well = len(arguments) % 2 == 1 and not arguments[0].startswith("-") and set(options) <= {"--data-dir"}
    if not well or not all(number is None or (number.isdecimal() and len(number) < 30) for number in numbers):
        print("usage: python checker.py CERTIFICATE [--data-dir FOLDER] [--redraw N] [--most-work N]", file=sys.stderr)
        return 2
    folders = [folder for folder in (options.get("--data-dir"), os.environ.get("LEAN_MNIST_DATA"), "data") if folder]
    redraw, most = (None if number is None else int(number) for number in numbers)
    most = MOST_WORK if most is None else most
    try:
        print(check(arguments[0], folders, min(os.cpu_count() or 1, 16), redraw, most, announce), flush=True)
    except Rejected as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that lacks a character shows a ?
    sys.exit(main(sys.argv[1:]))
