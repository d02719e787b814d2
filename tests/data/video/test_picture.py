"""Pictures: upright, in RGB, every pixel of the decoded frame."""

import numpy as np
import pytest

from tests.data.videos import as_hwc, counter_frames, read_all, write_video
from vivit.data.video.decoder import Video


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(tmp_path, degrees):
    path = write_video(tmp_path / "clip.mp4", counter_frames(8, 32, 64), rotation=degrees)
    video = Video(path)
    upright = np.rot90(read_all(path), k=degrees // 90, axes=(1, 2))  # counter-clockwise, as the file was written
    assert (video.height, video.width) == upright.shape[1:3]
    np.testing.assert_array_equal(as_hwc(video.frames(range(8))), upright)


@pytest.mark.parametrize(("signs", "turn"), [((-1, 0, 0, 1), np.fliplr), ((1, 0, 0, -1), np.flipud)])
def test_mirroring_is_applied(tmp_path, signs, turn):
    path = write_video(tmp_path / "clip.mp4", counter_frames(4, 32, 64))
    truth = read_all(path)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44  # 3 x 3 fixed-point numbers: a b u, c d v, x y w
    for position, sign in zip((0, 1, 3, 4), signs, strict=True):
        data[matrix + 4 * position : matrix + 4 * position + 4] = (sign * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    np.testing.assert_array_equal(as_hwc(Video(path).frames(range(4))), [turn(image) for image in truth])


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "gray", "yuvj420p"])
def test_pixel_formats_become_rgb_near_the_original(tmp_path, pix_fmt):
    original = counter_frames(6, 64, 96)
    full = pix_fmt in ("gray", "yuvj420p")
    path = write_video(
        tmp_path / "clip.mp4", original, pix_fmt=pix_fmt, options={"crf": "4"}, color_range=2 if full else 1
    )
    got = as_hwc(Video(path).frames(range(6))).astype(int)
    grey = (original @ [0.299, 0.587, 0.114])[..., None] if pix_fmt == "gray" else original
    # Half of the picture has no colour; the other half's colour is what subsampling and coding may blur.
    assert np.abs(got - grey)[:, :28].mean() < 4
    assert np.abs(got - grey).mean() < 8
    np.testing.assert_array_equal(got, read_all(path))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("colorspace", "red", "blue"), [(5, 0.299, 0.114), (1, 0.2126, 0.0722)])
def test_colours_follow_the_standard_and_range_in_the_file(tmp_path, full, colorspace, red, blue):
    """Truth: the conversion of BT.601 and BT.709 by their equations, on the decoded YUV planes of flat frames."""
    import av

    colours = np.array([[250, 20, 30], [10, 240, 40], [30, 20, 230], [200, 180, 20], [128, 128, 128], [255, 255, 255]])
    frames = np.broadcast_to(colours[:, None, None], (6, 32, 32, 3)).astype(np.uint8)
    path = write_video(
        tmp_path / "clip.mp4",
        frames,
        keyint=1,
        options={"crf": "1", "colorspace": str(colorspace), "color_range": "pc" if full else "tv"},
        colorspace=colorspace,
        color_range=2 if full else 1,
    )
    with av.open(str(path)) as container:
        yuv = [[np.array(plane)[0, 0] for plane in _planes(frame)] for frame in container.decode(video=0)]
    y, cb, cr = np.array(yuv, dtype=float).T
    y, cb, cr = (
        (y / 255, (cb - 128) / 255, (cr - 128) / 255) if full else ((y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224)
    )
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    g = (y - red * r - blue * b) / (1 - red - blue)
    expected = np.clip(np.stack([r, g, b], -1), 0, 1) * 255
    got = as_hwc(Video(path).frames(range(6)))[:, 16, 16]
    assert np.abs(got - expected).max() <= 4  # 8-bit tables; the wrong matrix or range is off by 14 and more
    assert np.abs(got - colours.astype(float)).max() <= 8  # and the equations meet what was written


def _planes(frame):
    stacked = frame.to_ndarray()  # (H * 3 / 2, W): the planes of 4:2:0 one after the other
    height, width = frame.height, frame.width
    chroma = stacked[height:].reshape(2, height // 2, width // 2)
    return stacked[:height], chroma[0], chroma[1]


@pytest.mark.parametrize(("height", "width"), [(47, 65), (17, 33), (48, 62)])
def test_odd_sizes_keep_every_pixel(tmp_path, height, width):
    path = write_video(tmp_path / "clip.mkv", counter_frames(9, height, width), codec="libx264", pix_fmt="yuv444p")
    images = Video(path).frames([8, 0, 4])
    assert images.shape == (3, 3, height, width)
    np.testing.assert_array_equal(as_hwc(images), read_all(path)[[8, 0, 4]])
