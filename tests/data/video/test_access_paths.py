"""A damaged file gives the same frames however they are reached, with sane times; or a VideoError."""

import logging
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.videos import counter_frames, write_video
from vivit.data.video.decoder import Video
from vivit.errors import VideoError

SOURCES = {
    "clip.mp4": ("libx264", {}),
    "clip.mkv": ("libx264", {}),
    "clip.ts": ("libx264", {"bf": "2"}),
    "clip.mpg": ("mpeg2video", {"bf": "2"}),
    "clip.flv": ("libx264", {}),
    "clip.avi": ("mpeg4", {}),
    "clip.asf": ("mpeg4", {"bf": "2"}),
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    @cache
    def read(name: str) -> bytes:
        codec, options = SOURCES[name]
        path = tmp_path_factory.mktemp("intact") / name
        return write_video(path, counter_frames(24, 32, 48), codec=codec, options=options, keyint=8).read_bytes()

    return read


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """Change bytes, erase, remove or insert a block, or cut the file short."""
    result, place, size = bytearray(data), int(random.integers(len(data))), int(random.integers(1, 1500))
    kind = random.integers(5)
    if kind == 0:
        for position in random.integers(len(data), size=2 ** int(random.integers(8))):
            result[position] = random.integers(256)
    elif kind == 1:
        result[place : place + size] = bytes(len(result[place : place + size]))
    elif kind == 2:
        del result[place : place + size]
    elif kind == 3:
        result[place:place] = random.bytes(size)
    else:
        del result[max(place, len(data) // 4) :]
    return bytes(result)


def read_one_by_one(video: Video, wanted: list[int]) -> dict[int, bytes | None]:
    """The pixels of each frame in a read of its own; None for one that does not decode."""
    found: dict[int, bytes | None] = {}
    for index in wanted:
        try:
            found[index] = video.frames([index]).numpy().tobytes()
        except VideoError:
            found[index] = None
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", SOURCES)
def test_all_ways_to_a_frame_of_a_damaged_file_give_the_same_pixels(intact, name, seed, caplog):
    caplog.set_level(logging.ERROR, "vivit")
    random = np.random.default_rng([seed, *name.encode()])
    try:
        video = Video(name, data=damaged(intact(name), random))
    except VideoError:
        return
    assert np.isfinite(video.times).all()
    assert (np.diff(video.times) > 0).all()
    assert 0 < video.fps < float("inf")
    assert 0 < video.duration < float("inf")
    indices = list(range(video.num_frames))
    alone = read_one_by_one(video, indices)
    decoding = [index for index in indices if alone[index] is not None]
    subsets = [decoding, *(sorted(random.choice(decoding, 4).tolist()) for _ in range(3) if decoding)]
    for wanted in subsets:
        wanted = sorted(set(wanted))
        images = list(video.images(wanted))
        assert [index for index, _ in images] == wanted
        for index, image in images:
            assert np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes() == alone[index], (wanted, index)
    missing = [index for index in indices if index not in decoding]
    assert not missing or "do not decode" in (video.damage() or "")


def test_a_box_is_cut_out_before_the_transform_and_few_frames_are_held(tmp_path: Path):
    """A picture of 1920 x 2 pixels: what a transform gets is the box, a few frames at a time."""
    video = Video(write_video(tmp_path / "thin.mp4", counter_frames(20, 2, 1920)))
    shapes: list[tuple[int, ...]] = []
    clip = video.frames(range(20), box=(0, 100, 2, 2), transform=lambda frames: shapes.append(frames.shape) or frames)
    assert clip.shape == (20, 3, 2, 2)
    assert shapes == [(8, 3, 2, 2), (8, 3, 2, 2), (4, 3, 2, 2)]


@pytest.mark.parametrize("place", [3, 10])
def test_frames_after_a_key_frame_that_does_not_decode_are_those_of_a_read_from_the_start(tmp_path, place):
    path = write_video(tmp_path / "clip.mp4", counter_frames(24), codec="mpeg4", keyint=8)
    with av.open(str(path)) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for start, size in packets[place - 3 : place]:
        data[start : start + size // 2] = bytes(size // 2)
    path.write_bytes(data)
    video = Video(path)
    alone = read_one_by_one(video, list(range(video.num_frames)))
    decoding = [index for index, pixels in alone.items() if pixels is not None]
    together = dict(zip(decoding, video.frames(decoding).split(1), strict=True))
    assert all(together[index].numpy().tobytes() == alone[index] for index in decoding)
