import pytest

from vivit.corpus import local
from vivit.corpus.driver import Corpus, run_corpus

from ..cli.conftest import vivit, weights  # noqa: F401
from ..data.videos import counter_frames, write_video

SETTINGS = {
    "predict": {"temporal_views": 2, "spatial_views": 1, "top_k": 2, "precision": "auto"},
    "timeline": {
        "hop": 0.3,
        "crops": 1,
        "batch": None,
        "thresholds": "",
        "scores": True,
        "precision": "auto",
    },
    "features": {
        "level": "clip",
        "hop": 0.3,
        "dtype": "float32",
        "file_format": "npy",
        "batch": None,
        "precision": "auto",
    },
}


@pytest.fixture
def videos(tmp_path):
    """Videos 0.mp4 … 4.mp4 of 20 to 40 frames, and broken.mp4."""
    root = tmp_path / "videos"
    root.mkdir()
    for i in range(5):
        write_video(root / f"{i}.mp4", counter_frames(20 + 5 * i))
    (root / "broken.mp4").write_bytes(b"no video")
    return root


@pytest.fixture
def forked(monkeypatch):
    """Fork the processes, which start in milliseconds and see what a test has replaced."""
    monkeypatch.setattr(local, "START_METHOD", "fork")


@pytest.fixture
def run(weights, videos, tmp_path, forked):  # noqa: F811
    """Run a job on `videos` into a folder; returns what it left."""

    def start(job="predict", out="out", source=videos, settings=(), **changes):
        values = {"format": "csv", "workers": 2, "device": "cpu"} | changes
        return run_corpus(
            Corpus(job, str(weights), str(source), tmp_path / out, SETTINGS[job] | dict(settings), **values)
        )

    return start
