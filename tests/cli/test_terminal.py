"""A command whose files are its product outlives the reader of its output."""

import json
import subprocess
import sys

from ..data.videos import counter_frames, write_video

TRAIN = [
    "--model.embed-dim",
    "32",
    "--model.depth",
    "1",
    "--model.num-heads",
    "2",
    "--model.num-frames",
    "4",
    "--model.image-size",
    "24",
    "24",
    "--device",
    "cpu",
    "--optim.epochs",
    "4",
    "--optim.batch-size",
    "2",
    "--data.workers",
    "0",
    "--log-every",
    "1",
]


def test_training_and_evaluation_end_though_their_reader_has_gone(tmp_path):
    """As with `| head -1`: the pipe is closed after the first byte, and what is printed later has no reader."""
    for label in ("a", "b"):
        (tmp_path / "videos" / label).mkdir(parents=True)
        for i in range(4):
            write_video(tmp_path / "videos" / label / f"{i}.mp4", counter_frames(8))
    for command in (
        ["train", "demo", "--data.root", "videos", "--run", "run", *TRAIN],
        ["eval", "run", "--run", "out", "--data.workers", "0"],
    ):
        arguments = [sys.executable, "-m", "vivit", *command]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(1)
            process.stdout.close()
            said = process.stderr.read().decode()
        assert process.returncode == 0, said
        assert "Traceback" not in said
    assert (tmp_path / "run" / "weights" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "out" / "results.json").read_text())["videos"]
    assert {"predictions.csv", "predictions.npz", "report.html"} <= {p.name for p in (tmp_path / "out").iterdir()}
