"""The notebooks run from their first cell to their last."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.documents import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def test_there_are_two() -> None:
    assert len(NOTEBOOKS) == 2


@pytest.mark.filterwarnings("default")  # of the kernel's packages, which are not this one's
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs the extra `docs`")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra `docs`")
    pytest.importorskip("ipykernel", reason="needs the extra `docs`")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    before = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    after = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    # What is printed begins as the notebook shows it; what hangs on the machine stands behind.
    assert [text.split(":")[0][:20] for text in after] == [text.split(":")[0][:20] for text in before]
