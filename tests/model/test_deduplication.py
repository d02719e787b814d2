"""Model 2 encodes equal temporal positions once: how many it encodes, and that it changes nothing."""

import warnings

import pytest
import torch

from vivit.data.clips import clip_frames, view_starts
from vivit.model.encoders import encode_unique

from . import tiny
from .test_speed import plain


def encoded(model, video):
    """(logits, how many temporal positions went through the transformer over space)."""
    rows = []
    handle = model.encoder.spatial.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    with torch.no_grad():
        logits = model(video)
    handle.remove()
    [number] = rows
    return logits, number


def naive_count(model, video):
    c = model.config
    tubelets = video.unflatten(1, (-1, c.tubelet_size[0])).flatten(0, 1)
    return len({tubelet.numpy().tobytes() for tubelet in tubelets})


@pytest.mark.parametrize("frames", [3, 6, 12, 40])
@pytest.mark.parametrize("stride", [1, 2])
def test_views_that_overlap_share_their_temporal_positions(frames, stride):
    """6-frame clips of videos shorter and longer than one: looped, overlapping, apart."""
    model = tiny.model()
    pixels = torch.randint(0, 256, (frames, 3, 16, 24), dtype=torch.uint8)
    how = {"num_frames": 6, "frame_stride": stride}
    starts = view_starts(frames, **how, views=4)
    views = torch.stack([pixels[clip_frames(s, frames, **how)] for s in starts])
    logits, number = encoded(model, views)
    assert number == naive_count(model, views)
    assert (number == 12) == (frames == 40)
    torch.testing.assert_close(logits, plain(model, views).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_equal_frames_inside_a_clip_are_encoded_once_in_any_precision(dtype):
    model = tiny.model().to(dtype)
    video = tiny.video(model)
    video[:, 2:4] = video[:, :2]
    _, number = encoded(model, video)
    assert number == 4


NUMBERS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.bfloat16: torch.int16}


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("change", ["one bit", "order", "sign"])
def test_rows_that_differ_in_little_are_told_apart(change, dtype):
    row = torch.randn(64, 32, dtype=dtype)
    row[1] = row[0]
    if change == "one bit":
        bits = row.flatten().view(NUMBERS[dtype])
        flip = 1 << torch.arange(8 * row.element_size() - 1)
        rows = torch.stack([bits ^ (b * (torch.arange(2048) == 7)).to(bits.dtype) for b in flip]).view(dtype)
    elif change == "order":
        rows = torch.stack([row.roll(i, dims=0) for i in range(64)])
    else:  # of one number each, the highest bit: of the sums all but the lowest of 64 are then the same
        rows = torch.stack([row.flatten() * (1 - 2 * (torch.arange(2048) == i)) for i in range(40)]).to(dtype)
    with torch.no_grad():
        out = encode_unique(lambda x: x, torch.cat([rows, rows]))
    bits = NUMBERS[dtype]  # NaN equals nothing
    assert torch.equal(out.view(bits), torch.cat([rows, rows]).view(bits))


def test_with_gradients_every_row_is_encoded():
    model = tiny.model().train()
    video = tiny.video(model)
    video[1] = video[0]
    rows = []
    model.encoder.spatial.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    model(video)
    assert rows == [6]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_a_traced_model_gives_the_models_logits_for_other_videos(kind, grad):
    model = tiny.model()
    first, video = tiny.video(model), tiny.video(model)
    video[1] = video[0]  # repeats what the traced video does not
    with torch.set_grad_enabled(grad), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's: that tracing is old, that shapes become constants
        traced = torch.jit.trace(model, (first.to(kind),))
        torch.testing.assert_close(traced(video.to(kind)), model(video.to(kind)), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # PyTorch's attention has no rule for vmap
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_a_model_mapped_over_batches_gives_the_logits_of_each(kind, grad):
    model = tiny.model()
    videos = torch.stack([tiny.video(model) for _ in range(3)]).to(kind)
    videos[1, 0, 2:4] = videos[1, 0, :2]
    with torch.set_grad_enabled(grad):
        got = torch.func.vmap(model)(videos)
        torch.testing.assert_close(got, torch.stack([model(v) for v in videos]), atol=1e-5, rtol=1e-5)
