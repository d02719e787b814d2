"""Jobs on lists: the table against the Python functions, failures, resuming, and what must not be mixed."""

import csv
import hashlib
import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from pyarrow import parquet

import vivit as package
from vivit.corpus import driver, local
from vivit.corpus.jobs import JOBS
from vivit.data.tools.prepare import prepare
from vivit.errors import DataError, FolderInUse
from vivit.files import exclusive_lock
from vivit.inference.segments import segments
from vivit.inference.timeline import Timeline

from ..model import tiny


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def replace_job(monkeypatch, act):
    """Call `act(path)` before the computation of each video."""
    job = JOBS["predict"]

    def compute(model, sample, *rest):
        act(sample.path)
        return job.compute(model, sample, *rest)

    monkeypatch.setitem(JOBS, "predict", replace(job, compute=compute))


def test_predictions_equal_the_python_function_to_the_bit_and_failures_have_a_row(run, weights, videos):
    done = run()
    assert (done.videos, done.failed, done.computed) == (6, 1, 6)
    model, found = package.from_pretrained(weights), rows(done.table)
    assert [row["path"] for row in found] == [f"{videos}/{i}.mp4" for i in range(5)] + [f"{videos}/broken.mp4"]
    for row in found[:-1]:
        best = package.predict(model, row["path"], temporal_views=2, spatial_views=1).classes["label"]
        cells = [(row["label"], row["label_probability"]), (row["label_2"], row["label_2_probability"])]
        assert [(name, float(p)) for name, p in cells] == best[:2]
        assert row["error"] == ""
    assert found[-1]["label"] == ""
    assert "broken.mp4: cannot be read" in found[-1]["error"]


def test_the_manifest_has_the_hashes_of_everything(run, weights, videos, tmp_path):
    done = run()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["table"]["sha256"] == hashlib.sha256(done.table.read_bytes()).hexdigest()
    listed = "".join(f"{videos}/{name}.mp4\0None\0None\0None\n" for name in [*range(5), "broken"])
    assert manifest["made_from"]["list"] == hashlib.sha256(listed.encode()).hexdigest()
    assert manifest["made_from"]["settings"]["top_k"] == 2
    assert (manifest["videos"], manifest["failed"], manifest["table"]["rows"]) == (6, 1, 6)


def test_parquet_and_csv_hold_the_same_whatever_the_number_of_processes(run, tmp_path):
    one, three = run(out="one", workers=1), run(out="three", workers=3)
    assert one.table.read_bytes() == three.table.read_bytes()
    table = parquet.read_table(run(out="parquet", format="parquet").table).to_pylist()
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in table] == rows(one.table)


def test_segments_and_scores_over_time_equal_the_python_function(run, weights, tmp_path):
    done = run("timeline")
    model, found = package.from_pretrained(weights), rows(done.table)
    assert {row["row"] for row in found} == set("012345")
    for i in range(5):
        mine = [row for row in found if row["row"] == str(i)]
        expected = package.timeline(model, mine[0]["path"], hop=0.3)
        np.testing.assert_array_equal(
            Timeline.load(tmp_path / "out" / "timelines" / "000000" / f"{i:09}.npz").logits, expected.logits
        )
        truth = [(s.start, s.end, s.label, s.score) for s in segments(expected, "label")]
        cells = [(float(r["start"]), float(r["end"]), r["label"], float(r["score"])) for r in mine if r["label"]]
        assert cells == truth
    assert "broken.mp4" in found[-1]["error"]


def test_features_are_the_files_of_vivit_features_which_takes_them_for_its_own(run, weights, videos, tmp_path, vivit):
    done = run("features")
    model, found = package.from_pretrained(weights), rows(done.table)
    out = tmp_path / "out" / "features"
    for i in range(5):
        expected = package.features(model, found[i]["path"], hop=0.3)
        np.testing.assert_array_equal(np.load(tmp_path / "out" / found[i]["file"]), expected.values)
        cells = [float(found[i][name]) for name in ("rows", "feat_stride", "num_frames", "fps", "duration")]
        facts = [len(expected), expected.feat_stride, expected.num_frames, expected.fps, expected.duration]
        assert (found[i]["file"], cells) == (f"features/{i}.npy", facts)
    assert "broken.mp4: cannot be read" in found[5]["error"]
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(kept) == sorted([f"{i}.{kind}" for i in range(5) for kind in ("json", "npy")] + ["features.json"])
    command = ["features", weights, videos, "--out", out, "--hop", 0.3, "--device", "cpu"]
    assert "5 of 6 features in" in (err := vivit(*command)[2])
    assert "0 of them computed now" in err
    (out / "failures.csv").unlink()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == kept


