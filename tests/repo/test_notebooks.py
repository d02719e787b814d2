"""Run the notebooks of docs/notebooks, cell by cell, and check that they are committed without outputs."""

import ast
import json
import time
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def run_cells(path):
    """Run the cells in one namespace, as a kernel does, and return the values of their last lines and the namespace."""
    shown, names = [], {"__name__": "__main__"}
    for cell in read(path):
        if cell["cell_type"] != "code":
            continue
        code = ast.parse("".join(cell["source"]))
        last = code.body.pop() if isinstance(code.body[-1], ast.Expr) else None
        exec(compile(code, path.name, "exec"), names)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), path.name, "eval"), names))
    return [value for value in shown if value is not None], names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_have_no_outputs_and_are_named_in_their_index(path):
    cells = read(path)
    assert cells[0]["cell_type"] == "markdown"
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")
    assert f"({path.name})" in (path.parent / "index.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_notebook_fine_tunes_predicts_and_draws_maps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = time.process_time()
    shown, names = run_cells(NOTEBOOKS[0])
    print(f"{time.process_time() - began:.0f} s")
    files, losses, prediction, answers, rollout, moments, explained = shown
    assert len(files) == 3
    assert losses["loss"].dropna().iloc[-1] > 0
    assert dict(prediction.classes["label"]).keys() == {"bar", "triangle"}
    assert set(answers["answer"]) <= {"bar", "triangle"}
    assert (answers["probability"] >= 0.5).all()
    assert rollout.size == explained.size == (8 * 48 * 2, 2 * 48 * 2)
    assert rollout.tobytes() != explained.tobytes()
    assert moments.sum() == pytest.approx(1, abs=0.01)
    assert names["explanation"].label == "bar"


@pytest.mark.slow
def test_the_notebook_reads_a_study_with_pandas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = time.process_time()
    (rows, top1, losses, differing, compared), names = run_cells(NOTEBOOKS[1])
    print(f"{time.process_time() - began:.0f} s")
    assert list(rows.index) == ["uniform_frames", "random", "filter_inflation", "central_frame"]
    assert top1.shape == (2, 2)
    assert top1.to_numpy().min() >= 0
    assert losses.notna().all().all()
    assert {"model.tokenizer", "seed"} <= set(differing.index)
    assert compared
    assert len(names["runs"]) == 4
