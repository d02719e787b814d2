"""Seconds count from the container's start, and every frame comes once, in order, whatever the stamps are."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.videos import counter_frames, read_all, read_counter, write_sound, write_video
from vivit.data.video.decoder import Video
from vivit.data.video.scan import rising_stamps
from vivit.errors import VideoError

CODECS = {"ts": "libx264", "mpg": "mpeg2video", "vob": "mpeg2video", "mkv": "libx264", "avi": "libx264"}


def numbers(video: Video, indices: Sequence[int] | None = None) -> list[int]:
    indices = range(video.num_frames) if indices is None else indices
    return [read_counter(image.permute(1, 2, 0).numpy()) for image in video.frames(indices)]


def write_part(path: Path, first: int, count: int, **options) -> bytes:
    codec = CODECS[path.suffix[1:]]
    return write_video(path, counter_frames(first + count)[first:], codec=codec, **options).read_bytes()


@pytest.mark.parametrize("counts", [(20, 20), (30, 10), (10, 30), (12, 8, 12)])
@pytest.mark.parametrize("suffix", ["ts", "mpg", "vob"])
def test_files_put_together_give_every_frame_once_and_time_goes_on(tmp_path, suffix, counts):
    firsts = np.cumsum([0, *counts]).tolist()
    parts = [write_part(tmp_path / f"{i}.{suffix}", firsts[i], count) for i, count in enumerate(counts)]
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(b"".join(parts))
    video, total = Video(path), sum(counts)
    expected, end = [], 0.0
    for i in range(len(counts)):
        part = Video(tmp_path / f"{i}.{suffix}")
        expected += (part.times + end).tolist()
        end += part.duration
    assert numbers(video) == list(range(total))
    assert video.problem is None
    np.testing.assert_allclose(video.times, expected, atol=2e-3)
    assert video.duration == pytest.approx(end, abs=3e-3)
    assert numbers(video, [total - 1, 3, counts[0]]) == [total - 1, 3, counts[0]]
    assert [index for index, _ in video.images([1, counts[0] - 1, total - 1])] == [1, counts[0] - 1, total - 1]


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize(
    ("suffix", "options", "read"),
    [("flv", {}, 1), ("mkv", {}, 2), ("mp4", {}, 1), ("mp4", {"movflags": "faststart"}, 1)],
)
def test_files_put_together_of_which_ffmpeg_reads_only_the_first_are_reported(tmp_path, suffix, options, read, sound):
    frames = counter_frames(100)
    parts = [
        write_video(
            tmp_path / f"{i}.{suffix}", frames[20 * i :][:20], audio=sound, container_options=options
        ).read_bytes()
        for i in range(5)
    ]
    path = tmp_path / f"joined.{suffix}"
    for count in range(1, 6):
        path.write_bytes(b"".join(parts[:count]))
        expected = min(read, count)
        for video in (Video(path), Video(path, data=path.read_bytes())):
            assert numbers(video) == list(range(20 * expected))
            if count == expected:
                assert video.problem is None
            else:
                assert video.problem.startswith("several files in one, of which FFmpeg reads only the first: ")
                assert str(20 * expected) in video.problem


def test_a_second_part_of_another_rate_keeps_its_rate(tmp_path):
    slow = write_part(tmp_path / "slow.ts", 0, 20, fps=25)
    fast = write_part(tmp_path / "fast.ts", 20, 20, fps=50)
    for data, steps in ((slow + fast, [0.04] * 19 + [0.02] * 19), (fast + slow, [0.02] * 19 + [0.04] * 19)):
        (tmp_path / "joined.ts").write_bytes(data)
        video = Video(tmp_path / "joined.ts")
        assert sorted(numbers(video)) == list(range(40))
        got = np.diff(video.times)
        np.testing.assert_allclose(np.delete(got, 19), steps, atol=1e-4)
        assert 0.015 < got[19] < 0.045


@pytest.mark.parametrize("ticks", [10, 100_000])  # overlapping, and far later
def test_stamps_of_a_second_part_that_overlap_or_jump_are_put_in_file_order(tmp_path, ticks):
    first = write_part(tmp_path / "a.ts", 0, 20)
    second = write_part(tmp_path / "b.ts", 20, 20, pts=range(ticks, ticks + 20))
    (tmp_path / "joined.ts").write_bytes(first + second)
    video = Video(tmp_path / "joined.ts")
    assert numbers(video) == list(range(40))
    np.testing.assert_allclose(video.times, np.arange(40) / 25, atol=2e-3)


def test_stamps_that_pass_33_bits_go_on(tmp_path):
    wrap = round(2**33 / 90000 * 25)
    path = write_video(tmp_path / "clip.ts", counter_frames(40), pts=range(wrap - 60, wrap - 20))
    video = Video(path)  # the muxer adds 1.4 s, so that stamps begin again after 25 frames
    with av.open(str(path)) as container:
        raw = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    assert min(raw) < 0 or max(raw) > 2**33  # libavformat has put them right
    assert numbers(video) == list(range(40))
    np.testing.assert_allclose(video.times, np.arange(40) / 25, atol=2e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv"])
def test_seconds_count_from_the_start_of_the_sound_where_the_picture_begins_later(tmp_path, suffix):
    path = write_video(tmp_path / f"late.{suffix}", counter_frames(75), pts=range(50, 125), audio=True)
    streams: dict[str, list[float]] = {"video": [], "audio": []}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.pts is not None:
                streams[packet.stream.type].append(float(packet.pts * packet.time_base))
    delay = min(streams["video"]) - max(min(streams["audio"]), 0)  # below 0 sound is only decoded, never played
    assert 1.9 < delay < 2.1
    video = Video(path)
    np.testing.assert_allclose(video.times, delay + np.arange(75) / 25, atol=2e-3)
    assert video.duration == pytest.approx(delay + 3, abs=3e-3)
    assert video.fps == pytest.approx(25, rel=1e-3)
    assert video.problem is None
    assert video.frames_at([3.0 + (delay - 2)]).equal(video.frames([25]))
    assert video.frames_at([0, 1.5]).equal(video.frames([0, 0]))
    index = video.packet_index()
    np.testing.assert_array_equal(Video(path, index=index).times, video.times)


def test_a_transport_stream_that_begins_within_a_group_of_pictures_counts_from_its_first_packet(tmp_path):
    path = write_video(
        tmp_path / "clip.ts", counter_frames(60), keyint=30, options={"x264-params": "bframes=0:scenecut=0"}
    )
    with av.open(str(path)) as container:
        places = [packet.pos or 0 for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    path.write_bytes(data[: 3 * 188] + data[places[10] // 188 * 188 :])
    video = Video(path)
    assert numbers(video, [0]) == [30]
    assert video.times[0] == pytest.approx((30 - 10) / 25, abs=2e-3)


@pytest.mark.parametrize("suffix", ["wmv", "asf", "avi"])
@pytest.mark.parametrize(("codec", "options"), [("libx264", {}), ("mpeg4", {"bf": "2"})])
def test_containers_that_number_packets_by_decoding_give_b_frames_in_order(tmp_path, suffix, codec, options):
    path = write_video(tmp_path / f"clip.{suffix}", counter_frames(50), codec=codec, options=options)
    video = Video(path)
    assert numbers(video) == list(range(50))
    np.testing.assert_allclose(np.diff(video.times), 1 / 25, atol=1e-6)
    assert numbers(video, [49, 7, 30]) == [49, 7, 30]


@pytest.mark.parametrize("suffix", ["ts", "mpg", "vob", "m2ts"])
def test_every_access_to_a_program_stream_gives_frames_ascending_and_few_are_decoded(tmp_path, suffix):
    codec = CODECS.get(suffix, "libx264")
    path = write_video(tmp_path / f"clip.{suffix}", counter_frames(60), codec=codec, options={"bf": "2"})
    video, truth = Video(path), read_all(path)
    for wanted in (range(60), [0, 13, 59], [30, 31], [59]):
        images = list(video.images(wanted))
        assert [index for index, _ in images] == list(wanted)
        np.testing.assert_array_equal([image for _, image in images], truth[list(wanted)])
    before = video.frames_decoded
    video.frames([50])
    assert video.frames_decoded - before < 40


def write_tracks(path: Path, *tracks: np.ndarray, codecs: Sequence[str]) -> Path:
    """Write one video track for each array of frames."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=25) for codec in codecs]
        streams = [stream for stream in streams if isinstance(stream, av.VideoStream)]
        for stream, frames in zip(streams, tracks, strict=True):
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuvj420p" if stream.codec_context.name == "mjpeg" else "yuv420p"
        for stream, frames in zip(streams, tracks, strict=True):
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mov", "mkv", "mp4"])
def test_a_still_beside_the_video_is_not_taken_for_it(tmp_path, suffix):
    still, frames = counter_frames(1, 32, 32), counter_frames(30)
    video = Video(write_tracks(tmp_path / f"clip.{suffix}", still, frames, codecs=["mjpeg", "libx264"]))
    assert (video.num_frames, video.height, video.width) == (30, 48, 64)
    assert numbers(video, [29, 0]) == [29, 0]
    assert video.note == "2 video tracks (32x32, 64x48): number 2 is used"
    assert Video(video.path, index=video.packet_index()).note == video.note
    assert Video(write_video(tmp_path / f"one.{suffix}", frames)).note is None


