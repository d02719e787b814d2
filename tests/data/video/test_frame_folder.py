"""A folder of images is a video like any other."""

import logging
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from vivit.config import EvalConfig, ModelConfig, Preprocessing
from vivit.data.dataset import eval_views, open_sample
from vivit.data.datasets.folder import read_folder
from vivit.data.datasets.registry import read_samples
from vivit.data.sample import Sample
from vivit.data.video.decoder import Video
from vivit.data.video.frame_folder import FrameFolder, open_video
from vivit.errors import DataError, VideoError

from ..videos import counter_frames, read_all, read_counter, write_video


def write_frames(folder, images, *, name="frame_{:010d}.png", first=1, **how):
    """Save (T, H, W, 3) images under their numbers; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, start=first):
        Image.fromarray(image).save(folder / name.format(number), **how)
    return folder


def shown(frames: torch.Tensor) -> list[int]:
    return [read_counter(frame.permute(1, 2, 0).numpy()) for frame in frames]


@pytest.fixture
def both(tmp_path):
    """A video and a folder of the very frames that a plain decode of it gives."""
    path = write_video(tmp_path / "clip.mp4", counter_frames(30), fps=25)
    return Video(path), FrameFolder(write_frames(tmp_path / "clip", read_all(path)), fps=25)


def test_everything_that_can_be_asked_of_a_video_has_the_same_answer(both):
    video, frames = both
    for name in ("num_frames", "height", "width", "problem"):
        assert getattr(frames, name) == getattr(video, name), name
    for name in ("fps", "duration", "times"):
        np.testing.assert_allclose(getattr(frames, name), getattr(video, name))
    for indices in ([0, 1, 2], [29, 3, 3, 7], [5]):
        assert torch.equal(frames.frames(indices), video.frames(indices))
    assert torch.equal(frames.frames_at([-1, 0.2, 0.21, 99]), video.frames_at([-1, 0.2, 0.21, 99]))
    for (i, image), (j, other) in zip(video.images([2, 9]), frames.images([2, 9]), strict=True):
        assert i == j
        np.testing.assert_array_equal(image, other)

    def smaller(x):
        return x[:, :, ::2, ::2]

    for part in ({"transform": smaller}, {"box": (3, 5, 11, 7)}, {"box": (3, 5, 11, 7), "transform": smaller}):
        assert torch.equal(frames.frames([4, 1, 4], **part), video.frames([4, 1, 4], **part))
    for bad in ([30], [-1]):
        with pytest.raises(ValueError, match="allowed are 0 to 29"):
            frames.frames(bad)
    with pytest.raises(ValueError, match="without NaN"):
        frames.frames_at([float("nan")])


def test_views_of_a_test_video_are_the_same_from_a_file_and_from_images(both):
    model = ModelConfig(num_frames=4, image_size=(32, 32), preprocessing=Preprocessing(frame_stride=2))
    video, frames = both
    for part in ({}, {"start": 0.28, "end": 1.16}):
        views = [eval_views(Sample(v.path, **part), model, EvalConfig()) for v in (video, frames)]
        assert torch.equal(*views)


@pytest.mark.parametrize("name", ["{}.png", "img_{:05d}.jpg", "cam2-shot 7_{:d}.PNG", "{:03d}_rgb.jpeg"])
def test_images_are_ordered_by_their_number_not_by_their_name(name, tmp_path):
    folder = write_frames(tmp_path / "clip", counter_frames(12), name=name, first=0)
    (folder / "notes.txt").write_text("12.5 fps")
    (folder / "._1.png").write_bytes(b"")
    assert shown(open_video(folder).frames(range(12))) == list(range(12))


def test_grey_and_transparent_images_become_rgb(tmp_path):
    grey = np.full((8, 8), 90, np.uint8)
    (tmp_path / "clip").mkdir()
    Image.fromarray(grey).save(tmp_path / "clip/1.png")
    Image.fromarray(np.dstack([grey] * 3 + [grey])).save(tmp_path / "clip/2.png")
    assert open_video(tmp_path / "clip").frames([0, 1]).unique().tolist() == [90]


def test_a_gap_is_a_problem_and_the_frames_around_it_keep_their_times(tmp_path, caplog):
    folder = write_frames(tmp_path / "clip", counter_frames(10))
    for number in (4, 5, 9):
        (folder / f"frame_{number:010d}.png").unlink()
    with caplog.at_level(logging.WARNING, "vivit"):
        video = FrameFolder(folder, fps=10)
    assert video.problem == "3 of 10 images missing, the first after frame_0000000003.png"
    assert video.problem in caplog.text
    np.testing.assert_allclose(video.times, [0, 0.1, 0.2, 0.5, 0.6, 0.7, 0.9])
    assert shown(video.frames_at([0.2, 0.4, 0.5])) == [2, 2, 5]


def test_a_folder_that_changes_is_read_again(tmp_path):
    folder = write_frames(tmp_path / "clip", counter_frames(3))
    assert FrameFolder(folder).num_frames == 3
    write_frames(folder, counter_frames(5))
    assert FrameFolder(folder).num_frames == 5


def test_what_is_wrong_is_said_with_the_name_of_the_file(tmp_path):
    folder = write_frames(tmp_path / "clip", counter_frames(4))
    (folder / "frame_0000000003.png").write_bytes(b"no image")
    Image.new("RGB", (10, 20)).save(folder / "frame_0000000004.png")
    video = open_video(folder)
    with pytest.raises(VideoError, match=r"frame_0000000003.png: cannot be read as an image"):
        video.frames([1, 2])
    with pytest.raises(VideoError, match=r"frame_0000000004.png: has 10x20 pixels; expected 64x48 pixels as frame_0+1"):
        video.frames([3])
    (folder / "frame_3.png").write_bytes(b"")
    with pytest.raises(VideoError, match=r"frame_0000000003.png and frame_3.png have the same number"):
        open_video(folder)
    (folder / "cover.png").write_bytes(b"")
    with pytest.raises(VideoError, match=r"cover.png: has no number in its name"):
        open_video(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="a folder without images"):
        open_video(tmp_path / "empty")
    with pytest.raises(VideoError, match="no such file"):
        open_video(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="got fps -1"):
        FrameFolder(folder, fps=-1)


def test_folders_of_images_are_videos_of_a_class_folder(tmp_path):
    for name in ("train/cat/a", "train/cat/deep/b", "train/dog/c"):
        write_frames(tmp_path / name, counter_frames(2))
    write_video(tmp_path / "train/dog/d.mp4", counter_frames(2))
    (tmp_path / "train/dog/poster.jpg").write_bytes(b"")  # beside videos it is none
    places = [s.where for s in read_folder(tmp_path, "train")]
    assert places == ["train/cat/a", "train/cat/deep/b", "train/dog/c", "train/dog/d.mp4"]
    write_frames(tmp_path / "train/horse", counter_frames(2))  # still images by class are no videos
    with pytest.raises(DataError, match="horse: a class folder without videos"):
        read_folder(tmp_path, "train")


def test_a_table_may_name_folders_of_images_and_their_rate(tmp_path):
    write_frames(tmp_path / "v/a", counter_frames(20))
    write_frames(tmp_path / "v/b", counter_frames(20))
    (tmp_path / "v/c").mkdir()
    table = tmp_path / "labels.csv"
    table.write_text("path,label,start,end,fps,split\nv/a,x,0.5,1,10,train\nv/b/,x,0.2,,,train\n")
    samples = read_samples("folder", str(table), "train")
    assert [s.fps for s in samples] == [10.0, None]
    model = ModelConfig(num_frames=4, image_size=(48, 64), preprocessing=Preprocessing(frame_stride=1, crop_fraction=1))
    single = EvalConfig(temporal_views=1, spatial_views=1)
    assert shown(eval_views(samples[0], model, single)[0]) == [5, 6, 7, 8]
    assert shown(eval_views(samples[1], model, single)[0]) == [10, 11, 12, 13]  # of 5 to 19, at 25 images a second
    table.write_text("path,label,fps\nv/a,x,0\nv/b,x,fast\nv/c,x,\n")
    with pytest.raises(DataError) as error:
        read_samples("folder", str(table), "train")
    lines = str(error.value).splitlines()[1:]
    assert "labels.csv:2: fps is '0'; it takes images a second, 1e-06 to 1e+06" in lines[0]
    assert "labels.csv:3: fps is 'fast'" in lines[1]
    assert lines[2].endswith("v/c is a folder without images")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright_as_their_exif_orientation_says(orientation, suffix, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 3), np.uint8)
    folder = write_frames(tmp_path / "clip", [noise, noise[::-1]], name=f"{{}}.{suffix}", exif=exif)
    video = FrameFolder(folder)
    for i, path in enumerate(sorted(folder.iterdir())):
        upright = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        assert (video.height, video.width) == upright.shape[:2] == ((20, 32) if orientation < 5 else (32, 20))
        np.testing.assert_array_equal(video.frames([i])[0].permute(1, 2, 0), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_are_no_damage_of_the_picture(tmp_path):
    folder = write_frames(
        tmp_path / "clip", counter_frames(2), name="{}.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01"
    )
    assert shown(FrameFolder(folder).frames([0, 1])) == [0, 1]


def test_time_stamps_in_names_give_the_order_and_fps_the_times(tmp_path, caplog):
    names = ["1403636579763555584.png", "1403636579813555456.png", "1403636580013555456.png"]
    folder = tmp_path / "clip"
    folder.mkdir()
    for image, name in zip(counter_frames(3), names):
        Image.fromarray(image).save(folder / name)
    video = FrameFolder(folder, fps=20)
    assert shown(video.frames(range(3))) == [0, 1, 2]
    np.testing.assert_allclose(video.times, [0, 0.05, 0.1])
    assert (video.problem, caplog.text) == (None, "")
    assert video.duration == pytest.approx(0.15)


@pytest.mark.parametrize("numbers", [[1, 2, 2 * 10**18], [2**63 - 1, 2**63, 2**63 + 1], [10**200, 10**200 + 2]])
def test_numbers_of_any_size_order_images(numbers, tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    for image, number in zip(counter_frames(3), numbers):
        Image.fromarray(image).save(folder / f"i{number}.png")
    video = FrameFolder(folder)
    assert shown(video.frames(range(len(numbers)))) == list(range(len(numbers)))
    assert video.duration < 1


@pytest.mark.parametrize("fps", [0, -1, 1e308, 1e-308, float("inf"), float("nan")])
def test_absurd_rates_are_refused(tmp_path, fps):
    folder = write_frames(tmp_path / "clip", counter_frames(2))
    with pytest.raises(ValueError, match="allowed are 1e-06 to 1e\\+06 images a second"):
        FrameFolder(folder, fps=fps)
    with pytest.raises(VideoError, match="clip: cannot be read .ValueError: got fps"):
        open_sample(Sample(str(folder), fps=fps or -1))


def test_an_image_every_half_hour_is_a_video(tmp_path):
    video = FrameFolder(write_frames(tmp_path / "clip", counter_frames(3)), fps=1 / 1800)
    np.testing.assert_allclose(video.times, [0, 1800, 3600])


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_an_image_that_is_none_is_an_error_that_names_it_and_never_blocks(tmp_path):
    sound = counter_frames(1)[0]
    Image.fromarray(sound).save(tmp_path / "sound.jpg")
    Image.fromarray(sound).save(tmp_path / "sound.png")
    jpeg, png = ((tmp_path / f"sound.{suffix}").read_bytes() for suffix in ("jpg", "png"))
    size = struct.pack(">II", 9000, 9000)
    huge = png[:8] + png_chunk(b"IHDR", size + bytes([8, 2, 0, 0, 0])) + png[33:]
    cases = {
        "truncated": jpeg[: len(jpeg) // 2],
        "broken_chunk": png[:33] + png_chunk(b"iCCP", b"x") + png_chunk(b"tRNS", b"\1") + png[33:60],
        "header_cut": png[:20],
        "no_size": png[:8] + png_chunk(b"IHDR", b"") + png[33:],
        "empty": b"",
        "huge": huge,
    }
    for name, data in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "i0.png").write_bytes(data)
        with pytest.raises(VideoError, match=f"{name}/i0.png: ") as error:
            FrameFolder(folder).frames([0])
        assert name != "huge" or "claims 9000x9000 pixels; expected at most" in str(error.value)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/i0.png")
    (tmp_path / "folder/i0.png").mkdir(parents=True)
    for name in ("pipe", "folder"):
        with pytest.raises(VideoError, match="i0.png: is not a regular file"):
            FrameFolder(tmp_path / name).frames([0])
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/i0.png").symlink_to("nowhere")
    with pytest.raises(VideoError, match="i0.png: cannot be read as an image .FileNotFoundError"):
        FrameFolder(tmp_path / "gone").frames([0])
