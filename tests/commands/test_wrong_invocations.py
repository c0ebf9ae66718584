"""Sixty and more wrong invocations of all commands: one line each that says what is wrong, and nothing is touched."""

import re
import shlex
from pathlib import Path

import pytest

from lean_mnist import __main__ as family
from lean_mnist.data.names import DATA_VARIABLE
from tests.support.training_cases import call, tree

# A command line behind "python -m lean_mnist", and what the line says; "a-file" is a text, "empty" an empty folder.
WRONG = [
    ("tain", "'tain': no such command (did you mean 'train'?); --help lists them"),
    ("Train", "'Train': no such command (did you mean 'train'?)"),
    ("--train", "'--train': no such command (did you mean 'train'?)"),
    ("help", "'help': no such command"),
    ("''", "'': no such command"),
    ("train --epoch 3", "--epoch: no such option (did you mean '--epochs'?)"),
    ("train --helb", "--helb: no such option (did you mean '--help'?)"),
    ("train -e 3", "-e: no such option"),
    ("train 3", "'3': unexpected argument"),
    ("train --epochs", "--epochs: expected one argument"),
    ("train --epochs=", "--epochs: expected a whole number, found ''"),
    ("train --epochs 1e3", "--epochs: expected a whole number, found '1e3'"),
    ("train --lr 0,1", "--lr: expected a number, found '0,1'"),
    ("train --optimizer SGD", "--optimizer: expected one of sgd, adam, adamw, rmsprop, found 'SGD'"),
    ("train --dataset fashion", "--dataset: expected one of"),
    ("train --hidden 128,64", "--hidden: expected a whole number, found '128,64'"),
    ("train --quiet yes", "'yes': unexpected argument"),
    ("train --quiet=yes", "--quiet/--no-quiet: ignored explicit argument 'yes'"),
    ("train --no-epochs", "--no-epochs: no such option"),
    ("train --preset bset", "(did you mean 'best'?)"),
    ("train --resume", "checkpoints: no run to resume"),
    ("train --resume nowhere", "--resume nowhere: expected a run with checkpoints/nowhere/last.pt, found none"),
    ("train --resume empty", "--resume empty: empty has no last.pt yet"),
    ("train --init-from nowhere --dataset digits", "--init-from: nowhere: expected a run, as in checkpoints"),
    ("train --threads 0", "--threads: expected from 1 to 1024, found 0"),
    ("train --config a-file", "a-file: expected a config.json that a run wrote"),
    ("train --rollbacks 2", "--rollbacks: expected --on-nonfinite rollback beside it"),
    ("train --dataset digits --runs-dir a-file", "expected a folder that can be written, found: Not a directory"),
    ("evaluate", "checkpoint: expected, found none"),
    ("evaluate nowhere", "nowhere: expected a run, as in checkpoints, its folder, or a"),
    ("evaluate empty", "empty: expected a run, as in checkpoints"),
    ("evaluate a-file", "a-file: expected a checkpoint, found a file that is none"),
    ("evaluate a b", "'b': unexpected argument"),
    ("evaluate a-file --split tst", "--split: expected one of test, validation, train, found 'tst'"),
    ("runs --runs-dir nowhere", "nowhere: expected a folder of runs, found: No such file or directory"),
    ("runs --runs-dir a-file", "a-file: expected a folder of runs, found: Not a directory"),
    ("runs nowhere --runs-dir empty", "nowhere: expected the name or folder of a run in empty"),
    ("runs --jsn", "--jsn: no such option (did you mean '--json'?)"),
    ("check", "subject: expected, found none"),
    ("check torch:square", "--inputs: expected the arguments to check it at"),
    ("check torch:sqare --inputs randn(3)", "sqare"),
    ("check square --inputs randn(3)", "square"),
    ("check torch:square --inputs rand(", "inputs, at 6: expected a size, req or a dtype, found the end"),
    ("check torch:square --inputs randn(3) --dtypes float6", "(did you mean 'float64'?)"),
    ("check torch:square --inputs randn(3) --json nowhere/x.json", "--json: nowhere: no such folder"),
    ("replay", "bundle: expected, found none"),
    ("replay nowhere.pt", "nowhere.pt: expected"),
    ("render --count -1", "count"),
    ("render --errors", "--errors: expected --checkpoint as well"),
    ("render --palette blok", "(did you mean 'blocks'?)"),
    ("render --checkpoint nowhere", "nowhere: expected a run, as in checkpoints"),
    ("report", "run: expected, found none"),
    ("report nowhere", "nowhere: expected the name or folder of a run in runs"),
    ("report empty", "empty: config.json: expected a run's config.json, found: No such file"),
    ("certify", "expected one CHECKPOINT, or --check FILE"),
    ("certify nowhere", "nowhere: expected a run, as in checkpoints"),
    ("certify --check nowhere.json", "nowhere.json: expected a certificate"),
    ("certify --check a-file --chek x", "--chek: no such option (did you mean '--check'?)"),
    ("certify nowhere.json --code fixd", "--code: expected one of fixed, enumerative, found 'fixd'"),
    ("verify --only no.such", "no.such"),
    ("verify --target a:b", "--target: it says where --selftest plants its bugs"),
    ("verify --coq --selftest", "--coq: it checks theorems; expected it without --selftest"),
    ("pacbayes --prior learn", "--prior: expected one of learnt, data-free, found 'learn' (did you mean 'learnt'?)"),
    ("pacbayes --delta", "--delta: expected at least one argument"),
    ("pacbayes --prior-scale 0", "prior-scale: expected one or more numbers above 10^-30 and below 10^6, found 0"),
    ("pacbayes --epochs 0", "epochs: expected at least 1, found 0"),
    ("learners nowhere", "nowhere"),
    ("learners --train a-file", "--train: expected both --train FILE and --test FILE"),
    ("learners --budget 7", "--budget: expected with --train alone"),
    ("programs --inputs x", "--inputs: expected a whole number, found 'x'"),
    ("programs --ones half", "--ones"),
    ("predict", "checkpoint: expected, found none"),
    ("predict one.png", "paths: expected, found none; usage: "),
    ("predict nowhere x.png", "nowhere"),
    ("predict nowhere x.png --probabilities --top 5", "--top: without effect beside --probabilities"),
    ("export", "checkpoint: expected, found none"),
    ("export nowhere", "nowhere"),
]


def test_there_are_sixty_of_all_commands() -> None:
    assert len(WRONG) >= 60
    assert {command.name for command in family.COMMANDS} <= {line.partition(" ")[0] for line, _ in WRONG}


@pytest.mark.parametrize(("line", "message"), WRONG, ids=[line for line, _ in WRONG])
def test_a_wrong_invocation_is_one_line_and_touches_nothing(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    Path("a-file").write_text("some text\n", encoding="utf-8")
    Path("empty").mkdir()
    before = tree(tmp_path)
    status, out, err = call(family.main, shlex.split(line), monkeypatch, capsys)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"error: .{10,400}\n", err)
    assert message in err
    assert tree(tmp_path) == before