def test_subtitles_longer_than_the_picture_are_no_truncation(tmp_path):
    text = tmp_path / "text.srt"
    text.write_text("1\n00:00:00,100 --> 00:00:09,000\nHello\n\n2\n00:00:20,000 --> 00:00:30,000\nHello\n")
    source = write_video(tmp_path / "clip.mp4", counter_frames(20))
    path = tmp_path / "subtitled.mkv"
    with av.open(str(source)) as video, av.open(str(text)) as subtitles, av.open(str(path), "w") as container:
        outputs = [container.add_stream_from_template(reader.streams[0]) for reader in (video, subtitles)]
        for reader, output in zip((video, subtitles), outputs, strict=True):
            for packet in reader.demux():
                if packet.size:
                    packet.stream = output
                    container.mux(packet)
    assert (Video(path).num_frames, Video(path).problem) == (20, None)


def test_a_sound_track_longer_than_the_picture_is_no_truncation(tmp_path):
    source = write_video(tmp_path / "clip.mp4", counter_frames(20))
    sound = write_sound(tmp_path / "sound.mp4", seconds=5)
    for suffix in ("mp4", "mkv", "mov"):
        path = tmp_path / f"both.{suffix}"
        with av.open(str(source)) as one, av.open(str(sound)) as two, av.open(str(path), "w") as container:
            outputs = [container.add_stream_from_template(reader.streams[0]) for reader in (one, two)]
            for reader, output in zip((one, two), outputs, strict=True):
                for packet in reader.demux():
                    if packet.size:
                        packet.stream = output
                        container.mux(packet)
        video = Video(path)
        assert (video.num_frames, video.problem) == (20, None)
        assert video.duration < 1


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_frame_every_30_minutes_is_a_time_lapse(tmp_path, suffix):
    path = write_video(tmp_path / f"lapse.{suffix}", counter_frames(10), fps=1, pts=range(0, 18000, 1800))
    video = Video(path)
    np.testing.assert_allclose(video.times, np.arange(10) * 1800.0, atol=1e-2)
    assert numbers(video, [9, 4]) == [9, 4]
    assert video.frames_at([5400.0]).equal(video.frames([3]))


