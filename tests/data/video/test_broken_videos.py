"""A file of any content soon gives frames of the right shape or a VideoError that explains itself, nothing else."""

import faulthandler
import logging
import os
import re
import time
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.videos import as_hwc, counter_frames, read_all, read_counter, write_sound, write_video
from vivit.data.video.decoder import Video
from vivit.errors import VideoError

SECONDS = 60  # for one file, whatever is in it; they take milliseconds
SOUND = {  # name: codec, container options
    "plain.mp4": ("libx264", {}),
    "faststart.mp4": ("libx264", {"movflags": "faststart"}),
    "fragmented.mp4": ("libx264", {"movflags": "frag_keyframe+empty_moov"}),
    "h265.mkv": ("libx265", {}),
    "vp9.webm": ("libvpx-vp9", {}),
    "av1.webm": ("libsvtav1", {}),
    "mpeg4.avi": ("mpeg4", {}),
    "h264.avi": ("libx264", {}),
}
NUM_FRAMES = 50


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of a sound file by its name."""
    folder = tmp_path_factory.mktemp("sound")

    @cache
    def read(name: str) -> bytes:
        codec, options = SOUND[name]
        path = write_video(folder / name, counter_frames(NUM_FRAMES), codec=codec, container_options=options)
        return path.read_bytes()

    return read


@pytest.fixture(autouse=True)
def guard():
    """A hang or a crash inside FFmpeg shows where it is, instead of stopping the run without a word."""
    faulthandler.dump_traceback_later(6 * SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def outcome(path) -> Video | VideoError:
    """What reading all of `path` comes to; anything but frames of the right shape or a VideoError fails the test."""
    start = time.monotonic()
    try:
        video = Video(path)
        assert video.num_frames > 0
        assert video.times.shape == (video.num_frames,)
        assert video.times[0] >= 0
        assert (np.diff(video.times) > 0).all()
        assert video.fps > 0
        assert video.duration > 0
        images = video.frames(range(video.num_frames))
        assert images.shape == (video.num_frames, 3, video.height, video.width)
        return video
    except VideoError as error:
        return error
    finally:
        assert time.monotonic() - start < SECONDS


@pytest.mark.parametrize("tenths", range(1, 10))
@pytest.mark.parametrize("name", SOUND)
def test_a_file_cut_short_gives_its_first_frames_and_says_so_or_an_error(tmp_path, content, caplog, name, tenths):
    data = content(name)
    path = tmp_path / name
    path.write_bytes(data[: len(data) * tenths // 10])
    result = outcome(path)
    if name == "plain.mp4":  # the table of contents is at the end
        assert isinstance(result, VideoError)
    if isinstance(result, Video):
        shown = [read_counter(image) for image in result.frames(range(result.num_frames)).permute(0, 2, 3, 1).numpy()]
        assert shown == sorted(set(shown))
        assert shown[0] == 0
        if name != "h264.avi":  # whose frames have no stamps: a hole before the end moves what follows
            np.testing.assert_allclose(result.times * 25, shown, atol=0.03)
        if result.num_frames < NUM_FRAMES - 5:
            assert result.problem
            assert str(result.num_frames) in result.problem
        warnings = [record for record in caplog.records if record.name == "vivit" and record.levelno == logging.WARNING]
        assert len(warnings) == (result.problem is not None)


@pytest.mark.parametrize("name", ["faststart.mp4", "h265.mkv", "vp9.webm", "av1.webm", "mpeg4.avi"])
def test_what_is_left_of_a_file_that_lost_its_end_is_what_the_sound_file_gives(tmp_path, content, name):
    data = content(name)
    path = tmp_path / name
    path.write_bytes(data)
    truth = read_all(path)
    for percent in (86, 88, 90):
        path.write_bytes(data[: len(data) * percent // 100])
        video = outcome(path)
        assert isinstance(video, Video)
        assert 15 < video.num_frames < NUM_FRAMES
        assert video.problem == f"truncated: {video.num_frames} of {NUM_FRAMES} frames"
        images = video.frames(range(video.num_frames)).permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(images, truth[[read_counter(image) for image in images]])


@pytest.mark.parametrize("place", [22, 24, 27])  # frame 24 is a key frame
def test_frames_patched_over_damage_are_the_same_however_they_are_reached(tmp_path, place):
    path = write_video(tmp_path / "clip.mkv", counter_frames(40, 96, 128), options={"bf": "0", "crf": "10"})
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    hurt = packets[place]
    middle = len(hurt) // 2
    path.write_bytes(path.read_bytes().replace(hurt, hurt[:middle] + bytes(len(hurt) - middle)))
    truth, video = read_all(path), Video(path)
    assert video.num_frames == len(truth) == 40
    for index in range(40):
        np.testing.assert_array_equal(video.frames([index])[0].permute(1, 2, 0), truth[index])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", SOUND)
def test_flipped_bytes_give_frames_or_an_error(tmp_path, content, name, seed):
    random = np.random.default_rng(seed)
    data = np.frombuffer(content(name), np.uint8).copy()
    hit = random.integers(0, len(data), size=[1, 3, 10, 30, 100, 300][seed])
    data[hit] = random.integers(0, 256, size=len(hit))
    path = tmp_path / name
    path.write_bytes(data.tobytes())
    outcome(path)


@pytest.mark.parametrize("name", ["faststart.mp4", "vp9.webm", "h265.mkv", "mpeg4.avi"])
def test_a_hole_in_the_middle_gives_frames_or_an_error(tmp_path, content, name):
    data = bytearray(content(name))
    for fill in (b"\0", b"\xff", None):
        third = len(data) // 3
        middle = b"" if fill is None else fill * third
        path = tmp_path / name
        path.write_bytes(data[:third] + middle + data[2 * third :])
        outcome(path)


def test_a_frame_that_does_not_decode_is_an_error_and_its_neighbours_are_not(tmp_path):
    path = write_video(tmp_path / "clip.mkv", counter_frames(40), codec="libvpx-vp9", keyint=10)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    assert data.count(packets[20]) == 1  # a key frame
    path.write_bytes(data.replace(packets[20], b"\xff" * len(packets[20])))
    video = Video(path)
    assert video.num_frames == 40
    with pytest.raises(VideoError, match="frame 20 of 40 does not decode"):
        video.frames([3, 20])
    good = video.frames([0, 19, 30, 39]).permute(0, 2, 3, 1).numpy()
    assert [read_counter(image) for image in good] == [0, 19, 30, 39]


@pytest.mark.parametrize(("codec", "options"), [("libx264", {"bf": "0"}), ("libx264", {}), ("libx265", {})])
def test_a_file_that_starts_in_the_middle_begins_at_the_first_frame_that_decodes(tmp_path, codec, options):
    path = write_video(tmp_path / "clip.ts", counter_frames(40), codec=codec, options=options, keyint=10)
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[places[5] :])
    video, truth = outcome(path), read_all(path)
    assert isinstance(video, Video)
    assert video.num_frames == len(truth) < 35
    assert video.problem == f"starts late: the first {35 - len(truth)} frames do not decode"
    np.testing.assert_array_equal(video.frames([0, 9, len(truth) - 1]).permute(0, 2, 3, 1), truth[[0, 9, -1]])


NOT_VIDEOS = {
    "empty.mp4": b"",
    "one byte.mp4": b"\0",
    "text.mp4": b"This is no video.\n" * 200,
    "text.txt": b"plain words, which FFmpeg would draw as a terminal\n" * 50,
    "zeros.mkv": bytes(20_000),
    "random.mp4": np.random.default_rng(0).bytes(50_000),
    "random.avi": b"RIFF" + np.random.default_rng(1).bytes(50_000),
    "random.mkv": b"\x1a\x45\xdf\xa3" + np.random.default_rng(2).bytes(50_000),
    "page.mp4": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "list.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9.0,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    "list.mp4": b"ffconcat version 1.0\nfile plain.mp4\n",
    "pickle.mp4": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94.",
    "box.mp4": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
    "endless box.mp4": b"\0\0\0\x01moov\xff\xff\xff\xff\xff\xff\xff\xff" * 40,
    "subtitles.mp4": b"1\n00:00:01,000 --> 00:00:02,000\nHello\n",
}


@pytest.mark.parametrize("name", NOT_VIDEOS)
def test_what_is_not_a_video_is_an_error(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(NOT_VIDEOS[name])
    error = outcome(path)
    assert isinstance(error, VideoError)
    assert error.path == str(path)
    assert "expected a video" in str(error)


def test_a_video_in_another_container_is_an_error_that_names_those_that_are_read(tmp_path):
    path = write_video(tmp_path / "clip.nut", counter_frames(5), codec="mpeg4").rename(tmp_path / "clip.mp4")
    with pytest.raises(VideoError, match="expected a video of one of the containers mp4, mov, mkv, .* mxf"):
        Video(path)


@pytest.mark.parametrize("suffix", ["mpg", "mpeg", "mxf"])
def test_mxf_and_mpeg_streams_without_a_container_are_read(tmp_path, suffix):
    path = write_video(
        tmp_path / ("clip.mxf" if suffix == "mxf" else "clip.m2v"), counter_frames(40), codec="mpeg2video"
    )
    video = Video(path.rename(tmp_path / f"renamed.{suffix}"))
    assert [read_counter(image) for image in as_hwc(video.frames([39, 0, 17]))] == [39, 0, 17]


@pytest.mark.parametrize("name", ["h264.avi", "vp9.webm", "faststart.mp4"])
def test_a_header_without_frames_is_an_error(tmp_path, content, name):
    data = content(name)
    body = {"h264.avi": b"movi", "vp9.webm": b"\x1f\x43\xb6\x75", "faststart.mp4": b"mdat"}[name]
    path = tmp_path / name
    path.write_bytes(data[: data.index(body) + 12])
    assert isinstance(outcome(path), VideoError)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp"])
def test_an_image_named_as_a_video_is_an_error(tmp_path, suffix):
    av.VideoFrame.from_ndarray(counter_frames(1)[0], format="rgb24").save(tmp_path / "image.png")
    path = tmp_path / "image.mp4"
    if suffix == "png":
        os.rename(tmp_path / "image.png", path)
    else:
        codec, pix_fmt = {"jpg": ("mjpeg", "yuvj420p"), "gif": ("gif", "rgb8"), "bmp": ("bmp", "bgr24")}[suffix]
        encoder = av.CodecContext.create(codec, "w")
        encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, pix_fmt, Fraction(1, 25)
        frame = av.VideoFrame.from_ndarray(counter_frames(1)[0], format="rgb24").reformat(format=pix_fmt)
        path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]))
    assert isinstance(outcome(path), VideoError)


@pytest.mark.parametrize("name", ["sound.mp4", "sound.mkv"])
def test_sound_alone_is_an_error(tmp_path, name):
    error = outcome(write_sound(tmp_path / name))
    assert isinstance(error, VideoError)
    assert "no video stream" in error.reason


def test_a_picture_of_absurd_size_is_an_error_before_anything_is_decoded(tmp_path):
    path = write_video(tmp_path / "clip.avi", counter_frames(3), codec="rawvideo", pix_fmt="yuv420p")
    data = bytearray(path.read_bytes())
    header = data.index(b"strf") + 8  # BITMAPINFOHEADER: its size, then width and height
    for width, height in [(40_000, 48), (16_000, 16_000), (2**31 - 1, 2**31 - 1)]:
        data[header + 4 : header + 12] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
        path.write_bytes(data)
        error = outcome(path)
        assert isinstance(error, VideoError)
        assert width != 40_000 or "40000x48 pixels" in error.reason
    data[header + 4 : header + 12] = (64).to_bytes(4, "little") + (48).to_bytes(4, "little")
    path.write_bytes(data)
    assert isinstance(outcome(path), Video)


def test_a_path_that_is_no_file_is_an_error_that_says_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait for a writer for ever
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nowhere")
    for path, reason in [
        (tmp_path, "is a directory"),
        (tmp_path / "missing.mp4", "no such file"),
        (tmp_path / "dangling.mp4", "no such file"),
        (tmp_path / "pipe.mp4", "is not a regular file"),
        ("", "no such file"),
        ("a\0b.mp4", "no such file"),
        ("http://127.0.0.1:9/clip.mp4", "no such file"),
        (None, "is a NoneType"),
        (7, "is a int"),
        (["clip.mp4"], "is a list"),
    ]:
        error = outcome(path)
        assert isinstance(error, VideoError)
        assert reason in error.reason


def test_a_file_that_disappears_after_opening_is_an_error(tmp_path):
    path = write_video(tmp_path / "clip.mp4", counter_frames(5))
    video = Video(path)
    Path(path).unlink()
    with pytest.raises(VideoError, match="No such file"):
        video.frames([0])


def test_nothing_is_written_to_the_terminal(tmp_path, content, capfd):
    data = bytearray(content("faststart.mp4"))
    data[-2000::3] = bytes(len(data[-2000::3]))
    (tmp_path / "a.mp4").write_bytes(data)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    capfd.readouterr()
    outcome(tmp_path / "a.mp4")
    outcome(tmp_path / "b.mp4")
    assert capfd.readouterr() == ("", "")


def test_damage_names_the_frames_that_do_not_decode_or_are_corrupt(tmp_path):
    path = write_video(tmp_path / "clip.mkv", counter_frames(40), codec="libvpx-vp9", keyint=10)
    assert Video(path).damage() is None
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes().replace(packets[20], b"\xff" * len(packets[20])))
    damage = Video(path).damage()
    assert damage == "frames 20 of 40 do not decode"
    path = write_video(tmp_path / "clip.mp4", counter_frames(40, 96, 128), options={"crf": "10"})
    data, random = bytearray(path.read_bytes()), np.random.default_rng(0)
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for place, size in places[12:24]:  # the second of four groups of pictures
        data[place + 4 : place + size] = random.bytes(size - 4)
    path.write_bytes(data)
    video = Video(path)
    assert video.problem is None
    damage = video.damage()
    assert damage is not None
    named = {int(number) for number in re.findall(r"\d+", damage.replace("of 40", ""))}
    assert named <= set(range(10, 27))  # with its neighbours
