"""Perceptrons: learning in blocks equals the definition and MLCERT's published results; the command certifies them."""

import itertools
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lean_mnist.errors import ArgumentError, BoundError, ConfigError, DataError
from lean_mnist.generalization.learners.experiments import (
    LEARNERS,
    MLCERT,
    PUBLISHED,
    LearnerSettings,
    certify_learner,
    learn_and_count,
    read_examples,
    results_table,
    union_risk,
)
from lean_mnist.generalization.learners.perceptrons import (
    BudgetKernelPerceptron,
    DescriptionKernelPerceptron,
    Examples,
    KernelPerceptron,
    Learner,
    LinearParameters,
    Perceptron,
    correct,
    linear_kernel,
    ordered_sum,
    quadratic_kernel,
)
from lean_mnist.learners import main
from tests.support.shared_data import folder_with


@pytest.fixture(scope="module")
def data() -> Path:
    return folder_with("mlcert/kernel_perceptron") / "mlcert" / "kernel_perceptron"


def random_examples(m: int, n: int, seed: int, noise: float = 0.2) -> Examples:
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    x = random.normal(0, 1, (m, n)).astype(np.float32)
    x[m // 2] = x[0]  # one example twice, and one of zeros
    x[m // 3] = 0
    label = x @ random.normal(0, 1, n) + noise * random.normal(0, 1, m) > 0
    return Examples(x, label)


def all_learners(n: int) -> list[Learner]:
    return [
        Perceptron(n),
        KernelPerceptron(n),
        KernelPerceptron(n, "quadratic"),
        BudgetKernelPerceptron(n, 4),
        BudgetKernelPerceptron(n, 0, "quadratic"),
        DescriptionKernelPerceptron(n, 5, 9),
        DescriptionKernelPerceptron(n, 2, 1000),
    ]


def by_definition(learner: Learner, examples: Examples, epochs: int) -> Any:
    """One example after another: a mistake changes the parameters, and nothing else does."""
    parameters = learner.initial(examples)
    for _, index in itertools.product(range(epochs), range(len(examples))):
        if learner.predict(parameters, examples.x[index : index + 1])[0] != examples.label[index]:
            parameters = learner.mistaken(parameters, examples, index)
    return parameters


@pytest.mark.parametrize("learner", all_learners(3), ids=lambda learner: type(learner).__name__)
@pytest.mark.parametrize(("m", "epochs", "seed"), [(23, 4, 0), (7, 30, 1), (1, 3, 2)])
def test_learning_is_as_defined(learner: Learner, m: int, epochs: int, seed: int) -> None:
    examples = random_examples(m, 3, seed)
    expected = by_definition(learner, examples, epochs)
    parameters, computed = learner.learn(examples, epochs)
    assert learner.state(parameters) == learner.state(expected)
    assert computed <= epochs


def test_a_learner_that_skips_an_update_is_caught() -> None:
    class Forgetful(Perceptron):
        def mistaken(self, parameters: Any, examples: Examples, index: int) -> Any:
            return parameters if index == 2 else super().mistaken(parameters, examples, index)

    examples = random_examples(23, 3, 0)
    forgetful, learnt = by_definition(Forgetful(3), examples, 1), Perceptron(3).learn(examples, 1)[0]
    assert Perceptron(3).state(forgetful) != Perceptron(3).state(learnt)


# The kernel perceptron's results on the synthetic sets are published only as a mean; these are the budget perceptron's,
# which never fills its budget there.
RESULTS = PUBLISHED | {("kernel", f"synthetic {k}"): PUBLISHED["budget", f"synthetic {k}"] for k in (1, 2, 3)}


@pytest.mark.parametrize(("kind", "name"), RESULTS)
def test_published_results(data: Path, kind: str, name: str) -> None:
    settings = next(each for each in MLCERT if each.name == name)
    train, test = settings.read(data)
    counts = learn_and_count(settings.learner(kind, train.x.shape[1]), train, test, settings.epochs)
    assert counts[:2] == RESULTS[kind, name]


def test_description_perceptron_on_the_synthetic_sets(data: Path) -> None:
    learner, results = DescriptionKernelPerceptron(3, 99, 100), []
    for number in (1, 2, 3):
        train, test = MLCERT[number - 1].read(data)
        parameters, _ = learner.learn(train, 5)
        results.append((correct(learner, parameters, train), correct(learner, parameters, test)))
        assert parameters.mistakes <= 100
    assert results == [(962, 971), (936, 942), (994, 993)]


def test_quadratic_kernel_learns_xor() -> None:
    x = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], np.float32)
    examples = Examples(np.hstack((x, np.ones((4, 1), np.float32))), np.array([False, True, True, False]))
    for kernel, expected in (("quadratic", 4), ("linear", 2)):
        learner = KernelPerceptron(3, kernel)
        found = correct(learner, learner.learn(examples, 10)[0], examples)
        assert found >= expected
    assert found < 4  # no line does it


