"""Fewer tokens: merged as the paper's steps say, dropped where nothing moves, and nothing else changed."""

import itertools

import pytest
import torch
from torch.nn.functional import cosine_similarity

from vivit.engine.device import autocast, in_precision
from vivit.model.encoders import mean_over_tokens
from vivit.model.layers import Attention, full_attention
from vivit.model.token_reduction import merge_similar, reduce_tokens, run_lengths

from . import tiny

POOLS = ("cls", "mean")


def model(**changes):
    made = tiny.model("spatiotemporal", **changes)
    torch.nn.init.normal_(made.head.weight, std=0.1)
    return made


def without_positions(made):
    """The same model, in which a token does not know where it is."""
    with torch.no_grad():
        made.encoder.pos_embed[:, -made.config.grid[0] * made.config.grid[1] * made.config.grid[2] :] = 0.5
    return made


def tubelets(made, pattern):
    """A clip (1, T, C, H, W) whose i-th tubelet is the random one of number pattern[i]."""
    (dt, dh, dw), (t, h, w) = made.config.tubelet_size, made.config.grid
    boxes = torch.randint(0, 256, (max(pattern) + 1, dt, 3, dh, dw), dtype=torch.uint8)
    clip = torch.empty(1, t * dt, 3, h * dh, w * dw, dtype=torch.uint8)
    for number, (i, j, k) in zip(pattern, itertools.product(range(t), range(h), range(w)), strict=True):
        clip[0, i * dt : (i + 1) * dt, :, j * dh : (j + 1) * dh, k * dw : (k + 1) * dw] = boxes[number]
    return clip


def plain(made, video):
    with torch.no_grad():
        return made(video)


def merge_with_loops(x, keys, size, r, protected):
    """One clip: lists of (token, size), one step of the paper after the other."""
    looking, others = list(range(0, len(x), 2)), list(range(1, len(x), 2))
    best = {}
    for i in looking[protected:]:
        likeness = [cosine_similarity(keys[i], keys[j], dim=0).item() for j in others]
        best[i] = max(likeness), others[likeness.index(max(likeness))]
    gone = sorted(best, key=lambda i: -best[i][0])[:r]
    groups = {j: [j] for j in others}
    for i in gone:
        groups[best[i][1]].append(i)
    groups = [[i] for i in looking if i not in gone] + list(groups.values())
    sizes = [sum(size[i] for i in group) for group in groups]
    tokens = [sum(size[i] * x[i] for i in group) / total for group, total in zip(groups, sizes)]
    return torch.stack(tokens), torch.stack(sizes)


