"""The table of runs, from folders written here by hand."""

import json
import math
from pathlib import Path

import pytest

from vivit.cli.runs import run as run_runs
from vivit.config import Config, DataConfig, OptimConfig, ParallelConfig, to_dict
from vivit.engine.runs import find_runs, format_runs, summarise

LINES = (
    {"step": 5, "epoch": 0.5, "loss": 2.5, "lr": 0.1},
    {"step": 10, "epoch": 1.0, "val/noun/top1": 0.5, "val/noun/top5": 1.0, "val/verb/top1": 0.25},
    {"step": 15, "epoch": 1.5, "loss": 1.25, "lr": 0.1},
    {"step": 20, "epoch": 2.0, "val/noun/top1": 0.375, "val/noun/top5": 1.0, "val/verb/top1": 0.75},
)
DEFAULT = Config()


def write_run(folder: Path, config=DEFAULT, lines=LINES, started: str | None = "2026-01-02T03:04:05+0000") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if started:
        (folder / "environment.json").write_text(json.dumps({"started": started}))
    return folder


def config_of(**optim) -> Config:
    return Config(optim=OptimConfig(**({"epochs": 4} | optim)))


def test_a_run_shows_its_best_validation_last_loss_and_place(tmp_path):
    run = summarise(write_run(tmp_path / "run", config_of()))
    assert run.best == {"noun": 0.5, "verb": 0.75}
    assert run.loss == 1.25
    assert (run.step, run.steps, run.finished) == (20, 40, False)  # 10 steps an epoch, 4 epochs
    assert run.started == "2026-01-02 03:04"


def test_a_run_is_finished_when_its_weights_are_there(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "weights").mkdir()
    (folder / "weights" / "config.json").write_text("{}")
    assert not summarise(folder).finished
    (folder / "weights" / "model.safetensors").write_bytes(b"")
    assert summarise(folder).finished
    assert list(find_runs(tmp_path)) == [folder]


def test_only_settings_that_differ_are_shown_and_never_the_folder(tmp_path):
    write_run(tmp_path / "a", Config(run="a", optim=OptimConfig(lr=0.1)))
    write_run(tmp_path / "b", Config(run="b", optim=OptimConfig(lr=0.2), parallel=ParallelConfig(strategy="fsdp")))
    header, a, b = format_runs(tmp_path).splitlines()
    assert header.split()[-2:] == ["optim.lr", "parallel.strategy"]
    assert (a.split()[-2:], b.split()[-2:]) == (["0.1", "ddp"], ["0.2", "fsdp"])


def test_data_of_two_folders_with_long_names_look_different_in_the_table(tmp_path):
    for name in ("clean", "noisy"):
        root = f"experiments/video_classification/{name}/labels.csv"
        write_run(tmp_path / name, Config(data=DataConfig(root=root)))
    _, *rows = format_runs(tmp_path).splitlines()
    assert [row.split("  ")[-1] for row in rows] == ["…cation/clean/labels.csv", "…cation/noisy/labels.csv"]


def test_a_single_run_has_no_settings_to_compare(tmp_path):
    write_run(tmp_path / "group" / "a", config_of())
    header, row = format_runs(tmp_path).splitlines()
    assert header.split("  ")[-1] == "last start"
    assert row.split() == [f"{tmp_path}/group/a", "20/40", "50.0%", "75.0%", "1.2500", "2026-01-02", "03:04"]


@pytest.mark.parametrize("number", [2, 50])
def test_columns_stand_under_each_other(tmp_path, number):
    for i in range(number):
        write_run(tmp_path / f"run{i}", config_of(lr=1 + i), lines=LINES[: 4 - i % 5])
    rows = format_runs(tmp_path).splitlines()
    assert len(rows) == 1 + number
    starts = [rows[0].index(name) for name in ("step", "noun", "verb", "loss", "last start", "optim.lr")]
    for row in rows:
        assert all(row[start - 2 : start] == "  " and row[start] != " " for start in starts)


def test_half_written_files_leave_the_run_in_the_table(tmp_path):
    whole = write_run(tmp_path / "a")
    cut = write_run(tmp_path / "b", started=None)
    (cut / "metrics.jsonl").write_bytes((whole / "metrics.jsonl").read_bytes()[:-9] + b"\xff")
    empty = write_run(tmp_path / "c", lines=())
    (empty / "environment.json").write_text("")
    other = write_run(tmp_path / "d", config_of(lr=0.5))
    (other / "config.json").write_text('{"colour": "red"}')
    _, *rows = format_runs(tmp_path).splitlines()
    assert [row.split()[1:4] for row in rows] == [
        ["20/300", "50.0%", "75.0%"],
        ["15/300", "50.0%", "25.0%"],
        ["0/?", "-", "-"],
        ["20/?", "50.0%", "75.0%"],
    ]


def test_a_validation_without_readable_videos_is_no_best_result(tmp_path):
    folder = write_run(tmp_path / "run", lines=({"step": 1, "epoch": 1, "val/noun/top1": float("nan")}, *LINES))
    assert summarise(folder).best == {"noun": 0.5, "verb": 0.75}


def test_a_folder_without_runs_is_an_error_that_says_what_a_run_is(tmp_path):
    with pytest.raises(ValueError, match="no run .config.json, metrics.jsonl. here or below"):
        run_runs([str(tmp_path)])


def test_the_command_prints_the_table(tmp_path, capsys):
    write_run(tmp_path / "run")
    run_runs([str(tmp_path)])
    assert capsys.readouterr().out.strip() == format_runs(tmp_path)


def test_a_number_that_is_not_finite_is_never_the_best_and_names_are_shown_without_escape_sequences(tmp_path):
    name = "val/a\x1b[2J/top1"
    lines = ({"step": 1, "epoch": 1, name: math.nan}, {"step": 2, "epoch": 2, name: 0.25})
    folder = write_run(tmp_path / "run", lines=lines)
    assert list(summarise(folder).best.values()) == [0.25]
    shown = format_runs(tmp_path)
    assert "25.0%" in shown
    assert "\x1b" not in shown
