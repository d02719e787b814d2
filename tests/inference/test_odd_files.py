"""Odd files: timelines, features and streams have the right times, as ffprobe says, or a clear error names the file."""

import json
import os
import shutil
import subprocess
from functools import partial

import numpy as np
import pytest
from PIL import Image

from vivit.data.video.frame_folder import open_video
from vivit.data.video.live import Source
from vivit.errors import VideoError
from vivit.inference.features import features
from vivit.inference.stream import stream
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


def plain(name, **arguments):
    """A function that writes 30 frames to a file of this name."""
    frames = arguments.pop("frames", None)
    return lambda d: write_video(d / name, counter_frames(30) if frames is None else frames, **arguments)


def with_picture(folder):
    """A cover picture is the first video stream of the file."""
    video, out = write_video(folder / "plain.mp4", counter_frames(30)), folder / "v.mp4"
    Image.fromarray(counter_frames(1)[0]).save(folder / "cover.png")
    make = ["ffmpeg", "-nostdin", "-v", "error", "-i", folder / "cover.png", "-i", video, "-map", "0", "-map", "1"]
    subprocess.run([*make, "-c", "copy", "-disposition:v:0", "attached_pic", out], check=True)
    return out


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
    "open groups of pictures": (
        plain("v.mp4", options={"x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12"}),
        (0, 1.2),
    ),
    "interlaced": (plain("v.mp4", options={"x264-params": "interlaced=1:tff=1"}), (0, 1.2)),
    "10 bits": (plain("v.mkv", pix_fmt="yuv420p10le"), (0, 1.2)),
    "4:4:4 of odd size": (plain("v.mp4", frames=counter_frames(30, 47, 63), pix_fmt="yuv444p"), (0, 1.2)),
    "gif": (plain("v.gif", codec="gif", pix_fmt="rgb8"), (0, 1.2)),
    "motion jpeg": (plain("v.avi", codec="mjpeg", pix_fmt="yuvj420p"), (0, 1.2)),
    "webm": (plain("v.webm", codec="libvpx-vp9"), (0, 1.2)),
    "240 frames a second": (plain("v.mp4", frames=counter_frames(240), fps=240), (0, 1)),
    "a frame a second": (plain("v.mp4", fps=1), (0, 29)),  # the last sampled frame is the one before the last
    "starts below zero": (
        plain("v.mp4", pts=range(-10, 20), container_options={"avoid_negative_ts": "disabled"}),
        (0, 0.8),  # the edit list of the file hides what is before 0
    ),
    "starts after an hour": (plain("v.mkv", pts=range(90_000, 90_030)), (0, 1.2)),
    "no container": (plain("v.h264"), "cannot be read as a video"),
    "B-frames in avi": (plain("v.avi", options={"bf": "2"}), (0, 1.2)),
    "a gap of an hour": (plain("v.mkv", pts=[*range(15), *range(90_000, 90_015)]), (0, 3600.6)),
    "cover picture": (with_picture, (0, 1.2)),
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
    if make is with_picture and shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    path, model = make(tmp_path), tiny.model()
    if isinstance(expected, str):
        for compute in (timeline, partial(features, level="position"), read_stream):
            if name == "a pipe" and compute is read_stream:
                continue  # a stream may come from a pipe
            with pytest.raises(VideoError, match=expected) as error:
                compute(model, path)
            assert str(path) in str(error.value)
        return
    found = timeline(model, path, hop=0.2)
    assert np.isfinite(found.logits).all()
    assert (np.diff(found.center) > 0).all()
    assert (found.start <= found.center).all()
    assert (found.center <= found.end).all()
    rows = read_stream(model, path)
    np.testing.assert_array_equal(np.stack([row.logits for row in rows]), found.logits)
    for field in ("start", "end", "center", "padded"):
        np.testing.assert_array_equal([getattr(row, field) for row in rows], getattr(found, field))
    positions = features(model, path, level="position")
    assert np.isfinite(positions.values).all()
    assert (np.diff(positions.seconds) > 0).all()
    assert positions.start[0] == found.start[0]
    if expected is None:
        assert any(word in caplog.text for word in ("truncated", "damaged"))  # a warning says that frames are missing
        return
    begin, end = expected
    assert positions.start[0] == pytest.approx(begin, abs=1e-3)
    assert positions.end[-1] == pytest.approx(end, abs=0.05)  # the last sampled frame may be the one before the last
    if name != "240 frames a second":  # whose windows are shorter than a hop: its last row ends with its window
        assert found.end[-1] == pytest.approx(open_video(path).duration, abs=1e-3)
    if name in WITHOUT_PROBE or shutil.which("ffprobe") is None:
        return
    shown = probe(path)
    sampled = shown[np.arange(0, len(shown), 2)]  # stride 2, positions of two samples
    np.testing.assert_allclose(positions.start, sampled[::2], atol=1e-3)


def read_stream(model, path):
    return list(stream(model, Source(str(path)), hop=0.2))


# ffprobe gives the second part of joined segments the times of the first, and B-frames in avi no times; it knows no
# rate of a folder of images.
WITHOUT_PROBE = ("joined segments", "images in a folder", "B-frames in avi")


def probe(path):
    """The seconds at which the frames of a file appear, from ffprobe.

    Zero is the earliest time stamp of the file, unless that is below zero, as of the silence before AAC sound.
    """
    words = ["-select_streams", "V:0", "-show_entries", "frame=best_effort_timestamp_time:format=start_time"]
    out = subprocess.run(["ffprobe", "-v", "error", *words, "-of", "json", path], capture_output=True, check=True)
    found = json.loads(out.stdout)
    times = [float(frame["best_effort_timestamp_time"]) for frame in found["frames"]]
    return np.array(times) - max(float(found["format"]["start_time"]), 0)


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
