"""Streams give the rows of the timeline, stay recent when computing is slow, and outlive their source."""

import os
import shutil
import socket
import statistics
import subprocess
import threading
import time
from functools import partial

import numpy as np
import pytest
import torch

from vivit.config import Preprocessing
from vivit.data.video.live import Frame, Source, StreamClock, read_frames, read_pieces
from vivit.errors import VideoError
from vivit.inference import stream as stream_module
from vivit.inference.events import Events
from vivit.inference.segments import SegmentParams, segments
from vivit.inference.sliding import flush_together
from vivit.inference.stream import Statistics, stream, streams
from vivit.inference.timeline import Timeline, timeline

from ..data.videos import counter_frames, write_video
from ..model import tiny

FPS = 25
MODELS = {name: partial(tiny.model, name, num_frames=8) for name in tiny.NAMES} | {
    "three positions": tiny.model,
    "uniform frames": partial(
        tiny.model, tokenizer="uniform_frames", sampled_frames=3, num_frames=8, tubelet_size=(1, 8, 8)
    ),
    "stride 1.5": partial(tiny.model, preprocessing=Preprocessing(frame_stride=1.5)),
    "stride 0.4": partial(tiny.model, preprocessing=Preprocessing(frame_stride=0.4)),
    "clip seconds": partial(tiny.model, preprocessing=Preprocessing(clip_seconds=0.7)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    write_video(folder / "even.mp4", counter_frames(47), fps=FPS)
    write_video(folder / "variable.mp4", counter_frames(40), pts=[*range(20), *range(20, 60, 2)])
    write_video(folder / "one.mp4", counter_frames(1))
    write_video(folder / "short.mkv", counter_frames(5))
    return folder


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("video", ["even.mp4", "variable.mp4", "one.mp4", "short.mkv"])
def test_a_file_gives_its_timeline_to_the_bit(folder, name, video):
    model = MODELS[name]()
    expected = timeline(model, folder / video, hop=0.3, crops=3)
    rows = list(stream(model, Source(str(folder / video)), hop=0.3, crops=3))
    np.testing.assert_array_equal(np.stack([row.logits for row in rows]), expected.logits)
    for field in ("start", "end", "center", "padded"):
        np.testing.assert_array_equal([getattr(row, field) for row in rows], getattr(expected, field))
    assert {row.dropped for row in rows} == {0}


@pytest.mark.parametrize("stride", [2, 4, 7])
@pytest.mark.parametrize(("number", "hop"), [(75, 0.6), (75, 0.64), (90, 0.3), (31, 0.08), (76, 0.5)])
def test_the_last_segment_ends_with_the_video_in_a_timeline_and_in_a_stream(number, hop, stride, tmp_path):
    """A class that is on all the time is one segment from the first frame to the end, sampled or not."""
    video = write_video(tmp_path / "v.mp4", counter_frames(number), fps=FPS)
    model = tiny.model(num_frames=16, preprocessing=Preprocessing(frame_stride=stride))
    model.head.weight.data.zero_()
    model.head.bias.data.copy_(torch.tensor([9.0, 0.0, 0.0]))
    found = timeline(model, video, hop=hop)
    [one] = segments(found, "label")
    assert (one.start, one.end) == (0, pytest.approx(number / FPS))
    events = Events(model.config.classes, found.hop, SegmentParams())
    rows = list(stream(model, Source(str(video)), hop=hop))
    ended = [s for row in rows for s in events.push(row.start, row.end, row.center, row.logits, row.connection)]
    assert [*ended, *events.finish()] == [one]
    found.save(tmp_path / "whole.npz")
    assert segments(Timeline.load(tmp_path / "whole.npz"), "label") == [one]


def test_rows_that_end_before_the_video_stand_for_half_a_hop_after_their_center(tmp_path):
    video = write_video(tmp_path / "v.mp4", counter_frames(100), fps=FPS)
    model = tiny.model(num_frames=16, preprocessing=Preprocessing(frame_stride=4))
    model.head.weight.data.zero_()
    model.head.bias.data.copy_(torch.tensor([9.0, 0.0, 0.0]))
    found = timeline(model, video, hop=0.32, start=0.7, end=3.5)
    assert found.padded[-1]
    assert found.end[-1] == pytest.approx(4)
    [one] = segments(found, "label")
    assert (one.start, one.end) == pytest.approx((found.center[0] - 0.16, found.center[-1] + 0.16))
    found.save(tmp_path / "part.npz")
    assert segments(Timeline.load(tmp_path / "part.npz"), "label") == [one]


@pytest.mark.parametrize("batch", [1, 5, 32])
def test_rows_of_a_last_batch_that_is_not_full_are_not_lost(folder, batch):
    model = tiny.model(num_frames=8)
    expected = timeline(model, folder / "even.mp4", hop=0.32, batch=batch)
    rows = list(stream(model, Source(str(folder / "even.mp4")), hop=0.32, batch=batch))
    np.testing.assert_array_equal(np.stack([row.logits for row in rows]), expected.logits)
    np.testing.assert_array_equal([row.center for row in rows], expected.center)


@pytest.mark.parametrize("frames", range(40, 49))
def test_batches_are_those_of_the_timeline_where_the_last_position_is_in_no_window(frames, tmp_path):
    """A batch of another size rounds differently; the model here is too small to show it."""
    video, batches = write_video(tmp_path / "v.mp4", counter_frames(frames)), []
    model = tiny.model(num_frames=4)
    model.encoder.spatial.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    timeline(model, video, hop=0.32)
    expected = batches.copy()
    batches.clear()
    assert len(list(stream(model, Source(str(video)), hop=0.32)))
    assert batches[: len(expected)] == expected  # what may follow is in no window


@pytest.mark.parametrize("speed", ["fast", "slow", "uneven"])
def test_the_speed_at_which_frames_come_changes_nothing(folder, speed):
    model, path = tiny.model(num_frames=8), folder / "even.mp4"
    expected = timeline(model, path, hop=0.16).logits
    pauses = {"fast": lambda i: 0, "slow": lambda i: 0.004, "uneven": lambda i: 0.05 * (i % 10 == 0)}[speed]

    def frames():
        for frame in read_frames(Source(str(path)), threading.Event(), print):
            time.sleep(pauses(frame.number))
            yield frame

    rows = list(stream(model, Source(str(path)), hop=0.16, frames=frames()))
    np.testing.assert_array_equal(np.stack([row.logits for row in rows]), expected)


def paced(seconds, *, fps):
    """Frames of a camera in real time."""
    images, began = counter_frames(50), time.monotonic()
    for number in range(round(seconds * fps)):
        time.sleep(max(began + number / fps - time.monotonic(), 0))
        image = images[number % 50]
        yield Frame(number, number / fps, (number + 1) / fps, 0, time.monotonic(), lambda image=image: image, fps)


def test_at_fourfold_overload_whole_positions_are_dropped_and_answers_stay_recent(monkeypatch):
    model, fps = tiny.model(num_frames=8), 50
    position = 4 / fps  # seconds
    hop = 8 * position

    def slow(several):
        time.sleep(4 * position)
        return flush_together(several)

    monkeypatch.setattr(stream_module, "flush_together", slow)
    rows, taken = [], time.monotonic()
    source = Source("tcp://127.0.0.1:1", protocol="tcp")
    for row in stream(model, source, hop=hop, frames=paced(16, fps=fps)):
        rows.append(row)
        if time.monotonic() - taken > 15:
            break
    full = [row for row in rows if not row.padded]
    assert len(full) >= 3
    assert statistics.median(row.latency for row in full) < 3 * hop
    assert max(row.latency for row in full) < 8 * hop  # twice that, had every position been computed
    assert [row.dropped for row in rows] == sorted(row.dropped for row in rows)
    assert rows[-1].dropped > 2 * 8  # three of four
    real = 8 * 2 / fps
    assert full[-1].end - full[-1].start > 2 * real  # the span that the positions really cover
    assert full[-1].end > 8  # seconds: not one that waited for long


@pytest.mark.parametrize("name", ["three positions", "spatiotemporal", "uniform frames"])
def test_several_sources_give_the_rows_that_each_gives_alone_and_their_positions_go_through_together(folder, name):
    model, counted = MODELS[name](), []
    names = ["even.mp4", "variable.mp4", "even.mp4", "one.mp4"]
    expected = [list(stream(model, Source(str(folder / one)), hop=0.3)) for one in names]
    if name == "three positions":
        hook = lambda module, args: counted.append(len(args[0])) or time.sleep(0.02)  # noqa: E731  # slower than reading
        model.encoder.spatial.register_forward_pre_hook(hook)
    found = [[] for _ in names]
    statistics = [Statistics() for _ in names]
    for number, row in streams(model, [Source(str(folder / one)) for one in names], hop=0.3, statistics=statistics):
        found[number].append(row)
    for mine, alone in zip(found, expected):
        assert len(mine) == len(alone)
        for row, other in zip(mine, alone):
            np.testing.assert_allclose(row.logits, other.logits, rtol=1e-4, atol=1e-5)
            assert (row.start, row.end, row.center, row.padded) == (other.start, other.end, other.center, other.padded)
    assert [one.rows for one in statistics] == [len(rows) for rows in expected]
    if name == "three positions":
        assert max(counted) > 4  # what one source has at most at a time


def test_a_source_that_fails_leaves_the_others_running(folder, tmp_path):
    model, frames = tiny.model(), [[], read_file(folder / "even.mp4"), broken(20)]
    sources = [Source(str(folder / "even.mp4"))] * 3
    found = [0, 0, 0]

    def read():
        for number, _ in streams(model, sources, hop=0.3, frames=[iter(one) for one in frames]):
            found[number] += 1

    with pytest.raises(VideoError, match="ended without a frame"):
        read()
    assert found[0] == 0
    assert found[1] == len(list(stream(model, sources[1], hop=0.3)))
    assert 0 < found[2] < found[1]


def read_file(path):
    return read_frames(Source(str(path)), threading.Event(), print)


def broken(number):
    yield from paced(number / 25, fps=25)
    raise VideoError("camera", "is gone")


def test_nothing_is_dropped_where_the_model_keeps_up():
    model, fps = tiny.model(num_frames=8), 5  # so slow that a busy machine keeps up
    statistics, source = Statistics(), Source("tcp://127.0.0.1:1", protocol="tcp")
    rows = list(stream(model, source, hop=1.6, frames=paced(6, fps=fps), statistics=statistics))
    assert statistics.rows == len(rows) == 4
    assert rows[-1].dropped == 0
    assert "4 rows; latency p50 " in str(statistics)


@pytest.mark.parametrize(("fps", "told"), [(10, 10), (60, 60), (1000, 25)])
def test_a_stream_tells_its_rate_unless_that_is_the_tick_of_a_clock(tmp_path, fps, told):
    with write_video(tmp_path / "v.mkv", counter_frames(4), fps=fps).open("rb") as file:
        assert [frame.fps for frame in read_pieces(file, "v.mkv")] == [told] * 4


def test_the_clock_of_a_stream_rises_whatever_the_time_stamps_do():
    clock = StreamClock(0.0, 25)
    stamps = [7.0, 7.04, None, 7.12, 3.0, 3.04, 3.04, 5000.0, 5000.04, None]
    times = [clock.time_of(stamp) for stamp in stamps]
    np.testing.assert_allclose(times, np.arange(10) * 0.04, atol=1e-9)
    assert clock.jumps == 3
    assert StreamClock(20.0, 25).time_of(None) == pytest.approx(20.0)


def test_an_address_needs_its_protocol_on_the_command_line():
    for name, protocol, message in (
        ("rtsp://127.0.0.1/x", None, "name its protocol: --protocol rtsp"),
        ("tcp://127.0.0.1:1", "http", "--protocol tcp, not http"),
        ("concat://a|b", "tcp", "protocol 'concat' is not supported; allowed: tcp, udp"),
    ):
        with pytest.raises(ValueError, match=message):
            _ = Source(name, protocol=protocol).kind


def test_errors_of_sources_are_clear(tmp_path):
    model = tiny.model()
    for source, message in (
        (Source(str(tmp_path / "none.mp4")), "no such file"),
        (Source(f"tcp://127.0.0.1:{free_port()}", protocol="tcp", give_up=0.2), "no frame for"),
    ):
        with pytest.raises(VideoError, match=message):
            list(stream(model, source))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A TCP server that sends a file to whoever connects, at 25 frames a second, and can be stopped."""

    def __init__(self, port, data, seconds):
        self.listener = socket.create_server(("127.0.0.1", port))
        self.listener.settimeout(0.1)
        self.data, self.seconds, self.stop = data, seconds, threading.Event()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        parts = np.array_split(np.frombuffer(self.data, np.uint8), 100)
        while not self.stop.is_set():
            try:
                connection, _ = self.listener.accept()
            except TimeoutError:
                continue
            with connection:
                for part in parts:
                    if self.stop.wait(self.seconds / len(parts)):
                        break
                    try:
                        connection.sendall(part.tobytes())
                    except OSError:
                        break

    def close(self):
        self.stop.set()
        self.thread.join()
        self.listener.close()


@pytest.mark.slow
def test_a_source_that_dies_and_comes_back_with_other_frames_is_answered_soon(tmp_path):
    first = write_video(tmp_path / "a.ts", counter_frames(100), fps=FPS).read_bytes()
    damaged = bytearray(write_video(tmp_path / "b.ts", counter_frames(100, 96, 128), fps=FPS).read_bytes())
    for place in range(len(damaged) // 2, len(damaged) // 2 + 2000, 100):
        damaged[place] ^= 255
    port, said, back = free_port(), [], []
    server = Server(port, first, 4.0)
    source = Source(f"tcp://127.0.0.1:{port}", protocol="tcp", read_timeout=1.0, give_up=60)
    rows = stream(tiny.model(), source, hop=0.16, log=said.append)
    died = None
    for row in rows:
        if died is None and row.center > 1:
            server.close()
            died = time.monotonic()
            server = Server(port, bytes(damaged), 4.0)
        elif died is not None and row.connection > 0:
            back.append((time.monotonic() - died, row))
            if len(back) > 8:
                break
    rows.close()
    server.close()
    assert back[0][0] < 10
    assert all(row.connection == 1 for _, row in back)
    centers = [row.center for _, row in back]
    assert centers == sorted(centers)
    assert centers[0] > 1
    assert any("opening it again" in line for line in said)
    assert any("answers again" in line for line in said)


@pytest.mark.slow
def test_a_silent_source_counts_as_dead_after_the_read_time_out():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        source = Source(f"tcp://127.0.0.1:{port}", protocol="tcp", open_timeout=0.3, read_timeout=0.3, give_up=0.5)
        began = time.monotonic()
        with pytest.raises(VideoError, match="no frame for"):
            list(stream(tiny.model(), source))
        assert time.monotonic() - began < 120


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_ffmpeg_as_a_server_is_read_over_tcp(folder):
    port = free_port()
    command = ["ffmpeg", "-nostdin", "-v", "quiet", "-i", str(folder / "even.mp4"), "-c", "copy", "-f", "mpegts"]
    with subprocess.Popen([*command, f"tcp://127.0.0.1:{port}?listen=1"]):
        source = Source(f"tcp://127.0.0.1:{port}", protocol="tcp", give_up=5)
        rows = stream(tiny.model(), source, hop=0.16, drop=False)
        expected = timeline(tiny.model(), folder / "even.mp4", hop=0.16)
        centers = [next(rows).center for _ in range(len(expected) - 2)]  # the end may be a pause
        rows.close()
    np.testing.assert_allclose(centers, expected.center[: len(centers)], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("fps", [10, 25, 30, 60])
def test_a_pipe_gives_the_timeline_of_the_file_to_the_bit(folder, tmp_path, fps):
    """Matroska needs no seeking; a FIFO is a pipe like standard input."""
    video = write_video(tmp_path / "v.mkv", counter_frames(60), fps=fps)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(video.read_bytes()), daemon=True)
    writer.start()
    model = tiny.model(num_frames=8)
    told = Statistics()
    rows = list(stream(model, Source(str(pipe)), hop=0.5, statistics=told))
    writer.join()
    expected = timeline(model, video, hop=0.5)
    assert told.hop == pytest.approx(expected.hop, rel=1e-3)
    np.testing.assert_array_equal(np.stack([row.logits for row in rows]), expected.logits)
    np.testing.assert_allclose([row.center for row in rows], expected.center, atol=2e-3)  # Matroska counts milliseconds
