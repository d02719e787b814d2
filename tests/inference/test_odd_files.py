"""Twenty odd files: a timeline has the right times, or a clear error names the file."""

import os

import numpy as np
import pytest
from PIL import Image

from vivit.errors import VideoError
from vivit.inference.timeline import timeline

from ..data.videos import counter_frames, read_counter, write_sound, write_video
from ..model import tiny


def flip(path, start, stop, step=7):
    """Damage the bytes of a file between two shares of its length."""
    data = bytearray(path.read_bytes())
    for place in range(int(start * len(data)), int(stop * len(data)), step):
        data[place] ^= 255
    path.write_bytes(data)
    return path


def joined(folder):
    parts = [write_video(folder / f"{i}.ts", counter_frames(30)).read_bytes() for i in range(2)]
    (folder / "joined.ts").write_bytes(b"".join(parts))
    return folder / "joined.ts"


def late(folder):
    """The picture starts two seconds after the sound."""
    return write_video(folder / "late.mkv", counter_frames(30), pts=range(50, 80), audio=True)


def images(folder):
    (folder / "images").mkdir()
    for i, image in enumerate(counter_frames(30)):
        Image.fromarray(image).save(folder / "images" / f"{i:04}.png")
    return folder / "images"


def cut(folder, suffix, share):
    path = write_video(folder / f"cut{suffix}", counter_frames(60))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


def text(folder, name, data):
    (folder / name).write_bytes(data)
    return folder / name


# name → (function that writes the file, its expected start and end in seconds or the expected error; None: a warning)
FILES = {
    "variable rate": (
        lambda d: write_video(d / "v.mp4", counter_frames(40), pts=[*range(20), *range(20, 60, 2)]),
        (0, 2.36),
    ),
    "very slow": (lambda d: write_video(d / "v.mp4", counter_frames(10), pts=range(0, 250, 25)), (0, 9.04)),
    "a long pause": (
        lambda d: write_video(d / "v.mkv", counter_frames(40), pts=[*range(20), *range(200, 220)]),
        (0, 8.8),
    ),
    "joined segments": (joined, (0, 2.4)),
    "late track": (late, (2, 3.2)),
    "images in a folder": (images, (0, 1.2)),
    "one frame": (lambda d: write_video(d / "v.mp4", counter_frames(1)), (0, 0.04)),
    "shorter than a clip": (lambda d: write_video(d / "v.mp4", counter_frames(5)), (0, 0.2)),
    "shorter than a position": (lambda d: write_video(d / "v.mp4", counter_frames(3)), (0, 0.12)),
    "B-frames": (
        lambda d: write_video(d / "v.mp4", counter_frames(60), options={"bf": "3", "b-pyramid": "normal"}),
        (0, 2.4),
    ),
    "rotated": (lambda d: write_video(d / "v.mp4", counter_frames(30), rotation=90), (0, 1.2)),
    "very wide": (lambda d: write_video(d / "v.mp4", counter_frames(30, 16, 512)), (0, 1.2)),
    "avi": (lambda d: write_video(d / "v.avi", counter_frames(30), codec="mpeg4"), (0, 1.2)),
    "with sound": (lambda d: write_video(d / "v.mp4", counter_frames(30), audio=True), (0, 1.2)),
    "cut off mkv": (lambda d: cut(d, ".mkv", 0.6), None),
    "cut off mp4": (lambda d: cut(d, ".mp4", 0.6), "cannot be read as a video"),
    "damaged in the middle": (lambda d: flip(write_video(d / "v.ts", counter_frames(60)), 0.4, 0.6), None),
    "damaged packets of mp4": (
        lambda d: flip(write_video(d / "v.mp4", counter_frames(60)), 0.4, 0.6),
        "does not decode",
    ),
    "sound alone": (lambda d: write_sound(d / "v.mp4"), "holds no video stream"),
    "empty": (lambda d: text(d, "v.mp4", b""), "is empty"),
    "text": (lambda d: text(d, "v.mp4", b"no video" * 100), "cannot be read as a video"),
    "a pipe": (lambda d: os.mkfifo(d / "v.mp4") or d / "v.mp4", "is not a regular file"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_odd_file_has_right_times_or_a_clear_error(name, tmp_path, caplog):
    make, expected = FILES[name]
    path, model = make(tmp_path), tiny.model()
    if isinstance(expected, str):
        with pytest.raises(VideoError, match=expected) as error:
            timeline(model, path, hop=0.2)
        assert str(path) in str(error.value)
        return
    found = timeline(model, path, hop=0.2)
    assert np.isfinite(found.logits).all()
    assert (np.diff(found.center) > 0).all()
    assert (found.start <= found.center).all()
    assert (found.center <= found.end).all()
    if expected is None:
        assert any(word in caplog.text for word in ("truncated", "damaged"))  # a warning says that frames are missing
        return
    begin, end = expected
    assert found.start[0] == pytest.approx(begin, abs=1e-3)
    assert found.end[-1] == pytest.approx(end, abs=0.05)  # the last sampled frame may be the one before the last


def test_a_window_sees_the_frames_shown_at_its_time(tmp_path, monkeypatch):
    """Of a variable rate: the counters in the frames of a window are those of the frames between start and end."""
    pts = [*range(20), *range(20, 60, 2)]
    path = write_video(tmp_path / "v.mp4", counter_frames(40), pts=pts)
    model, seen = tiny.model("spatiotemporal", image_size=(48, 64)), []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    model.config.preprocessing.__dict__["crop_fraction"] = 1.0  # the frames as they are
    found = timeline(model, path, hop=0.16)
    assert len(seen) == len(found)
    for clip, start, end in zip(seen, found.start, found.end):
        numbers = [read_counter(image.permute(1, 2, 0).numpy()) for image in clip]
        assert pts[numbers[0]] / 25 == pytest.approx(start)
        ends = [*pts[1:], 60][numbers[-1]] / 25
        assert ends == pytest.approx(end, abs=0.05)
