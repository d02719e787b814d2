"""Run every command and every block of docs/guides/timeline.md, features.md and stream.md word for word."""

import json
import re
import shlex
import shutil
import socket
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from vivit import cli
from vivit.data.video import live
from vivit.inference.timeline import Timeline

from ..data.videos import counter_frames, write_video
from ..model import tiny

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def blocks(name, language=""):
    text = (GUIDES / f"{name}.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [block for of, block in found if of == language]


def commands(name):
    lines = [line for block in blocks(name) for line in block.splitlines()]
    return [line for line in lines if re.match(r"(cat .* \| )?vivit ", line)]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with runs/finetune, long_video.mp4, long_video.mkv and recordings/*.mp4."""
    monkeypatch.chdir(tmp_path)
    tiny.model().save_pretrained(tmp_path / "runs" / "finetune")
    (tmp_path / "recordings").mkdir()
    video = write_video(tmp_path / "long_video.mp4", counter_frames(200), fps=2)
    write_video(tmp_path / "long_video.mkv", counter_frames(30))
    for name in "ab":
        shutil.copy(video, tmp_path / "recordings" / f"{name}.mp4")
    return tmp_path


def run(command, monkeypatch):
    monkeypatch.setattr("sys.argv", shlex.split(command.split(" > ")[0]))
    cli.main()


def test_the_commands_of_the_timeline_guide_run(home, monkeypatch, capsys):
    table, part, folder, *_ = commands("timeline")
    run(table, monkeypatch)
    assert capsys.readouterr().out.startswith("path,start,end,center,padded,a,b,c\n")
    run(part, monkeypatch)
    rows = capsys.readouterr().out.splitlines()[1:]
    assert rows
    assert all(60 <= float(row.split(",")[3]) < 90 for row in rows)
    run(folder, monkeypatch)
    assert {path.name for path in (home / "scores").iterdir()} == {"a.mp4.npz", "b.mp4.npz"}


def test_the_commands_of_the_timeline_guide_write_segments_and_measure_them(home, monkeypatch, capsys):
    page, subtitles, fit, truth = commands("timeline")[3:]
    run(page, monkeypatch)
    shutil.copy(home / "events.csv", home / "labels.csv")
    run(subtitles, monkeypatch)
    assert (home / "events.srt").read_text().startswith("1\n00:00:")
    run(fit, monkeypatch)
    capsys.readouterr()
    run(truth, monkeypatch)
    assert "F1@50" in capsys.readouterr().out
    assert "<svg" in (home / "timeline.html").read_text()


def test_the_python_of_the_timeline_guide_runs(home):
    [code] = blocks("timeline", "python")
    names = {}
    exec(code, names)
    assert isinstance(names["timeline"], Timeline)


def test_the_commands_of_the_features_guide_run_and_the_probe_reads_their_files(home, monkeypatch, capsys):
    (home / "my_videos").mkdir()
    for name in "abcd":
        frames = np.full((60, 48, 64, 3), 200 if name in "ab" else 30, np.uint8)
        write_video(home / "my_videos" / f"{name}.mp4", frames // 2 + counter_frames(60) // 2)
    rows = ["path,label", *(f"{name}.mp4,{'light' if name in 'ab' else 'dark'}" for name in "abcd")]
    (home / "my_videos" / "labels.csv").write_text("\n".join(rows))
    for command in commands("features"):
        run(command, monkeypatch)
    array = np.load(home / "positions" / "a.npy")
    assert (array.dtype, array.ndim) == (np.float16, 2)
    assert pyarrow.parquet.read_table(home / "table" / "parquet").num_rows > 2
    capsys.readouterr()
    probe, own = blocks("features", "python")
    exec(probe, {})
    assert "nearest neighbour: 100.0%" in capsys.readouterr().out
    exec(own, {})
    assert "Features('long_video.mp4': " in capsys.readouterr().out


def test_the_commands_of_the_stream_guide_run(home, monkeypatch, capsys):
    file, pipe, several, address = commands("stream")
    for name in ("one", "two"):
        shutil.copy(home / "recordings" / "a.mp4", home / f"{name}.mp4")
    run(several, monkeypatch)
    assert {json.loads(line)["source"] for line in capsys.readouterr().out.splitlines()} == {"one.mp4", "two.mp4"}
    run(file, monkeypatch)
    out, err = capsys.readouterr()
    [shown] = blocks("stream", "json")
    line = json.loads(out.splitlines()[0])
    assert line.keys() == json.loads(shown).keys()
    assert re.search(r"\d+ rows; latency p50 [\d.]+ s, p95 [\d.]+ s, max [\d.]+ s; 0 positions dropped", err)

    source, command = re.fullmatch(r"cat (\S+) \| (.*)", pipe).groups()
    monkeypatch.setattr(live, "PIPE", "no pipe")  # the test's own standard input stays
    run(command.replace(" - ", f" {source} "), monkeypatch)
    assert len(capsys.readouterr().out.splitlines()) > 2

    data = write_video(home / "v.ts", counter_frames(100)).read_bytes()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve_once():
        with listener.accept()[0] as connection:
            connection.sendall(data)

    threading.Thread(target=serve_once, daemon=True).start()
    port = listener.getsockname()[1]
    with pytest.raises(SystemExit):  # after the source has ended for good
        run(address.replace("8554", str(port)) + " --give-up 0.5 --read-timeout 1", monkeypatch)
    listener.close()
    assert capsys.readouterr().out.splitlines()
