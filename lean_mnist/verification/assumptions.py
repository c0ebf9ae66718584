"""Assumptions of verdicts. Each obligation names its own; the report lists those in use once, at its end."""

SYMPY = "SymPy differentiates, substitutes and simplifies soundly"
SUMS = "every step of the normal form of sums (verification/methods/sums.py) replaces an expression by an equal one"
REALS = "proofs are about real numbers and sizes of at least 1; that tensors follow is checked in the group tensors"
PAIRS = "the activation is differentiable at every pre-activation; where ReLU is not, its convention is used"
CALCULUS = "textbook calculus: the chain rule, Taylor's theorem, the mean value inequality, monotonicity of exp and log"
FRACTIONS = "CPython's integer and Fraction arithmetic is exact"
CASES = "beyond the cases that were tried, a property test is evidence and not proof"
GRADCHECK = "torch.autograd.gradcheck: float64 central differences (step 1e-6), to 1e-7 absolute and 1e-6 relative"
IEEE = "float64 addition and multiplication are exact where the result needs at most 53 bits (IEEE 754)"
MPMATH = "mpmath evaluates exp, log, tanh and erf correctly to the digits it is asked for"
AUTOGRAD = "PyTorch's autograd differentiates the independently written reference network correctly in float64"
TORCH = "Python, NumPy and PyTorch run the code as it is written"
_ELSEWHERE = "assumed here, proved in proofs/convergence"
STRONG = (
    "a μ-strongly convex, L-smooth f has ⟨∇f(θ), θ−θ*⟩ ≥ μL/(μ+L) ‖θ−θ*‖² + 1/(μ+L) ‖∇f(θ)‖² and "
    f"‖∇f(θ)‖ ≥ μ ‖θ−θ*‖ (Nesterov, 2018, Theorems 2.1.12 and 2.1.10): {_ELSEWHERE}"
)
CONVEX = (
    "a convex, L-smooth f has f(θ) − f* ≤ ⟨∇f(θ), θ−θ*⟩, ‖∇f(θ)‖² ≤ 2L (f(θ) − f*) and "
    f"f(θ−αg) ≤ f(θ) − α⟨∇f(θ), g⟩ + α²L/2 ‖g‖² (Nesterov, 2018, Theorem 2.1.5): {_ELSEWHERE}"
)
NOISE = "the stochastic gradient has mean ∇f(θ) and variance at most σ², independently at each step"
SMOOTH = f"an L-smooth f has f(θ−αg) ≤ f(θ) − α⟨∇f(θ), g⟩ + α²L/2 ‖g‖² (Nesterov, 2018, Lemma 1.2.3): {_ELSEWHERE}"
STEP = "plain SGD steps by θ − αg; checked exactly by convergence.sgd-enumerated, gd-quadratic and their like"
INDUCTION = (
    "the argument around the inequalities that are checked (induction on t, expectation step by step) is sound: "
    f"{_ELSEWHERE}"
)
LIBM = "math.exp and math.log round as the C library that Lean's Float.exp and Float.log call"
COQ = (
    "Coq's kernel is sound, so are the axioms that proofs/assumptions.txt names, and the code computes what proofs/ "
    "defines: both run on fractions and are compared (tests/verification/test_oracle.py), and are read side by side"
)

SYMBOLIC = (SYMPY, SUMS, REALS)  # of every proof for all sizes
ANY = (*SYMBOLIC, PAIRS)  # of a proof for any activation
# What a theorem that states the obligation does not need.
PROVED = (SYMPY, SUMS, CALCULUS, STRONG, CONVEX, SMOOTH, INDUCTION)