def test_sums_run_in_order() -> None:
    terms = np.array([[1e8], [1.0], [1.0], [-1e8]], np.float32)
    assert ordered_sum(terms).tolist() == [0.0]
    assert ordered_sum(terms[::-1].copy()).tolist() == [0.0]
    assert ordered_sum(terms[[0, 3, 1, 2]]).tolist() == [2.0]
    assert ordered_sum(terms[:0]).tolist() == [0.0]
    random = np.random.default_rng(0)
    w, x = random.normal(0, 1, 50).astype(np.float32), random.normal(0, 1, (6, 50)).astype(np.float32)
    for row in x:
        total = np.float32(0)
        for a, b in zip(w, row, strict=True):
            total = np.float32(np.float32(a * b) + total)
        for b in (-total, np.nextafter(-total, np.float32(99))):
            assert Perceptron(50).predict(LinearParameters(w, b), row[None])[0] == (total + b > 0)
        assert linear_kernel(w[None], row[None])[0, 0] == total
        assert quadratic_kernel(w[None], row[None])[0, 0] == np.float32(total * total)


def test_parameter_bits() -> None:
    assert Perceptron(784).bits(5) == 32 * 784 + 32
    assert KernelPerceptron(3).bits(1000) == 32 * 1000 * 3 + 32 * 1000
    assert BudgetKernelPerceptron(3, 100).bits(1000) == 101 * (33 + 96)
    assert DescriptionKernelPerceptron(3, 99, 100).bits(1000) == 32 + 97 * 100


def test_union_bound_of_a_learner() -> None:
    risk = union_risk(Perceptron(3), 900, 100_000, "1/1000", "hoeffding")
    margin = np.sqrt((128 * np.log(2) + np.log(1000)) / 200_000)
    assert risk is not None
    assert 0 <= float(risk) - (0.009 + margin) < 1e-9
    assert union_risk(Perceptron(3), 900, 100_000, "1/1000") < risk  # type: ignore[operator]
    for n, m in itertools.product((1, 3, 60), (1, 1000, 10**5)):
        assert union_risk(KernelPerceptron(n), 0, m, Fraction(1, 100)) is None
    with pytest.raises(BoundError, match="delta"):
        union_risk(Perceptron(3), 0, 10, 0.1)  # type: ignore[arg-type]
    with pytest.raises(BoundError, match="errors"):
        union_risk(Perceptron(3), 11, 10, "1/10")


def test_a_certified_learner_and_its_line() -> None:
    settings = LearnerSettings("iris 50", "a", "b", 5, 7, 6, 7)
    both = random_examples(700, 2, 3, 0.0)
    train, test = Examples(both.x[:400], both.label[:400]), Examples(both.x[400:], both.label[400:])
    found = certify_learner("perceptron", settings, train, test, "0.01")
    assert found.union_risk == union_risk(Perceptron(2), 400 - found.train_correct, 400, "0.01")
    assert found.holdout_risk is not None
    assert 1 - Fraction(found.test_correct, 300) < found.holdout_risk < Fraction(1, 4)
    assert found.published is None
    kernel = certify_learner("kernel", settings, train, test, "0.01")
    title, first, second = results_table([found, kernel]).splitlines()
    assert title.split()[:3] == ["data", "learner", "train"]
    assert "says nothing" not in first
    assert "DIFFERS" in second
    assert second.count("says nothing") == 1
    with pytest.raises(ArgumentError, match="learner: 'oracle', expected one of perceptron, kernel"):
        certify_learner("oracle", settings, train, test, "0.01")


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["learners", *arguments])
    main()


