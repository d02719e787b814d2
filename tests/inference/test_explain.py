"""Explanations point at what a model uses, equal naive computations, and say when they are worth nothing."""

import json
import re
from pathlib import Path

import pytest
import torch
from einops import rearrange

import vivit as package
from vivit import cli
from vivit.config import ModelConfig
from vivit.data.tools.synthetic import render, scene, shape_cover, write_dataset, write_video
from vivit.data.transforms import crop, eval_boxes
from vivit.inference.evidence import area, measure_evidence, step_masks
from vivit.inference.explain import METHODS, Clip, ExplainConfig, explain, explain_clip, read_clip
from vivit.inference.occlusion import (
    MOST_TILES,
    cell_grid,
    default_tile,
    fill_clip,
    hide,
    replace_position,
    spatial_drops,
    temporal_drops,
    tile_index,
    token_frames,
)
from vivit.model.encoders import ENCODERS
from vivit.model.gradient_attention import gradient_attention_maps
from vivit.model.layers import Attention
from vivit.model.rollout import middle_frames
from vivit.model.vivit import ViViT
from vivit.report.explain import verdict

from ..model import tiny

UNCHECKED = ExplainConfig(random_orders=0)
TOKENS = ExplainConfig(random_orders=0, tile=(1, 2, 2))  # half a bright patch hidden is still a bright token
GRID, PATCH = (3, 4, 4), 8
LIT = [(0, 0, 1), (1, 2, 2), (2, 3, 0)]  # the tokens (t, h, w) that the answer of `analytic_model` depends on


def analytic_model(encoder: str) -> ViViT:
    """One block whose attention goes to bright tokens and whose only class score is what attention finds there.

    A token is ±u, by the brightness of its patch: bright +u, dark −u. Every query asks for +u, a value is v times the
    sign of its token, and the head reads v, which is orthogonal to u. The MLP and the positions are 0.
    """
    config = ModelConfig(
        encoder=encoder,
        pool="mean",
        classes={"what": ("bright", "none")},
        tubelet_size=(2, PATCH, PATCH),
        num_frames=6,
        image_size=(32, 32),
        embed_dim=8,
        num_heads=2,
        depth=1,
        temporal_depth=1,
    )
    model = ViViT(config).eval()
    u, v = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0]])
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" not in name:
                p.zero_()
        model.tokenizer.proj.weight += u[:, None, None, None, None] / model.tokenizer.proj.weight[0].numel()
        for name, attention in model.named_modules():
            if not isinstance(attention, Attention):
                continue
            what = v if name.startswith("encoder.temporal") else u  # over time, to what attention in space has found
            queries, keys, values = (slice(8 * i, 8 * i + 8) for i in range(3))
            attention.qkv.bias[queries] = what
            attention.qkv.weight[keys] = torch.eye(8)
            attention.qkv.weight[values] = torch.outer(v, what) / 8
            attention.proj.weight += torch.eye(8)
        model.head.weight[0] = v
        model.head.weight[1] = -v
    return model