def test_absurd_stamps_give_every_frame_a_finite_rate_and_rising_times(tmp_path):
    pts = [*range(8), *range(2**40, 2**40 + 8), *range(20, 28)]  # 1400 years later, and back
    path = tmp_path / "clip.mkv"
    with av.open(str(write_video(tmp_path / "clip.mp4", counter_frames(24), options={"bf": "0"}))) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        with av.open(str(path), "w") as container:
            stream = container.add_stream_from_template(source.streams.video[0])
            for packet, stamp in zip(packets, pts, strict=True):
                if stamp < 20 or stamp >= 2**40:
                    packet.pts = packet.dts = stamp * 512
                    packet.stream = stream
                    container.mux(packet)
    video = Video(path)
    assert numbers(video) == list(range(16))
    assert np.isfinite(video.times).all()
    assert (np.diff(video.times) > 0).all()
    assert video.fps == pytest.approx(25, rel=0.1)
    assert video.duration < 10


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
@pytest.mark.parametrize("keyint", [12, 250])
def test_one_wrong_stamp_hides_no_other_frame(tmp_path, suffix, keyint):
    path = tmp_path / f"clip.{suffix}"
    options = {"bf": "0", "x264-params": "scenecut=0"}
    source = write_video(tmp_path / "source.mp4", counter_frames(100), keyint=keyint, options=options)
    with av.open(str(source)) as plain, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(plain.streams.video[0])
        for number, packet in enumerate(packet for packet in plain.demux(video=0) if packet.size):
            assert packet.pts is not None
            assert packet.time_base
            if number == 50:
                packet.pts += int(5 / packet.time_base)
            packet.stream = stream
            container.mux(packet)
    video = Video(path)
    assert video.damage() is None
    assert numbers(video) == list(range(100))
    np.testing.assert_allclose(video.times, np.arange(100) / 25, atol=2e-3)
    assert numbers(video, [99, 50, 3]) == [99, 50, 3]


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([0, 40, 80], [0, 40, 80]),
        ([0, 40, 5080, 120, 160], [0, 40, 80, 120, 160]),  # one wrong stamp
        ([0, 40, 10**15, 120, 160], [0, 40, 80, 120, 160]),
        ([0, 1000, 1040, 0, 1120], [0, 1000, 1040, 1080, 1120]),
        ([500, 540, 580], [0, 40, 80]),
        ([0, 40, 80, 0, 40], [0, 40, 80, 120, 160]),
        ([0, 40, 80, 7, 47, 0], [0, 40, 80, 120, 160, 200]),
        ([0, 40, 40, 80], [0, 40, 60, 80]),  # frames with equal stamps share the time until the next one
        ([0, 0, 0], [0, 40, 80]),
        ([None, None, None], [0, 40, 80]),
        ([0, None, 80, None], [0, 40, 80, 120]),
        ([0, 40, 10**15, 10**15 + 40], [0, 40, 80, 120]),
        ([0, 9000, 18000], [0, 9000, 18000]),
        ([-(2**62), 2**62, 0, 2**62], [0, 40, 80, 120]),
        ([100], [0]),
    ],
)
def test_stamps_are_made_to_rise(stamps, expected):
    got, parts = rising_stamps(stamps, time_base=0.001, rate=25, longest_gap=10)
    np.testing.assert_allclose(got / parts, expected, atol=1)
    assert (np.diff(got) > 0).all()


