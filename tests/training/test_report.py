"""The page about a run: every part of it, from the run's own files, and nothing from elsewhere."""

import base64
import importlib
import io
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lean_mnist import report
from lean_mnist.data.datasets import load_digits
from lean_mnist.errors import LeanMnistError
from lean_mnist.pacbayes import run as run_pac_bayes
from lean_mnist.training.arguments import read_arguments
from lean_mnist.training.config import Config
from lean_mnist.training.config.pac_bayes import PacBayesConfig
from lean_mnist.training.config.presets import PRESETS, preset
from lean_mnist.training.report import FILE, tested
from lean_mnist.training.report.page import options_of, write_page
from lean_mnist.training.run import run
from tests.support.golden import assert_golden
from tests.support.html_pages import Element, parsed
from tests.support.training_cases import NAME, FinishedRun, call, digits_config

GOLDEN = Path(__file__).with_name("golden")
ATTACK = "<script>alert('1')</script>\"><img src=x onerror=alert(1)>\u202e\x1b[2J"
Call = Callable[..., Any]


def page_in(folder: Path) -> Element:
    return parsed((folder / FILE).read_text(encoding="utf-8"))


def sections(page: Element) -> dict[str, Element]:
    """The sections of the page by their headings, without what is said of their kind."""
    found = {}
    for section in page.one("main").all("section"):
        headings = section.all("h2")
        name = "".join(child for child in headings[0].children if isinstance(child, str)).strip() if headings else ""
        found[name or section.attributes["aria-label"]] = section
    return found