def test_features_of_files_elsewhere_stay_in_the_folder_and_clashes_are_refused_first(run, videos, tmp_path):
    (tmp_path / "lists").mkdir()
    table = tmp_path / "lists" / "list.csv"
    table.write_text("path,start,end\n../videos/0.mp4,0.1,0.9\n")
    [row] = rows(run("features", source=table, settings={"file_format": "npz"}).table)
    assert row["file"] == f"features{videos}/0_0.1-0.9.npz"
    assert (tmp_path / "out" / row["file"]).is_file()
    table.write_text("path\n../videos/0.mp4\n../videos/../videos/0.mp4\n")
    with pytest.raises(ValueError, match="would both become"):
        run("features", out="other", source=table)
    with pytest.raises(ValueError, match="level is 'row'"):
        run("features", out="other", settings={"level": "row"})
    assert not (tmp_path / "other").exists()


def test_features_of_shards_are_those_of_the_files(run, videos, tmp_path):
    (videos / "train" / "x").mkdir(parents=True)
    for i in range(5):
        (videos / f"{i}.mp4").rename(videos / "train" / "x" / f"{i}.mp4")
    (videos / "broken.mp4").unlink()
    prepare(str(videos), str(tmp_path / "small"), splits=("train",), shard_mib=1, workers=1)
    [packed] = (tmp_path / "small").glob("shards")
    for source, out in ((packed, "shards"), (tmp_path / "small", "files")):
        done = run("features", out, source, split="train")
        assert (done.videos, done.failed) == (5, 0)
    for i in range(5):
        files = [np.load(tmp_path / out / "features" / "train" / "x" / f"{i}.npy") for out in ("shards", "files")]
        np.testing.assert_array_equal(*files)


def test_a_table_of_segments_gives_a_row_per_segment(run, weights, videos, tmp_path):
    (tmp_path / "list.csv").write_text("path,start,end\nvideos/4.mp4,0.2,0.8\nvideos/4.mp4,0.8,\nvideos/gone.mp4,,\n")
    done = run(source=tmp_path / "list.csv")
    model, found = package.from_pretrained(weights), rows(done.table)
    assert [(row["start"], row["end"]) for row in found] == [("0.2", "0.8"), ("0.8", ""), ("", "")]
    for row, part in zip(found, ({"start": 0.2, "end": 0.8}, {"start": 0.8})):
        best = package.predict(model, videos / "4.mp4", temporal_views=2, spatial_views=1, **part).classes["label"][0]
        assert (row["label"], float(row["label_probability"])) == best
    assert "gone.mp4" in found[2]["error"]


