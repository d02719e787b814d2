"""Tokens against torch's own convolution."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from vivit.model.tokenizer import Tokenizer
from vivit.model_config import uniform_frame_indices

from . import tiny


@pytest.mark.parametrize("tubelet_size", [(2, 8, 8), (3, 16, 12), (1, 2, 4), (6, 16, 24)])
def test_tubelets_are_a_convolution_whose_stride_is_its_kernel(tubelet_size):
    tokenizer = Tokenizer(tiny.config(tubelet_size=tubelet_size))
    video = torch.randn(2, 6, 3, 16, 24)
    channels_first = rearrange(video, "B T C H W -> B C T H W")
    expected = F.conv3d(channels_first, tokenizer.proj.weight, tokenizer.proj.bias, stride=tubelet_size)
    got = tokenizer(video)
    torch.testing.assert_close(got, rearrange(expected, "B D t h w -> B t (h w) D"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("num_frames", "sampled_frames"), [(32, 8), (32, 3), (6, 6), (7, 2), (1, 1)])
def test_uniform_frames_split_the_clip_into_equal_parts(num_frames, sampled_frames):
    got = uniform_frame_indices(num_frames, sampled_frames)
    assert len(got) == sampled_frames
    assert all(0 <= i < num_frames or num_frames == 1 for i in got)
    ends = [0, *got, num_frames]
    gaps = [b - a for a, b in zip(ends, ends[1:])]
    assert all(abs(gap - num_frames / (sampled_frames + 1)) <= 1 for gap in gaps)


def test_uniform_frames_are_2d_patches_of_the_chosen_frames():
    config = tiny.config(tokenizer="uniform_frames", tubelet_size=(1, 8, 8), num_frames=8, sampled_frames=3)
    tokenizer = Tokenizer(config)
    video = torch.randn(2, 8, 3, 16, 24)
    for t, frame in enumerate((2, 4, 6)):
        expected = F.conv2d(video[:, frame], tokenizer.proj.weight[:, :, 0], tokenizer.proj.bias, stride=8)
        got = tokenizer(video)[:, t]
        torch.testing.assert_close(got, rearrange(expected, "B D h w -> B (h w) D"), atol=1e-5, rtol=1e-5)
