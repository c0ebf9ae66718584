"""The list of runs: figures of whole ones, and one line for whatever else lies in the folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lean_mnist import runs
from tests.support.training_cases import Result, call

Call = Callable[..., Result]


def write_run(name: str, *, config: Any = None, **changes: Any) -> Path:
    folder = Path("runs", name)
    folder.mkdir(parents=True)
    summary = {
        "dataset": "digits",
        "test_accuracy": 0.98423,
        "validation_accuracy": 0.97,
        "certificate": {
            "path": "x",
            "claims": [
                {"bound": "kl", "delta": "7/200", "risk": "0.020812", "vacuous": False},
                {"bound": "kl", "delta": "1/1000000000", "risk": "0.03", "vacuous": False},
            ],
        },
        "checks": {"comparisons": 11, "gradchecks": 3, "screens": 0, "failures": 0, "verdict": "passed"},
        "seconds": 83.4,
        "steps": 330,
        **changes,
    }
    values = {"dataset": "digits", "lr": 0.1, "hidden": [128], "run_name": name, "epochs": 30}
    (folder / "config.json").write_text(json.dumps(values if config is None else config), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    os.utime(folder / "config.json", (len(name), len(name)))
    return folder


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(runs.main, list(arguments), monkeypatch, capsys)


def test_runs_are_listed_with_their_figures_oldest_first(called: Call) -> None:
    write_run("the-later-one", test_accuracy=1, seconds=7261, checks={"comparisons": 2, "failures": 1})
    write_run("early")
    write_run("uncertified", certificate={"path": None, "why_not": "…"}, seconds={"prior": 1.5, "posterior": 2})
    write_run("bayes", test_accuracy=None, test_risk=0.25, certificate="x", claims=[{"risk": "1", "delta": "1e-9"}])
    assert called() == Result(
        0,
        "run            data        test  certified     checks     time\n"
        "bayes          digits   75.00 %    vacuous  14 passed     1:23\n"
        "early          digits   98.42 %   ≤ 2.09 %  14 passed     1:23\n"
        "uncertified    digits   98.42 %       none  14 passed     0:04\n"
        "the-later-one  digits  100.00 %   ≤ 2.09 %   1 FAILED  2:01:01\n"
        "\n"
        "certified: risk on unseen data, by the first claim of the run's certificate\n",
        "",
    )


def test_two_runs_are_compared_by_what_differs(called: Call) -> None:
    write_run("a", config={"lr": 0.1, "hidden": [128], "bias": True, "gone": 1})
    write_run("b", config={"lr": None, "hidden": [64, 32], "bias": True}, test_accuracy=0.9)
    status, out, _ = called("a", "runs/b")
    assert status == 0
    assert out == (
        "            a          b\n"
        "data        digits     digits\n"
        "test        98.42 %    90.00 %\n"
        "validation  97.00 %    97.00 %\n"
        "certified   ≤ 2.09 %   ≤ 2.09 %\n"
        "confidence  1 - 7/200  1 - 7/200\n"
        "checks      14 passed  14 passed\n"
        "time        1:23       1:23\n"
        "\n"
        "--lr        0.1        not given\n"
        "--hidden    128        64 32\n"
        "--gone      1          not given\n"
    )
    _, out, _ = called("a")
    assert "--bias      yes\n" in out


def test_json_has_everything(called: Call) -> None:
    write_run("a")
    folder = write_run("b")
    (folder / "config.json").write_text('{"lr": 0.5, "odd": 1e999}', encoding="utf-8")
    found = json.loads(called("a", "b", "--json").out, parse_constant=pytest.fail)
    assert [run["test_accuracy"] for run in found["runs"]] == [0.98423, 0.98423]
    assert found["runs"][0]["certified_risk"] == "0.020812"
    assert found["differing"]["lr"] == [0.1, 0.5]
    assert json.loads(called("--json").out).keys() == {"runs"}


def broken(called: Call) -> dict[str, str]:
    status, out, err = called()
    assert (status, err) == (0, "")
    assert all(line.isprintable() for line in out.splitlines())
    assert max(map(len, out.splitlines())) <= 80
    lines = [line.split("  ", 1) for line in out.splitlines()[1:] if "  " in line]
    return {name.strip(): said.strip() for name, said in lines}


def test_what_is_no_whole_run_is_one_line_and_breaks_nothing(called: Call) -> None:
    write_run("good")
    for name, text in {
        "nothing": None, "no-json": "{", "a-list": "[1]", "deep": "[" * 9999, "nan": '{"lr": NaN}',
        "twice": '{"a":1,"a":2}',
    }.items():  # fmt: skip
        Path("runs", name).mkdir()
        if text is not None:
            Path("runs", name, "config.json").write_text(text, encoding="utf-8")
    faulty: dict[str, dict[str, Any]] = {
        "text": {"test_accuracy": "0.9"}, "beyond": {"test_accuracy": 2}, "slow": {"seconds": 1e300},
        "risk": {"certificate": {"claims": [{"risk": "1e999999999", "delta": "1"}]}}, "checks": {"checks": None},
        "delta": {"certificate": {"claims": [{"risk": "0.1", "delta": "\u001b[2J"}]}},
    }  # fmt: skip
    for name, changes in faulty.items():
        write_run(name, **changes)
    write_run("\x1b[2Jname\n", dataset="\x1b[31m\u202edata" * 20)
    write_run("long" * 50)
    Path("runs", "a-file").write_text("", encoding="utf-8")
    Path("runs", "link").symlink_to("link")
    os.mkfifo("runs/nothing/config.json")
    found = broken(called)
    assert found["good"].startswith("digits")
    assert found["nothing"].startswith("config.json: expected a run's config.json, found:")
    assert found["text"].startswith("summary.json: test_accuracy: expected")
    assert len(found) == 15
    assert r"\x1b[2Jname\n" in found
    assert found["longlonglong…onglonglonglong"].startswith("digits")
    assert json.loads(called("--json").out, parse_constant=pytest.fail)["runs"]


def test_a_run_that_is_not_finished_says_where_it_stands(called: Call) -> None:
    folder = write_run("going")
    (folder / "summary.json").unlink()
    assert broken(called) == {"going": "not finished"}
    lines = ['"cut off"}', json.dumps({"step": 11, "name": "epoch", "value": {"epoch": 3}}), '{"step": 12, "na']
    (folder / "metrics.jsonl").write_text("\n".join(["x" * 99_999, *lines]), encoding="utf-8")
    assert broken(called) == {"going": "not finished: epoch 3 of 30 is done"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["erly"], "erly: expected the name or folder of a run in runs (did you mean 'early'?)"),
        (["\x1b"], r"\x1b: expected the name or folder of a run in runs"),
        (["a" * 5000], "expected the name or folder of a run in runs"),
        (["runs"], "runs: config.json: expected a run's config.json, found: No such file or directory"),
        (["--runs-dir", "nowhere"], "nowhere: expected a folder of runs, found: No such file or directory"),
        (["--runs-dir", "a\0b"], "embedded null"),
        (["a", "b", "c"], "'c': unexpected argument"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, called: Call) -> None:
    write_run("early")
    status, out, err = called(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_no_runs_yet_is_said(called: Call) -> None:
    for _ in range(2):
        assert called() == Result(0, "no runs in runs yet\n", "")
        Path("runs").mkdir(exist_ok=True)
