import pytest

from vivit.data.tools.synthetic import render, write_video


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty working folder with my_videos/<class>/*.mp4 (12 videos of 4 classes) and some_video.mp4."""
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        frames, scene = render(0, "train", i * 8, num_frames=12)
        folder = tmp_path / "my_videos" / scene["noun"]
        folder.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"{i}.mp4", frames)
    write_video(tmp_path / "some_video.mp4", render(0, "val", 0, num_frames=12)[0])
    return tmp_path