def lit_clip(seed: int = 0) -> torch.Tensor:
    """Dark noise with bright patches at LIT."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randint(20, 60, (6, 3, 32, 32), generator=generator)
    for t, h, w in LIT:
        video[2 * t : 2 * t + 2, :, PATCH * h : PATCH * (h + 1), PATCH * w : PATCH * (w + 1)] += 180
    return video.to(torch.uint8)


def share_on_lit(joint: torch.Tensor) -> float:
    """The share of a map (t, h, w) or (t, 2h, 2w) that falls on the tokens of LIT, over their share of the clip."""
    if joint.shape[1] != GRID[1]:
        joint = rearrange(joint, "t (h a) (w b) -> t h w a b", h=GRID[1], w=GRID[2]).sum(dim=(3, 4))
    return sum(joint[one].item() for one in LIT) / (len(LIT) / 48)


def as_clip(video: torch.Tensor) -> Clip:
    return Clip("clip", video, torch.arange(len(video)).numpy() / 20)


@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_maps_point_at_the_tokens_that_the_answer_depends_on(encoder):
    model = analytic_model(encoder)
    without = torch.where(lit_clip() > 100, 40, lit_clip()).to(torch.uint8)
    assert model(lit_clip()[None])[0, 0] > model(without[None])[0, 0] + 0.1
    for method in METHODS:
        joint = explain_clip(model, as_clip(lit_clip()), method=method, label="bright", config=TOKENS).joint
        torch.testing.assert_close(joint.sum(), torch.tensor(1.0))
        # rollout keeps half of the weight on each token itself, whatever the class is
        assert share_on_lit(joint) >= (3 if method != "rollout" else 1.5), method


@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_maps_of_random_weights_do_not_point_there(encoder):
    """The sanity check of Adebayo et al. (2018), on average over models."""
    shares = {method: [] for method in METHODS}
    for seed in range(6):
        torch.manual_seed(seed)
        model = ViViT(analytic_model(encoder).config).eval()
        torch.nn.init.normal_(model.head.weight)
        video = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
        for method in METHODS:
            shares[method].append(share_on_lit(explain_clip(model, as_clip(video), method=method, config=TOKENS).joint))
    for method, values in shares.items():
        assert sum(values) / len(values) < 2, method


def naive_relevance(model: ViViT, video: torch.Tensor, logit: int) -> torch.Tensor:
    """(n,): gradient x attention of a one-block Model 1, written out with a matrix of attention that autograd sees."""
    [block] = model.encoder.blocks
    c = model.config
    x = model.tokenizer(model.normalize(video[None])).flatten(1, 2)
    if model.encoder.cls_token is not None:
        x = torch.cat((model.encoder.cls_token, x), dim=1)
    x = (x + model.encoder.pos_embed)[0]
    q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, dim=1)
    size = c.embed_dim // c.num_heads
    weights, heads = [], []
    for i in range(c.num_heads):
        part = slice(i * size, (i + 1) * size)
        weights.append((q[:, part] @ k[:, part].T / size**0.5).softmax(dim=1))
        weights[-1].retain_grad()
        heads.append(weights[-1] @ v[:, part])
    x = x + block.attn.proj(torch.cat(heads, dim=1))
    x = model.encoder.norm(x + block.mlp(block.norm2(x)))
    x.retain_grad()
    features = x[0] if c.pool == "cls" else x.mean(dim=0)
    model.head(features)[logit].backward()
    tokens = 1 if c.pool == "cls" else len(x)
    rollout = torch.eye(len(x)) + tokens * torch.stack([w * w.grad for w in weights]).clamp(min=0).mean(dim=0)
    if c.pool == "cls":
        return rollout[0, 1:].detach()
    return ((x * x.grad).sum(dim=1).clamp(min=0) @ rollout).detach()


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_gradient_attention_equals_an_explicit_computation_on_one_block(pool):
    model = tiny.model("spatiotemporal", depth=1, pool=pool)
    video = tiny.video(model, 1)[0]
    for p in model.parameters():
        p.requires_grad_(False)
    maps = gradient_attention_maps(model, video, 1)  # needs no gradient of the weights
    for p in model.parameters():
        p.requires_grad_(True)
    expected = naive_relevance(model, video, 1).view(model.config.grid)
    time = expected.sum(dim=(1, 2))
    torch.testing.assert_close(maps.time, time / time.sum(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(maps.space, expected / time[:, None, None], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_gradient_attention_is_about_the_class_and_leaves_the_model_alone(encoder):
    model = tiny.model(encoder)
    video = tiny.video(model, 1)
    with torch.inference_mode():
        one, other = (gradient_attention_maps(model, video, logit) for logit in (0, 1))
    assert not torch.allclose(one.space, other.space)
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("encoder", list(ENCODERS))
@torch.no_grad()
def test_batched_occlusion_equals_one_tile_at_a_time(encoder):
    model = tiny.model(encoder)
    video, c = tiny.video(model, 1)[0], model.config

    def score(clips):
        return model(clips)[:, 1]

    filled = fill_clip(video, c, "mean")
    drops = spatial_drops(score, video, c, fill="mean", batch_size=5)
    assert drops.shape == cell_grid(c) == (3, 4, 6)
    for t in range(3):
        for h in range(4):
            for w in range(6):
                changed = video.clone()
                place = slice(2 * t, 2 * t + 2), slice(None), slice(4 * h, 4 * h + 4), slice(4 * w, 4 * w + 4)
                changed[place] = filled[place]
                expected = model(video[None])[0, 1] - model(changed[None])[0, 1]
                torch.testing.assert_close(drops[t, h, w], expected, rtol=1e-3, atol=1e-5)
    moments = temporal_drops(score, video, c, batch_size=2)
    for t in range(3):
        changed = video.clone()
        changed[2 * t : 2 * t + 2] = video[2 * t - 1] if t else video[2]
        expected = model(video[None])[0, 1] - model(changed[None])[0, 1]
        torch.testing.assert_close(moments[t], expected, rtol=1e-3, atol=1e-5)


def test_a_larger_tile_hides_all_its_cells_and_shares_its_drop():
    model = tiny.model()
    video = tiny.video(model, 1)[0]
    drops = spatial_drops(lambda clips: model(clips)[:, 0].detach(), video, model.config, tile=(3, 3, 6))
    assert len(drops.unique()) == 2  # rows 0..2, and the smaller tile of row 3
    assert (drops[:, :3] == drops[0, 0, 0]).all()


@pytest.mark.parametrize("grid", [(8, 8, 8), (16, 28, 28), (64, 32, 32), (1, 100, 3)])
def test_the_default_tile_keeps_to_the_bound_and_numbers_every_tile(grid):
    tiles = tile_index(grid, default_tile(grid))
    assert tiles.shape == grid
    assert tiles.unique().tolist() == list(range(int(tiles.max()) + 1))
    assert len(tiles.unique()) <= MOST_TILES
    assert grid != (8, 8, 8) or default_tile(grid) == (1, 1, 1)


def test_hiding_touches_only_the_frames_of_a_position_with_both_tokenizers():
    for changes in ({}, {"tokenizer": "uniform_frames", "sampled_frames": 3, "tubelet_size": (1, 8, 8)}):
        c = tiny.config(**changes)
        video = torch.full((6, 3, 16, 24), 9, dtype=torch.uint8)
        masks = torch.zeros(1, 3, 2, 3, dtype=torch.bool)
        masks[0, 1, 1, 2] = True
        [clip] = hide(video, torch.zeros_like(video), masks, c)
        hidden = (clip == 0).all(dim=1).nonzero()
        assert sorted({f for f, _, _ in hidden.tolist()}) == token_frames(c)[1].tolist()
        assert hidden[:, 1:].min(dim=0).values.tolist() == [8, 16]
        assert len(hidden) == 8 * 8 * len(token_frames(c)[1])


def test_neighbors_are_averaged_and_the_ends_have_one():
    video = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 4, 4) * 10
    positions = torch.arange(6).view(3, 2)
    first = [replace_position(video, positions, i, "neighbors")[:, 0, 0, 0].tolist() for i in range(3)]
    assert first == [[20, 20, 20, 30, 40, 50], [0, 10, 25, 25, 40, 50], [0, 10, 20, 30, 30, 30]]
    assert replace_position(video, positions, 1, "frozen")[:, 0, 0, 0].tolist() == [0, 10, 10, 10, 40, 50]


def test_curves_start_and_end_at_the_clip_and_at_nothing_and_areas_are_trapezoids():
    """A score that counts visible bright cells: the best order gives curves that are known."""
    c = tiny.config(num_frames=6)
    video = torch.zeros(6, 3, 16, 24, dtype=torch.uint8)
    video[:2, :, :8, :8] = 255  # the bright token is 1 of 18
    best = torch.zeros(3, 2, 3)
    best[0, 0, 0] = 1

    def score(clips):
        return (clips > 100).float().mean(dim=(1, 2, 3, 4)) * 18

    evidence = measure_evidence(score, video, best, c, steps=6, random_orders=19)
    assert evidence.deletion == pytest.approx((1, 0, 0, 0, 0, 0, 0))
    assert evidence.insertion == pytest.approx((0, 1, 1, 1, 1, 1, 1))
    assert (evidence.deletion_area, evidence.insertion_area) == pytest.approx((1 / 12, 11 / 12))
    worst = measure_evidence(score, video, -best, c, steps=6, random_orders=19)
    assert worst.deletion == pytest.approx((1, 1, 1, 1, 1, 1, 0))
    assert worst.beaten == 0
    assert "NO better than random" in verdict(worst)
    assert area((0.0, 1.0, 0.0)) == pytest.approx(0.5)
    assert [int(mask.sum()) for mask in step_masks(torch.randperm(10), 4)] == [2, 5, 8]


def test_the_check_of_a_model_that_answers_the_same_for_all_videos_says_so():
    """An untrained head is 0: no order of tiles changes the probability, so no map can be better."""
    model = ViViT(tiny.config()).eval()
    for method in METHODS:
        explanation = explain_clip(model, as_clip(tiny.video(model, 1)[0]), method=method)
        assert not explanation.evidence.better_than_random
        assert "do not trust" in verdict(explanation.evidence)


@pytest.fixture
def video_file(tmp_path):
    write_video(tmp_path / "video.mp4", render(0, "val", 0, num_frames=30)[0])
    return tmp_path / "video.mp4"


def test_explain_reads_the_middle_clip_and_names_the_class(video_file):
    model = tiny.model(classes={"noun": ("a", "b"), "verb": ("c", "d", "e")})
    clip = read_clip(video_file, model.config, start=0.5, end=1.2)
    assert clip.seconds == pytest.approx(0.05 * torch.arange(11, 22, 2).numpy())
    logits = model(clip.video[None])[0, 2:].softmax(dim=0)
    quick = ExplainConfig(random_orders=2, steps=3)
    explanation = package.explain(model, video_file, label_set="verb", start=0.5, end=1.2, config=quick)
    assert (explanation.label_set, explanation.label) == ("verb", "cde"[int(logits.argmax())])
    assert explanation.score == pytest.approx(logits.max().item())
    assert explanation.frames == middle_frames(model)
    other = explain(model, video_file, label="d", method="occlusion", config=quick)
    assert (other.label_set, other.label) == ("verb", "d")
    with pytest.raises(ValueError, match="no class 'x'; allowed: a, b"):
        explain(model, video_file, label_set="noun", label="x")
    with pytest.raises(ValueError, match="no label set 'nuon'; did you mean 'noun'"):
        explain(model, video_file, label_set="nuon")
    with pytest.raises(ValueError, match="unknown method"):
        explain(model, video_file, method="roll")


def run(command, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", command.split())
    cli.main()
    return capsys.readouterr().out


GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "explain.md"


def test_every_command_of_the_guide_runs_and_prints_within_80_columns(tmp_path, monkeypatch, capsys, video_file):
    monkeypatch.chdir(tmp_path)
    model = tiny.model(classes={"noun": ("bar", "hook"), "verb": ("left", "right")})
    model.save_pretrained(tmp_path / "demo" / "run")
    (tmp_path / "demo" / "data" / "videos").mkdir(parents=True)
    video_file.rename(tmp_path / "demo" / "data" / "videos" / "val-0003.mp4")
    text = GUIDE.read_text(encoding="utf-8")
    commands = re.findall(r"^(vivit explain .*)$", text, flags=re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        out = run(f"{command} --random-orders 2 --device cpu", monkeypatch, capsys)
        assert "beats random" in out
        assert max(map(len, out.splitlines()[:-1])) <= 80
    page = (tmp_path / "explain.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 4
    assert "http" not in page.split("</style>")[1]
    numbers = json.loads((tmp_path / "why" / "explanation.json").read_text())
    assert {one["method"] for one in numbers} <= set(METHODS)
    assert (tmp_path / "why" / "maps.npz").is_file()
    for code in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        exec(code, {})


DEMO_CLIPS = 24


def mass_on_shape(model: ViViT, root: Path, method: str, label_set: str = "noun") -> float:
    """The mean share of a map on the moving shape, over the mean share of the area that the shape covers."""
    mass, share = 0.0, 0.0
    for index in range(DEMO_CLIPS):
        clip = read_clip(root / "videos" / f"val-{index:04d}.mp4", model.config)
        joint = explain_clip(model, clip, method=method, label_set=label_set, config=UNCHECKED).joint
        t, h, w = joint.shape
        cover = torch.from_numpy(shape_cover(scene(0, "val", index, num_frames=40)))
        cover = crop(cover, eval_boxes(56, 56, image_size=(48, 48), views=1)[0])
        cover = cover[torch.from_numpy(clip.seconds * 20).round().long()]
        cells = rearrange(cover, "(t a) (h b) (w c) -> t h w a b c", t=t, h=h, w=w).mean(dim=(3, 4, 5))
        mass, share = mass + (joint * cells).sum().item(), share + cover.mean().item()
    return mass / share


@pytest.mark.drill
def test_on_the_demo_a_map_points_at_the_shape_and_with_random_weights_none_does(tmp_path):
    from vivit.config import replace
    from vivit.engine.train import train
    from vivit.recipes.demo import TEST_VIDEOS, TRAIN_VIDEOS, demo

    table = write_dataset(tmp_path, seed=0, train=TRAIN_VIDEOS, val=TEST_VIDEOS)
    config = demo()
    folder = train(replace(config, data=replace(config.data, root=str(table)), run=str(tmp_path / "run")))
    trained = package.from_pretrained(folder).eval()
    random = ViViT(trained.config).eval()
    torch.nn.init.normal_(random.head.weight, std=0.1)
    ratios = {
        m: {method: mass_on_shape(model, tmp_path, method) for method in METHODS}
        for m, model in (("trained", trained), ("random", random))
    }
    print(json.dumps(ratios, indent=1))
    assert max(ratios["trained"].values()) >= 3, ratios
    assert max(ratios["random"].values()) < 3, ratios