def test_interlaced_frames_are_converted_as_progressive_ones(tmp_path):
    """Truth: chroma row k belongs to rows 2k and 2k + 1; converted by field, it belongs to rows of every other line."""
    frames = np.full((4, 64, 64, 3), 128, np.uint8)
    frames[:, 0::4, :, 0] = frames[:, 1::4, :, 0] = 220  # red and blue change with each chroma row
    frames[:, 2::4, :, 2] = frames[:, 3::4, :, 2] = 220
    path = write_video(
        tmp_path / "clip.mp4", frames, keyint=1, options={"x264-params": "interlaced=1:qp=1:deblock=-6,-6"}
    )
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert frame.interlaced_frame
        planes = frame.to_ndarray().astype(float)
    y, chroma = planes[:64], planes[64:].reshape(2, 32, 32)
    cb, cr = (plane.repeat(2, 0).repeat(2, 1) - 128 for plane in chroma)
    y = (y - 16) * 255 / 219
    red, blue = y + 1.402 * cr * 255 / 224, y + 1.772 * cb * 255 / 224
    got = Video(path).frames([0])[0].numpy().astype(float)
    assert np.abs(got[0] - red.clip(0, 255)).max() < 6
    assert np.abs(got[2] - blue.clip(0, 255)).max() < 6


def test_an_animated_gif_is_a_video(tmp_path):
    frames = counter_frames(12)
    path = tmp_path / "clip.gif"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "rgb8"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="rgb8")))
        container.mux(stream.encode(None))
    video, truth = Video(path), read_all(path)
    assert (video.num_frames, video.fps) == (12, pytest.approx(10))
    for index in (11, 0, 7):
        np.testing.assert_array_equal(video.frames([index])[0].permute(1, 2, 0), truth[index])


def test_a_stream_that_ffmpeg_first_meets_within_the_file_hides_no_frame(tmp_path):
    """PyAV raises IndexError at the end of such a file."""
    path = write_video(tmp_path / "clip.flv", counter_frames(30))
    tag = b"\x08" + (20).to_bytes(3, "big") + bytes(7) + b"\x2e" + bytes(19) + (31).to_bytes(4, "big")  # MP3 sound
    path.write_bytes(path.read_bytes() + tag)
    video = Video(path)
    assert numbers(video) == list(range(30))


@pytest.mark.parametrize("error", [IndexError, ValueError, OverflowError, MemoryError, EOFError, ZeroDivisionError])
def test_whatever_pyav_raises_is_an_error_with_the_path(tmp_path, monkeypatch, error):
    path = write_video(tmp_path / "clip.mp4", counter_frames(5))
    video = Video(path)

    def fail(*args):
        raise error("from PyAV")

    monkeypatch.setattr("vivit.data.video.decoder._recent", {})
    for module in ("build_index", "decoder"):
        monkeypatch.setattr(f"vivit.data.video.{module}.decode_frames", fail)
    for read in (lambda: Video(path), lambda: video.frames([3]), lambda: list(video.images([0]))):
        with pytest.raises(VideoError, match=r"clip\.mp4: cannot be read as a video .*from PyAV"):
            read()


def test_a_video_has_a_length_and_items_and_says_what_it_is(tmp_path):
    video = Video(write_video(tmp_path / "clip.mp4", counter_frames(20)))
    assert len(video) == 20
    assert video[3].equal(video.frames([3])[0])
    assert video[-1].equal(video.frames([19])[0])
    assert video[2:9:3].equal(video.frames([2, 5, 8]))
    assert video[5:5].shape == (0, 3, 48, 64)
    with pytest.raises(IndexError, match="got frame 20 .*allowed are -20 to 19"):
        video[20]
    assert "20 frames of 48x64 pixels (H x W), 0.80 s, 25.00 frames/s" in repr(video)