@pytest.fixture
def copied(short_run: FinishedRun, here: Path) -> Path:
    """A copy of the short run that may be changed; returns its folder."""
    shutil.copytree(short_run.root, here, dirs_exist_ok=True)
    return Path("runs", NAME)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``called(*arguments, status=0)``: output and errors of the command."""

    def use(*arguments: Any, status: int = 0) -> tuple[str, str]:
        found, out, err = call(report.main, [str(argument) for argument in arguments], monkeypatch, capsys)
        assert found == status, err
        return out, err

    return use


def change(path: Path, **fields: Any) -> None:
    """Give a file of JSON other fields; those that are ``None`` are removed."""
    values = json.loads(path.read_text(encoding="utf-8")) | fields
    left = {name: value for name, value in values.items() if value is not None}
    path.write_text(json.dumps(left), encoding="utf-8")


def test_a_run_ends_with_a_page_that_has_every_part(default_run: FinishedRun) -> None:
    page, summary = page_in(default_run.folder), default_run.summary_json
    outline = []
    for one in page.all():
        if one.tag in ("h1", "h2", "h3", "section", "caption", "dt", "summary", "th"):
            outline.append(f"{one.tag}: {one.attributes.get('aria-label', '') if one.tag == 'section' else one.text}")
        elif one.tag == "figcaption" and one.text.endswith(("measured", "checked", "proved")):
            outline.append(f"figure: {one.text}")
    assert_golden(GOLDEN / "report_outline.txt", "\n".join(outline) + "\n")
    assert page.one("h1").text == NAME
    tiles = [tile.text for tile in page.all("div", "tile")]
    assert tiles[0].startswith(f"Test accuracy measured {100 * summary['test_accuracy']:.2f} %")
    assert f"{summary['test_errors']} errors in 360" in tiles[0]
    assert tiles[1].startswith("Risk on unseen images proved ≤ ")
    assert tiles[2].startswith("Gradient checks checked passed")
    assert tiles[3].startswith("Error of a gradient proved ≤ ")


def test_the_confusion_matrix_is_that_of_the_test_split(default_run: FinishedRun) -> None:
    matrix = page_in(default_run.folder).one("table", "matrix")
    rows = [[cell.text for cell in row.all("td")] for row in matrix.one("tbody").all("tr")]
    confusion = default_run.summary.test.confusion.tolist()
    assert [[int(cell.replace("·", "0")) for cell in row[:-1]] for row in rows] == confusion
    assert [row[-1] for row in rows] == [f"{100 * confusion[c][c] / sum(confusion[c]):.2f} %" for c in range(10)]


def test_misread_images_are_there_with_label_prediction_and_confidence(default_run: FinishedRun) -> None:
    found, split = default_run.summary.test, load_digits().test
    wrong = (~found.right).nonzero().flatten()
    surest = wrong[found.confidences[wrong].argsort(descending=True, stable=True)].tolist()
    assert 0 < len(surest) <= 48
    figures = page_in(default_run.folder).one("div", "digits").all("figure")
    for index, figure in zip(surest, figures, strict=True):
        label, prediction = int(split.labels[index]), int(found.predictions[index])
        image = figure.one("img")
        assert image.attributes["alt"] == f"Test image {index}, labelled {label}, read as {prediction}"
        assert figure.one("figcaption").text == f"{label} as {prediction}{100 * found.confidences[index]:.1f} %"
        picture = Image.open(
            io.BytesIO(base64.b64decode(image.attributes["src"].removeprefix("data:image/png;base64,")))
        )
        expected = 255 - np.floor(split.images[index].numpy() / 16 * 255 + 0.5)
        assert (np.asarray(picture) == expected).all()


def test_the_certificate_is_in_plain_words_with_what_it_assumes(default_run: FinishedRun) -> None:
    document = json.loads((default_run.folder / "certificate.json").read_text(encoding="utf-8"))
    certified = sections(page_in(default_run.folder))["What is certified"]
    said = [item.text for item in certified.all("li")]
    assert said == [*document["statement"], *document["assumptions"]]
    (plain,) = certified.all("p", "plain")
    assert plain.text.startswith(
        "proved Of all images drawn like those it was counted on, the network misreads at most "
    )
    assert "a probability of at most 3.50 %" in plain.text
    rows = [row.all("td")[0].text for row in certified.one("tbody").all("tr")]
    assert rows == ["96.5 %", "99.9999999 %"]


def test_nothing_on_the_page_is_fetched_or_run(default_run: FinishedRun) -> None:
    text = (default_run.folder / FILE).read_text(encoding="utf-8")
    page = parsed(text)
    assert not re.search(r"//|url\(|@import|javascript:", re.sub("base64,[A-Za-z0-9+/=]+", "", text))
    assert {one.tag for one in page.all()}.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    for one in page.all():
        assert not [name for name in one.attributes if name.startswith("on") or name in ("srcset", "action")]
        assert one.attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert one.attributes.get("href", "#").startswith("#")
    (policy,) = [one for one in page.all("meta") if one.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    targets = {one.attributes["id"] for one in page.all() if "id" in one.attributes}
    assert {one.attributes["href"][1:] for one in page.all("a")} <= targets
    assert len(text) < 200_000


def test_charts_have_a_text_and_say_what_they_show(default_run: FinishedRun) -> None:
    page, summary = page_in(default_run.folder), default_run.summary_json
    ids = [one.attributes["id"] for one in page.all() if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    charts = page.all("svg")
    assert len(charts) == 6  # loss, accuracy and checks, each for wide and for narrow windows
    for chart in charts:
        title, text = chart.one("title"), chart.one("desc")
        assert chart.attributes["aria-labelledby"] == f"{title.attributes['id']} {text.attributes['id']}"
        assert title.text
        assert text.text
    labels = [one.text for one in charts[2].all("text")]
    assert f"selected: {100 * summary['validation_accuracy']:.2f} %" in labels
    assert "validation" in labels
    assert "epoch" in labels
    assert "100 %" in labels


def test_the_command_writes_the_page_that_the_run_wrote(called: Call, copied: Path) -> None:
    written = (copied / FILE).read_bytes()
    assert called(NAME) == (f"written {copied / FILE}\n", "")
    assert (copied / FILE).read_bytes() == written
    assert called(copied, "--out", "elsewhere.html") == ("written elsewhere.html\n", "")
    assert Path("elsewhere.html").read_bytes() == written


def test_hostile_names_are_text(called: Call, copied: Path) -> None:
    folder = copied.with_name("<b onclick=x>&amp;")
    copied.rename(folder)
    names = [ATTACK, *map(str, range(1, 10))]
    finished, device = f"{ATTACK} done", ATTACK
    change(folder / "summary.json", dataset=ATTACK, class_names=names, finished=finished, device=device, torch=ATTACK)
    change(folder / "config.json", data_dir=ATTACK.replace("\x1b", ""))
    checks = {**json.loads((folder / "summary.json").read_text())["checks"], "largest_at": ATTACK}
    change(folder / "summary.json", checks=checks)
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        print(json.dumps({"step": 22, "name": ATTACK, "value": 1.0}), file=file)
        print(json.dumps({"step": 22, "name": "epoch", "value": {ATTACK: 3}}), file=file)
    called(folder)
    text = (folder / FILE).read_text(encoding="utf-8")
    page = parsed(text)
    assert page.one("h1").text == "<b onclick=x>&amp;"
    assert "<script>alert(" in page.one("header").text
    assert not page.all("script")
    assert not [one for one in page.all("img") if one.attributes["src"] == "x"]
    assert not [name for one in page.all() for name in one.attributes if name.startswith("on")]
    assert "\u202e" not in text
    assert "\x1b" not in text


def test_a_run_that_is_not_finished_says_so(called: Call, copied: Path) -> None:
    for name in ("summary.json", "certificate.json"):
        (copied / name).unlink()
    assert called(NAME)[1] == ""
    page = page_in(copied)
    assert page.one("p", "warning").text.startswith("This run is not finished, or has no summary.")
    assert not page.all("div", "tile")
    found = sections(page)
    assert "What it confuses" not in found
    assert "nothing is claimed about unseen images" in found["What is certified"].text
    assert "the verdict on this run's checks is not known" in found["Checks of the gradients"].text
    assert "--resume" in found["How to do it again"].text
    (copied / "metrics.jsonl").unlink()
    assert called(NAME)[1] == ""
    assert "There are no records" in sections(page_in(copied))["Curves"].text


BROKEN: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "half a summary": ("summary.json", lambda content: content[:300], "expected a run's summary.json, found no JSON"),
    "a summary without errors": ("summary.json", lambda _: b'{"dataset": "x"}', "object missing required field"),
    "a huge number": ("summary.json", lambda c: c.replace(b'"test_errors": ', b'"test_errors": 1e99'), "test_errors"),
    "an accuracy above 1": (
        "summary.json", lambda c: re.sub(rb'"test_accuracy": [0-9.]+', b'"test_accuracy": 1.5', c), "test_accuracy"
    ),
    "an accuracy that is not that of the errors": (
        "summary.json", lambda c: re.sub(rb'"test_accuracy": [0-9.]+', b'"test_accuracy": 0.999', c), "which differ"
    ),
    "checks that passed with failures": (
        "summary.json", lambda c: c.replace(b'"failures": 0', b'"failures": 3'), "found 'passed' with 3 failures"
    ),
    "a certificate of less risk": (
        "certificate.json", lambda c: re.sub(rb'"risk": "0\.', b'"risk": "0.0', c, count=1), "certificate.json"
    ),
    "a certificate in other words": (
        "certificate.json", lambda c: c.replace(b"misreads at most", b"misreads far less than"), "certificate.json"
    ),
    "no records": ("metrics.jsonl", lambda c: b"\xff\xfe\n[]\n{\n" + c, "no records: 3 of its lines"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_believed_is_named_and_left_out(name: str, called: Call, copied: Path) -> None:
    file, damage, said = BROKEN[name]
    content = (copied / file).read_bytes()
    assert damage(content) != content
    (copied / file).write_bytes(damage(content))
    _, err = called(NAME)
    assert said in err
    page = page_in(copied)
    assert said in sections(page)["Files that cannot be read"].text.replace("’", "'")
    if file == "certificate.json":
        require_nothing_certified(page)


def require_nothing_certified(page: Element) -> None:
    assert not page.all("ul", "claims")
    assert not page.all("p", "plain")
    assert "none nothing is certified" in page.all("div", "tile")[1].text


def test_the_certificate_of_another_network_is_left_out(
    called: Call, copied: Path, default_run: FinishedRun, short_run: FinishedRun
) -> None:
    shutil.copy(default_run.folder / "certificate.json", copied)
    assert "certificate.json: left out, because it is of weights with SHA-256" in called(NAME)[1]
    page = page_in(copied)
    require_nothing_certified(page)
    assert "it is of weights with" in sections(page)["What is certified"].text
    assert "check the certificate" not in sections(page)["How to do it again"].text
    # as one is that an earlier end of the run has left
    _, missing = write_page(copied, tested=tested.Tested(load_digits().test, short_run.summary.test, 16))
    assert missing == [f"{copied / 'certificate.json'}: left out, because it is not the one that the summary names"]
    require_nothing_certified(page_in(copied))


def test_a_certificate_of_a_run_that_goes_on_is_left_out(called: Call, copied: Path) -> None:
    (copied / "summary.json").unlink()
    assert "left out, because there is no summary of the run" in called(NAME)[1]
    page = page_in(copied)
    assert "This run is not finished" in page.one("header").text
    assert not page.all("ul", "claims")
    assert not page.all("p", "plain")


def test_records_that_no_run_writes_do_no_harm(called: Call, copied: Path) -> None:
    with (copied / "metrics.jsonl").open("a", encoding="utf-8") as file:
        names = ("train/loss", "validation/loss", "validation/accuracy", "divergence/largest", "error_bound/x")
        for name in (*names, "crosscheck/share_of_allowed", "screen/share_of_allowed"):
            values: list[tuple[int, object]] = [(23, 1e308), (24, -1e308), (25, 5e-324), (26, "nan"), (27, "inf")]
            for step, value in [*values, (2**60, 1), (-1, 1)]:
                print(json.dumps({"step": step, "name": name, "value": value}), file=file)
        for strange in ("x", None, [1], True):
            print(json.dumps({"step": 28, "name": "train/loss", "value": strange}), file=file)
        print('{"step": 28, "name": "train/loss", "value": 1', "0" * 400, "}", sep="", file=file)  # infinite
        print(json.dumps({"step": 29, "name": "epoch", "value": {"epoch": "inf", "train_loss": "nan"}}), file=file)
    _, err = called(NAME)
    assert "no records: 18 of its lines" in err
    assert "inf" in sections(page_in(copied))["Curves"].text


def test_a_share_that_is_no_number_is_not_left_out_of_the_largest(called: Call, copied: Path) -> None:
    with (copied / "metrics.jsonl").open("a") as file:
        for step, value in ((2, 0.1), (3, "nan"), (4, 0.2)):
            print(json.dumps({"step": step, "name": "screen/share_of_allowed", "value": value}), file=file)
    called(NAME)
    assert "At most nan %; a check fails above 100 %." in (copied / "report.html").read_text()


def test_a_bound_that_covers_some_tensors_only_is_not_claimed(called: Call, copied: Path) -> None:
    lines = (copied / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    again = [line.replace('"step": 1,', '"step": 2,') for line in lines if '"step": 1,' in line]
    uncovered = [line for line in again if "error_bound/layers.0.bias" not in line]
    checks = json.loads((copied / "summary.json").read_text())["checks"] | {"comparisons": 2}
    change(copied / "summary.json", checks=checks)
    part = "at 1 of 2 audited steps"
    infinite, undefined = (
        [re.sub(r'("error_bound/layers.0.bias", "value": )[^}]+', rf'\1"{value}"', line) for line in again]
        for value in ("inf", "nan")
    )
    assert again != infinite != undefined
    for added, said in ((again, "at every audited step"), (uncovered, part), (infinite, part), (undefined, part)):
        (copied / "metrics.jsonl").write_text("\n".join([*lines, *added]) + "\n", encoding="utf-8")
        assert called(NAME)[1] == ""
        page = page_in(copied)
        assert said in page.all("div", "tile")[3].text
        assert said in sections(page)["Checks of the gradients"].text
    bare = [line for line in lines if "error_bound/layers.0.bias" not in line]
    (copied / "metrics.jsonl").write_text("\n".join(bare) + "\n", encoding="utf-8")
    called(NAME)
    assert page_in(copied).all("div", "tile")[3].text.endswith("none no bound was proved")


def test_failed_checks_are_said_first(called: Call, copied: Path) -> None:
    checks = json.loads((copied / "summary.json").read_text())["checks"]
    failed = {"verdict": "failed", "failures": 2, "first_failure": "step 7: layers.0.weight is wrong"}
    change(copied / "summary.json", checks={**checks, **failed})
    called(NAME)
    page = page_in(copied)
    (warning,) = sections(page)["Checks of the gradients"].all("p", "warning")
    assert warning.text == "2 checks failed, the first at step 7: layers.0.weight is wrong"
    assert "failed" in page.all("div", "tile")[2].text
    assert "No check found" not in page.text
    change(copied / "summary.json", checks={"verdict": "unchecked"})
    called(NAME)
    assert "No check was due." in sections(page_in(copied))["Checks of the gradients"].text


def test_another_checkpoint_or_none_is_said(called: Call, copied: Path, short_run: FinishedRun) -> None:
    best = Path("checkpoints", NAME, "best.pt")
    _, err = called(NAME, "--checkpoint", Path("checkpoints", NAME, "last.pt"))
    assert "is not the checkpoint that the summary is about (its hash differs)" in err
    assert "Not shown: " in sections(page_in(copied))["What it confuses"].text
    best.unlink()
    _, err = called(NAME)
    assert err == (
        f"{best}: expected a checkpoint, found: No such file or directory\n"
        f"{copied / 'certificate.json'}: left out, because the network could not be evaluated to compare it\n"
    )
    assert not page_in(copied).all("table", "matrix")
    require_nothing_certified(page_in(copied))


def test_a_count_that_differs_from_the_summary_is_said(called: Call, copied: Path) -> None:
    errors = json.loads((copied / "summary.json").read_text())["test_errors"]
    change(copied / "summary.json", test_errors=errors + 1, test_accuracy=1 - (errors + 1) / 360)
    called(NAME)
    warnings = [one.text for one in page_in(copied).all("p", "warning")]
    assert warnings == [f"Counted again here there are {errors} errors; the summary says {errors + 1}."]


def test_what_is_no_run_is_one_line(called: Call, here: Path) -> None:
    Path("runs", "mnist-1").mkdir(parents=True)
    expected = "expected the name or folder of a run in runs (did you mean 'mnist-1'?)"
    assert called("mnist-2", status=2)[1] == f"error: mnist-2: {expected}\n"
    _, err = called("mnist-1", status=2)
    assert err.startswith("error: runs/mnist-1: config.json: expected a run's config.json, found: No such file")
    assert called(status=2)[1].startswith("error: run: expected, found none; usage: ")


def test_classes_have_their_names(called: Call, copied: Path) -> None:
    names = [f"class {label}" for label in range(10)]
    assert not page_in(copied).all("p", "legend")
    change(copied / "summary.json", class_names=names)
    called(NAME)
    page = page_in(copied)
    heads = [row.one("th").text for row in page.one("table", "matrix").one("tbody").all("tr")]
    assert heads == [f"{label} {name}" for label, name in enumerate(names)]
    assert page.one("p", "legend").text == ", ".join(heads)
    captions = [figure.one("figcaption").text for figure in page.one("div", "digits").all("figure")]
    assert captions
    assert all(re.match(r"class \d as class \d\d", caption) for caption in captions)  # a confidence follows at once


def test_a_page_that_cannot_be_written_fails_the_run_which_can_go_on(here: Path) -> None:
    config = digits_config(epochs=1, check="off")
    folder = Path("runs", NAME)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lean_mnist.training.report.page.write_atomically", _no_space)
        with pytest.raises(LeanMnistError, match=r"report.html: No space left on device; the last checkpoint is whole"):
            run(config)
    certificate = (folder / "certificate.json").read_bytes()
    assert not (folder / FILE).exists()
    run(config, Path("checkpoints", NAME, "last.pt"))
    assert (folder / FILE).exists()
    assert (folder / "certificate.json").read_bytes() == certificate


def _no_space(path: Path, content: bytes) -> None:
    raise OSError(28, "No space left on device", str(path))


def test_a_gaussian_over_networks_has_a_page_without_one_networks_errors(here: Path, called: Call) -> None:
    options: dict[str, Any] = {"dataset": "digits", "hidden": (8,), "prior_epochs": 1, "epochs": 1, "draws": 200}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lean_mnist.training.objectives.pac_bayes_result.ESTIMATE_DRAWS", 200)
        run_pac_bayes(PacBayesConfig(**options, run_name=NAME, quiet=True))
    folder = Path("runs", NAME)
    written = (folder / FILE).read_bytes()
    page = page_in(folder)
    found = sections(page)
    assert page.all("div", "tile")[0].text.startswith("Test risk measured ")
    assert {"What it confuses", "What it misreads"}.isdisjoint(found)
    assert "its weights drawn anew for every image" in found["What was trained on what"].text
    assert "or of the networks" in found["What is certified"].text
    assert called(NAME) == (f"written {folder / FILE}\n", "")
    assert (folder / FILE).read_bytes() == written


def test_the_commands_on_the_page_do_what_it_says(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = page_in(copied).one("dl", "commands").all("div")
    commands = {row.one("dt").text: shlex.split(row.one("code").text) for row in rows}
    assert len(commands) == 6
    said = {}
    for what, words in commands.items():
        start = words.index("-m")
        main = importlib.import_module(words[start + 1]).main
        status, said[what], err = call(main, words[start + 2 :], monkeypatch, capsys)
        assert status == 0, err
    again, by_file = sorted(path for path in copied.parent.iterdir() if path.name != NAME)
    for folder in (again, by_file):
        for name in ("certificate.json", "certificate.weights"):
            assert (folder / name).read_bytes() == (copied / name).read_bytes()
    assert "misread as" in said["to see what it misreads"]
    assert said["to write this page again"] == f"written {copied / FILE}\n"


CONFIGS = {
    **{name: preset(name) for name in PRESETS},
    "differing": Config(
        dataset="digits", hidden=(9, 8), lr=0.5, nesterov=False, augment="affine", clip_norm=1e-3, seed=7, bias=False
    ),
    "preset and more": Config(preset="mini", epochs=3),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_the_command_on_the_page_starts_the_same_run(name: str) -> None:
    config = CONFIGS[name]
    if config.preset != name and name in PRESETS:
        pytest.fail(f"{name} is called {config.preset}")
    assert read_arguments(options_of(config)) == (config, None)
    assert read_arguments(options_of(config, threads=3))[0].threads == 3