def test_a_row_is_known_by_its_place_and_its_path_in_the_list_also_after_repeats(run, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["videos/1.mp4", "videos/1.mp4", "videos/0.mp4", "videos/broken.mp4", "videos/2.mp4"]
    (tmp_path / "list.csv").write_text("\n".join(["path", *names]))
    for job in ("predict", "timeline"):
        found = rows(run(job, out=job, source="list.csv").table)
        assert {row["row"]: row["path"] for row in found} == {str(i): names[i] for i in (0, 2, 3, 4)}
    kept = {path.name for path in (tmp_path / "timeline").rglob("*.npz")}
    assert kept == {f"{i:09}.npz" for i in (0, 2, 4)}


def test_an_interrupted_job_resumes_with_the_same_bits(run, monkeypatch, tmp_path, capsys):
    expected = run(out="straight").table.read_bytes()
    keep, kept = driver.Journal.append, []

    def interrupt(journal, *result):
        keep(journal, *result)
        kept.append(result)
        if len(kept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(driver.Journal, "append", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not (tmp_path / "out" / "predict.csv").exists()
    monkeypatch.setattr(driver.Journal, "append", keep)
    done = run()
    assert (done.computed, done.table.read_bytes()) == (3, expected)
    assert "resuming after 3 of 6" in capsys.readouterr().err
    assert run().computed == 0


def test_a_killed_process_costs_nothing_once_and_a_row_with_the_reason_always(run, monkeypatch, tmp_path):
    expected = rows(run(out="straight").table)
    first = tmp_path / "first"

    def act(path):
        if path.endswith("1.mp4") or (path.endswith("2.mp4") and not first.exists()):
            first.touch() if path.endswith("2.mp4") else None
            os.kill(os.getpid(), signal.SIGKILL)

    replace_job(monkeypatch, act)
    done = run()
    found = rows(done.table)
    assert found[1]["error"] == f"{found[1]['path']}: its process was killed by SIGKILL, 3 times"
    assert [row for i, row in enumerate(found) if i != 1] == [row for i, row in enumerate(expected) if i != 1]
    assert done.failed == 2
    monkeypatch.undo()
    monkeypatch.setattr(local, "START_METHOD", "fork")
    again = run(retry=True)
    assert (again.computed, again.failed, rows(again.table)) == (2, 1, expected)


def test_a_video_that_takes_too_long_is_named(run, monkeypatch):
    monkeypatch.setattr(local, "STARTUP", 0.0)
    replace_job(monkeypatch, lambda path: time.sleep(60 if path.endswith("3.mp4") else 0))
    done = run(timeout=3.0)
    assert [row["error"][-17:] for row in rows(done.table) if row["path"].endswith("3.mp4")] == [
        ": not done after 3 s"[-17:]
    ]
    assert done.failed == 2


def test_results_of_something_else_are_refused(run, weights, videos, tmp_path):
    run()
    with pytest.raises(DataError, match="another job .settings was .*'top_k': 2.*is .*'top_k': 1"):
        run(settings={"top_k": 1})
    (videos / "new.mp4").write_bytes(b"")
    with pytest.raises(DataError, match="list was"):
        run()
    with exclusive_lock(tmp_path / "out", what="vivit corpus"), pytest.raises(FolderInUse, match="needs it alone"):
        run()


def test_a_mistyped_setting_is_refused_before_the_folder_is_taken(run, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({"segments": {"classes": {"jmup": {}}}}))
    for job, settings, problem in (
        ("predict", {"temporal_views": 0}, "temporal_views is 0"),
        ("predict", {"spatial_views": 2}, "spatial_views is 2"),
        ("timeline", {"thresholds": str(tmp_path / "t.json")}, "unknown class 'jmup'"),
    ):
        with pytest.raises(ValueError, match=problem):
            run(job, settings=settings)
        assert not (tmp_path / "out").exists()


def test_a_setting_that_the_processes_refuse_does_not_take_the_folder(run, monkeypatch):
    def refuse(path):
        raise ValueError("precision is 'half'")

    with monkeypatch.context() as patch:
        replace_job(patch, refuse)
        with pytest.raises(ValueError, match="precision is 'half'"):
            run(settings={"precision": "half"})
    assert run().failed == 1


def test_weights_that_change_while_a_job_runs_end_it(run, weights, monkeypatch):
    load = driver.load_weights

    def load_and_change(source):
        model = load(source)
        tiny.model(embed_dim=32).save_pretrained(weights)
        return model

    monkeypatch.setattr(driver, "load_weights", load_and_change)
    with pytest.raises(DataError, match="has changed while the job ran"):
        run()


def test_a_folder_of_videos_that_goes_away_ends_the_job_and_costs_no_video(run, videos, monkeypatch):
    monkeypatch.setattr(local, "STORAGE_TIMEOUT", 0.2)
    away = videos.with_name("away")
    read = driver.read_list

    def read_and_move(*args, **how):
        samples = read(*args, **how)
        videos.rename(away)
        return samples

    monkeypatch.setattr(driver, "read_list", read_and_move)
    with pytest.raises(DataError, match="has been gone for 0.2 s.*the same command resumes"):
        run()
    away.rename(videos)
    monkeypatch.setattr(driver, "read_list", read)
    assert run().failed == 1


def test_slow_files_are_named_without_a_terminal(run, monkeypatch, capsys):
    monkeypatch.setattr(driver, "FIRST", 0.0)
    monkeypatch.setattr(driver, "EVERY", 0.0)
    monkeypatch.setattr(driver, "SLOW", 0.5)
    replace_job(monkeypatch, lambda path: time.sleep(2.5 if path.endswith("3.mp4") else 0))
    run()
    assert "predict: 5 of 6 done, 1 failed, 1 s at 3.mp4" in capsys.readouterr().err.replace(", 2 s at", ", 1 s at")