def test_the_command_reproduces_the_table_of_mlcert(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(monkeypatch, str(data), "--delta", "1e-9")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(MLCERT) * len(LEARNERS)
    assert sum("agrees" in line for line in lines) == len(PUBLISHED)
    assert not any("DIFFERS" in line for line in lines)
    monkeypatch.setenv("LEAN_MNIST_DATA", str(data.parents[1]))
    run_command(monkeypatch, "--learner", "kernel", "--json")
    found = json.loads(capsys.readouterr().out)
    assert [each["data"] for each in found] == [settings.name for settings in MLCERT]
    assert all(each["union_risk"] is None and Fraction(each["holdout_risk"]) < 1 for each in found)


def test_the_command_on_files_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write(tmp_path / "mine.dat", *(f"{k},{k - 3},1,{k > 3}" for k in range(7, -1, -1)))
    run_command(monkeypatch, "--train", str(train), "--test", str(train), "--epochs", "9", "--learner", "budget")
    assert capsys.readouterr().out.splitlines()[1].startswith("mine         budget       8 of 8 ")
    monkeypatch.delenv("LEAN_MNIST_DATA", raising=False)
    for arguments, error, message in (
        (["--train", str(train)], ConfigError, "--train: expected both --train FILE and --test FILE"),
        (
            ["--train", str(train), "--test", str(train), "--budget", "9" * 20],
            ArgumentError,
            "budget: 9{20}, expected 0",
        ),
        ([], DataError, "FOLDER: none given and LEAN_MNIST_DATA is not set"),
        ([str(tmp_path / "nowhere")], DataError, "nowhere: no such folder, expected one that holds out1train.dat"),
        ([str(tmp_path)], DataError, "out1train.dat: expected lines .*, found: No such file"),
        (["--learner", "kernal"], ConfigError, "did you mean 'kernel'"),
    ):
        with pytest.raises(error, match=message):
            run_command(monkeypatch, *arguments)


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_reading_examples(tmp_path: Path) -> None:
    examples = read_examples(write(tmp_path / "a.dat", "1,0.1,-2.5e-2,True", "0,3,4,False"))
    assert examples.x.dtype == np.float32
    assert examples.x.tolist() == [[np.float32(0.1), np.float32(-0.025)], [3.0, 4.0]]
    assert examples.label.tolist() == [True, False]


def test_numbers_are_rounded_once(tmp_path: Path) -> None:
    # Just above and below halfway between 1 and the next float32: through float64 all of them would become 1.
    middle = Fraction(1) + Fraction(1, 2**24)
    tiny = Fraction(1, 10**40)
    for exact, expected in ((middle + tiny, 1 + 2**-23), (middle, 1.0), (middle - tiny, 1.0)):
        digits = str(exact.numerator * 10**50 // exact.denominator)
        text = f"{digits[:-50]}.{digits[-50:]}"
        for sign in ("", "-"):
            examples = read_examples(write(tmp_path / "a.dat", f"0,{sign}{text},True"))
            assert examples.x[0, 0] == (expected if not sign else -expected), text


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "empty, expected lines"),
        (["0,1,2,True", "0,1,2,True"], "line 1: index '0', expected 1, counting down to 0"),
        (["1,1,2,True", "0,1,True"], "line 2: 2 fields after the index, expected 3"),
        (["0,1,2,true"], "line 1: label 'true', expected True or False"),
        (["0,1,x,True"], "line 1: 'x', expected a finite number"),
        (["0,nan,2,True"], "line 1: 'nan', expected a finite number"),
        (["0,1e39,2,True"], "line 1: '1e39', expected a finite number"),
        (["0,1_0,2,True"], "line 1: '1_0', expected a finite number"),
        (["0," + "1" * 5000 + ",2,True"], "line 1: '1{50,58}…, expected a finite number"),
        (["0,1,\x1b[2J,True"], r"line 1: '\\x1b\[2J', expected a finite number"),
        (["0,True"], "line 1: 1 fields after the index, expected 2"),
    ],
)
def test_bad_files(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_examples(write(tmp_path / "a.dat", *lines))


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected lines .*, found: No such file"):
        read_examples(tmp_path / "none.dat")
    (tmp_path / "b.dat").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not a text file"):
        read_examples(tmp_path / "b.dat")


def test_bad_questions() -> None:
    examples = random_examples(5, 3, 0)
    with pytest.raises(ArgumentError, match="epochs: -1"):
        Perceptron(3).learn(examples, -1)
    with pytest.raises(ArgumentError, match=r"x: float32 of shape \(5, 3\), expected float32 of shape \(B, 4\)"):
        KernelPerceptron(4).learn(examples, 1)
    with pytest.raises(ArgumentError, match="budget: -1"):
        BudgetKernelPerceptron(3, -1)
    with pytest.raises(ArgumentError, match="description: -1"):
        DescriptionKernelPerceptron(3, -1, 1)
    with pytest.raises(ArgumentError, match="limit: -1, expected at least 0"):
        DescriptionKernelPerceptron(3, 1, -1)
    with pytest.raises(ArgumentError, match="x: float64"):
        Perceptron(1).learn(Examples(np.zeros((1, 1)), np.array([True])), 1)  # type: ignore[arg-type]
