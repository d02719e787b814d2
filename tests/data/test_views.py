"""Views read with numpy alone are those that PyTorch reads, to the bit."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vivit.config import EvalConfig, Preprocessing
from vivit.data import dataset, views
from vivit.data.resize import resize_uint8
from vivit.data.sample import Sample

from ..model import tiny
from .videos import counter_frames, write_video


@pytest.mark.parametrize("seed", range(40))
def test_the_resize_of_numpy_has_the_bits_of_pytorch(seed):
    rng = np.random.default_rng(seed)
    height, width, new_height, new_width = rng.integers(1, 300, 4).tolist()
    new_height = height if seed % 5 == 0 else new_height
    new_width = width if seed % 7 == 0 else new_width
    frames = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8).transpose(0, 3, 1, 2)
    expected = F.interpolate(
        torch.from_numpy(frames), (new_height, new_width), mode="bilinear", antialias=True, align_corners=False
    )
    np.testing.assert_array_equal(resize_uint8(frames, (new_height, new_width)), expected.numpy())


@pytest.mark.parametrize("protocol", [EvalConfig(temporal_views=1, spatial_views=1), EvalConfig()])
@pytest.mark.parametrize("how", [{}, {"frame_stride": 1.5}, {"clip_seconds": 1.3}])
def test_the_views_of_numpy_are_those_of_the_dataset(tmp_path, protocol, how):
    file = write_video(tmp_path / "video.mp4", counter_frames(50, height=90, width=70))
    config = tiny.config(preprocessing=Preprocessing(**how))
    sample = Sample(str(file), start=0.2)
    np.testing.assert_array_equal(
        views.eval_views(sample, config, protocol), dataset.eval_views(sample, config, protocol).numpy()
    )