@pytest.mark.parametrize("protected", [0, 1])
@pytest.mark.parametrize(("n", "r"), [(9, 1), (9, 3), (9, 4), (10, 4), (10, 100), (3, 1), (2, 1)])
def test_merging_does_what_the_papers_steps_do_one_by_one(n, r, protected):
    x, keys = torch.randn(3, n, 6, dtype=torch.float64), torch.randn(3, n, 4, dtype=torch.float64)
    size = torch.randint(1, 5, (3, n)).double()
    new, new_size = merge_similar(x, keys, size, r, protected=protected)
    r = min(r, (n - protected) // 2)
    assert new.shape == (3, n - r, 6)
    for one, one_size, *clip in zip(new, new_size, x, keys, size):
        expected, expected_size = merge_with_loops(*clip, r, protected)
        torch.testing.assert_close(one, expected)
        torch.testing.assert_close(one_size, expected_size)


def test_merging_keeps_the_mean_and_the_number_of_what_tokens_stand_for():
    x, keys = torch.randn(2, 12, 6), torch.randn(2, 12, 4)
    once, size = merge_similar(x, keys, None, 4)
    twice, size = merge_similar(once, keys[:, :8], size, 3)
    assert size.sum(dim=1).tolist() == [12, 12]
    torch.testing.assert_close(mean_over_tokens(twice, size), x.mean(dim=1))


def test_a_token_of_size_n_counts_in_attention_as_n_equal_tokens_do():
    attention = Attention(tiny.config(), full_attention).eval()
    x, size = torch.randn(2, 5, 16), torch.tensor([[1, 3, 1, 2, 4], [2, 1, 1, 1, 1]])
    out = full_attention(*attention.project_qkv(x), size.log())
    for tokens, sizes, one in zip(x, size, out):
        repeated = full_attention(*attention.project_qkv(tokens.repeat_interleave(sizes, dim=0)[None]))[0]
        torch.testing.assert_close(repeated, one.repeat_interleave(sizes, dim=0))


def test_with_both_off_it_is_the_model_itself():
    made = model()
    assert reduce_tokens(made) is made
    assert reduce_tokens(made, merge_tokens=0, drop_static=None) is made


@pytest.mark.parametrize("pool", POOLS)
def test_where_nothing_repeats_threshold_0_gives_the_logits_of_the_plain_model_to_the_bit(pool):
    made = model(pool=pool)
    video = tiny.video(made, batch=3)
    for clip in video.split(1):
        assert torch.equal(reduce_tokens(made, drop_static=0)(clip), plain(made, clip))
    torch.testing.assert_close(reduce_tokens(made, drop_static=0)(video), plain(made, video), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
def test_merging_equal_tokens_changes_no_logit(pool):
    """Every token that is merged finds its equal, in every layer and on every processor, however ties are broken.

    Merging 9 leaves 5 tokens after two layers; which ones depends on rounding, and a third could lack an equal.
    """
    for depth, r in ((3, 1), (3, 4), (2, 9)):
        made = without_positions(model(pool=pool, depth=depth))
        clip = tubelets(made, [0, 0, 1, 1, 2, 2] * 3)
        expected = plain(made, clip)
        torch.testing.assert_close(reduce_tokens(made, merge_tokens=r)(clip), expected, atol=1e-5, rtol=1e-5)
    other = plain(made, tubelets(made, [0, 0, 1, 1, 2, 2] * 3))
    assert (other - expected).abs().max() > 1e-3  # the logits would tell


@pytest.mark.parametrize("pool", POOLS)
def test_every_layer_merges_so_many_tokens_and_at_most_half(pool):
    made = model(pool=pool, depth=4)  # 3 x 2 x 3 tubelets
    seen = []
    for block in made.encoder.blocks:
        block.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    for r, expected in {
        2: {"cls": [17, 15, 13, 1], "mean": [16, 14, 12, 10]},
        99: {"cls": [10, 6, 4, 1], "mean": [9, 5, 3, 2]},
    }.items():
        seen.clear()
        reduce_tokens(made, merge_tokens=r)(tiny.video(made))
        assert seen == expected[pool]  # of the last layer only the class token is wanted, as in the plain model


@pytest.mark.parametrize("pool", POOLS)
def test_of_a_static_video_only_the_first_tubelets_are_left_and_no_logit_changes_if_positions_do_not_count(pool):
    made = without_positions(model(pool=pool))
    clip = tubelets(made, [*range(6)] * 3)
    assert run_lengths(made, clip, threshold=0).tolist() == [[3] * 6 + [0] * 12]
    seen = []
    made.encoder.blocks[0].mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    short = reduce_tokens(made, drop_static=0)(clip)
    assert seen == [6 + (pool == "cls")]
    torch.testing.assert_close(short, plain(made, clip), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "changes", [{}, {"tubelet_size": (1, 8, 8), "tokenizer": "uniform_frames", "sampled_frames": 4}]
)
def test_runs_are_those_that_a_loop_over_tubelets_finds_in_bytes_and_in_normalised_pixels(changes):
    made = model(**changes)
    (dt, dh, dw), (t, h, w) = made.config.tubelet_size, made.config.grid
    video = torch.randint(0, 256, (2, 6, 3, 16, 24)).float()
    for frame in range(1, 6):  # a part moves by little, a part by much
        video[:, frame] = video[:, frame - 1] + torch.randn(2, 3, 16, 24) * torch.rand(2, 1, 1, 1) * torch.arange(24)
    video = video.clamp(0, 255).to(torch.uint8)
    frames = (video[:, made.tokenizer.frame_index] / 255).double()
    threshold = 0.04
    found = []
    for clip in frames:
        lengths = torch.zeros(t, h, w)
        for j, k in itertools.product(range(h), range(w)):
            boxes = clip[:, :, j * dh : (j + 1) * dh, k * dw : (k + 1) * dw].split(dt)
            start = 0
            for i in range(t):
                if i and (boxes[i] - boxes[i - 1]).abs().mean() > threshold:
                    start = i
                lengths[start, j, k] += 1
        found.append(lengths.flatten().tolist())
    assert 0 < sum(lengths.count(0) for lengths in found) < 2 * (t - 1) * h * w  # some repeat, some do not
    assert run_lengths(made, video, threshold=threshold).tolist() == found
    assert run_lengths(made, made.normalize(video), threshold=threshold).tolist() == found


def test_a_clip_of_one_tubelet_has_nothing_before_it():
    made = model(num_frames=2)
    video = tiny.video(made)
    assert run_lengths(made, video, threshold=1).tolist() == [[1] * 6] * 2


@pytest.mark.parametrize("pool", POOLS)
def test_a_clip_gives_the_same_logits_in_any_batch(pool):
    made = model(pool=pool, depth=3)
    video = torch.cat((tubelets(made, [*range(6)] * 3), tubelets(made, [*range(18)]), tiny.video(made)))
    short = reduce_tokens(made, merge_tokens=3, drop_static=0.01)
    kept = (run_lengths(made, video, threshold=0.01) > 0).sum(dim=1)
    assert kept.tolist() == [6, 18, 18, 18]
    torch.testing.assert_close(short(video), torch.cat([short(clip) for clip in video.split(1)]), atol=1e-6, rtol=1e-5)


def test_weights_are_shared_and_no_gradient_is_kept():
    made = model()
    short = reduce_tokens(made, merge_tokens=2)
    before = short(tiny.video(made))
    assert not before.requires_grad
    assert {id(p) for p in short.parameters()} == {id(p) for p in made.parameters()}


@pytest.mark.parametrize("pool", POOLS)
def test_bfloat16_is_off_by_no_more_than_bfloat16(pool):
    made = model(pool=pool)
    clip = tubelets(made, [*range(6)] * 3)
    short = reduce_tokens(made, merge_tokens=1, drop_static=0)
    exact = short(clip)
    with autocast(torch.device("cpu"), "bfloat16"):
        results = [short(clip), in_precision(short, "bfloat16")(clip)]
    for half in results:
        assert half.dtype == torch.bfloat16
        assert (half.float() - exact).abs().max() < 2**-5 * exact.abs().max()


@pytest.mark.parametrize("encoder", [name for name in tiny.NAMES if name != "spatiotemporal"])
def test_other_encoders_are_refused(encoder):
    for option in ({"merge_tokens": 1}, {"drop_static": 0.1}):
        with pytest.raises(
            ValueError, match=f"encoder spatiotemporal.*this model is {encoder}.*Leave both options out"
        ):
            reduce_tokens(tiny.model(encoder), **option)


def test_numbers_out_of_range_and_videos_of_another_shape_are_refused():
    made = model()
    with pytest.raises(ValueError, match="merge_tokens is -1; it is 0"):
        reduce_tokens(made, merge_tokens=-1)
    with pytest.raises(ValueError, match="drop_static is 10; it must be None .off. or in"):
        reduce_tokens(made, drop_static=10)
    with pytest.raises(ValueError, match="this model takes"):
        reduce_tokens(made, merge_tokens=1)(tiny.video(made)[:, :4])
