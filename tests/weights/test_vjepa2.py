"""V-JEPA 2 against transformers: the encoder, the probe, released names, other sizes, and what is refused."""

import dataclasses
import json

import pytest
import torch
import transformers
from einops import rearrange
from transformers import VJEPA2Config

import vivit
from vivit.errors import WeightsError
from vivit.weights import verify

from .random_weights import randomise
from .test_image_models import assert_once

SMALL = {"patch_size": 8, "crop_size": 32, "frames_per_clip": 8, "hidden_size": 64, "num_attention_heads": 4}
SMALL |= {"num_hidden_layers": 2, "pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
SMALL |= {"num_labels": 3, "num_pooler_layers": 2}
SHAPES = {"head of 16": {}, "head of 80, as in H": {"hidden_size": 160, "num_attention_heads": 2}}
SHAPES |= {"MLP of g": {"hidden_size": 88, "num_attention_heads": 4, "mlp_ratio": 48 / 11}}
TOLERANCE = 1e-5  # of the largest feature


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["VJEPA2Model", "VJEPA2ForVideoClassification"])
def test_v_jepa_2_of_transformers_is_equal(kind, shape, tmp_path):
    theirs = randomise(getattr(transformers, kind)(VJEPA2Config(**SMALL | SHAPES[shape])))
    theirs.save_pretrained(tmp_path)
    ours = vivit.from_pretrained(tmp_path)
    assert_once(ours, theirs.state_dict())
    video = torch.randn(2, 8, 3, 32, 32)
    with torch.no_grad():
        tokens = theirs(video, skip_predictor=True).last_hidden_state if kind == "VJEPA2Model" else None
        expected = theirs(video).logits if tokens is None else tokens.mean(dim=1)
        got = ours(video) if tokens is None else ours.features(video)
    assert relative(got, expected) < TOLERANCE


def test_other_sizes_are_those_of_transformers_at_these_sizes(tmp_path):
    """transformers takes the grid from its config, so there a second model with the same weights has the other size."""
    theirs = randomise(transformers.VJEPA2Model(VJEPA2Config(**SMALL)))
    theirs.save_pretrained(tmp_path)
    larger = transformers.VJEPA2Model(VJEPA2Config(**SMALL | {"crop_size": 48, "frames_per_clip": 12})).eval()
    larger.load_state_dict(theirs.state_dict())
    video = torch.randn(1, 12, 3, 48, 48)
    with torch.no_grad():
        expected = larger(video, skip_predictor=True).last_hidden_state.mean(dim=1)
        for ours in (
            vivit.from_pretrained(tmp_path, num_frames=12, image_size=(48, 48)),
            vivit.from_pretrained(tmp_path).resize(num_frames=12, image_size=(48, 48)),
        ):
            assert relative(ours.features(video), expected) < TOLERANCE


def released(theirs, *, positions=False):
    """The encoder of a transformers model with the names that Meta's files have."""
    state = {name: x for name, x in theirs.encoder.state_dict().items() if ".attention." not in name}
    names = {"embeddings.patch_embeddings": "patch_embed", "layernorm": "norm"}
    ours = {}
    for name, x in state.items():
        for old, new in names.items():
            name = name.replace(old, new) if name.startswith(old) else name
        ours["module.backbone." + name.replace("layer.", "blocks.")] = x
    for i, layer in enumerate(theirs.encoder.layer):
        for leaf in ("weight", "bias"):
            qkv = [getattr(getattr(layer.attention, part), leaf) for part in ("query", "key", "value")]
            ours[f"module.backbone.blocks.{i}.attn.qkv.{leaf}"] = torch.cat(qkv)
            ours[f"module.backbone.blocks.{i}.attn.proj.{leaf}"] = getattr(layer.attention.proj, leaf)
    extra = {"module.backbone.pos_embed": torch.randn(1, 64, 64)} if positions else {}
    return {name: x.detach().clone() for name, x in (ours | extra).items()}


SIZES = {"num_heads": 4, "image_size": (32, 32), "num_frames": 8}


@pytest.mark.parametrize("positions", [False, True])
def test_a_released_file_is_the_model_of_transformers(positions, tmp_path):
    theirs = randomise(transformers.VJEPA2Model(VJEPA2Config(**SMALL)))
    encoder = released(theirs, positions=positions)
    torch.save({"encoder": encoder, "target_encoder": encoder, "opt": {"state": {}}, "epoch": 3}, tmp_path / "vitl.pt")
    sure = SIZES | ({"positions": "rope_3d"} if positions else {})
    if positions:
        with pytest.raises(WeightsError, match="V-JEPA adds and V-JEPA 2 does not use"):
            vivit.from_pretrained(tmp_path / "vitl.pt", **SIZES)
    ours = vivit.from_pretrained(tmp_path / "vitl.pt", **sure)
    video = torch.randn(2, 8, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(video, skip_predictor=True).last_hidden_state.mean(dim=1)
        assert relative(ours.features(video), expected) < TOLERANCE
    with pytest.raises(WeightsError, match="does not say num_frames; pass num_frames="):
        vivit.from_pretrained(tmp_path / "vitl.pt", **{k: v for k, v in sure.items() if k != "num_frames"})


def test_it_starts_a_model_with_classes_and_is_saved(tmp_path):
    theirs = randomise(transformers.VJEPA2Model(VJEPA2Config(**SMALL)))
    theirs.save_pretrained(tmp_path / "theirs")
    config = vivit.weights.load.config_for_init(tmp_path / "theirs", vivit.Config().model)
    model = vivit.create(config, classes=["a", "b"], init=tmp_path / "theirs").eval()
    back = vivit.from_pretrained(model.save_pretrained(tmp_path / "ours"))
    video = torch.randn(1, 8, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(video, skip_predictor=True).last_hidden_state.mean(dim=1)
        assert relative(back.features(video), expected) < TOLERANCE
    assert model.config.preprocessing.mean == (0.485, 0.456, 0.406)
    with pytest.raises(WeightsError, match="positions='rope_3d', not 'learned'"):
        vivit.create(vivit.config.replace(config, positions="learned"), classes=["a"], init=tmp_path / "theirs")


def test_the_order_of_rotary_pairs_matters(tmp_path):
    """Without the permutation of queries and keys the test of equality would fail, so it would find a wrong one."""
    theirs = randomise(transformers.VJEPA2Model(VJEPA2Config(**SMALL)))
    theirs.save_pretrained(tmp_path)
    ours = vivit.from_pretrained(tmp_path)
    video = torch.randn(1, 8, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(video, skip_predictor=True).last_hidden_state.mean(dim=1)
        for block in ours.encoder.blocks:
            q, k, v = block.attn.qkv.weight.chunk(3)
            q = rearrange(q, "(a two i) D -> (a i two) D", a=4, two=2)
            block.attn.qkv.weight.copy_(torch.cat((q, k, v)))
        assert relative(ours.features(video), expected) > 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "silu"}, "hidden_act is 'silu'"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3; the file has 2 blocks"),
        ({"num_pooler_layers": 3}, "num_pooler_layers is 3; the file has 2 blocks"),
        ({"use_rope_interleave": True}, "use_rope_interleave is True: a V-JEPA 2.1, which is not read"),
        ({"hierarchical_layers": [0, 1]}, "a V-JEPA 2.1, which is not read"),
        ({"num_attention_heads": 5}, "num_heads 5 does not divide embed_dim 64"),
        ({"num_attention_heads": 16}, "heads whose width 2 divides, of 6 or more"),
    ],
)
def test_a_config_that_the_file_contradicts_is_refused(change, message, tmp_path):
    theirs = transformers.VJEPA2ForVideoClassification(VJEPA2Config(**SMALL))
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(WeightsError, match=message):
        vivit.from_pretrained(tmp_path)


def test_tensors_that_v_jepa_2_does_not_have_are_refused(tmp_path):
    state = released(randomise(transformers.VJEPA2Model(VJEPA2Config(**SMALL))))
    torch.save(state | {"module.backbone.norms_block.0.weight": torch.ones(64)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"norms_block.0.weight has no place in this model"):
        vivit.from_pretrained(tmp_path / "w.pt", **SIZES)


def test_verify_compares_the_logits_of_a_clip_of_ones_with_the_published_ones(tmp_path, monkeypatch):
    """As in transformers' test, all pixels are 1. The published logits are replaced by those of a tiny model."""
    theirs = randomise(transformers.VJEPA2ForVideoClassification(VJEPA2Config(**SMALL)))
    theirs.save_pretrained(tmp_path)
    processor = transformers.VJEPA2VideoProcessor(crop_size={"height": 32, "width": 32}, size={"shortest_edge": 36})
    processor.save_pretrained(tmp_path)
    with torch.no_grad():
        pixels = processor(torch.ones(8, 3, 32, 32, dtype=torch.uint8), return_tensors="pt").pixel_values_videos
        published = theirs(pixels).logits[0, 1:3]
    release = next(r for r in verify.RELEASES if r.clip == "ones")
    tiny = dataclasses.replace(
        release, embed_dim=64, num_classes=3, first=1, values=tuple(published.tolist()), atol=1e-5
    )
    monkeypatch.setattr(verify, "RELEASES", (tiny,))
    said = verify.verify(tmp_path)
    assert "Logits: equal. Logits from class 1 on of a clip whose pixels are all 1: [" in said
    assert "frame_stride 4, as in its evaluation on Kinetics; the file does not say" in said
    wrong = dataclasses.replace(tiny, values=(1.0, 2.0))
    monkeypatch.setattr(verify, "RELEASES", (wrong,))
    with pytest.raises(ValueError, match="logits from class 1 on .* published .* allowed is 1e-05"):
        verify.verify(tmp_path)


def test_verify_says_that_there_is_nothing_to_compare_an_encoder_with(tmp_path, monkeypatch):
    randomise(transformers.VJEPA2Model(VJEPA2Config(**SMALL))).save_pretrained(tmp_path)
    monkeypatch.setattr(verify, "RELEASES", (verify.jepa_encoder("tiny", 64, "50 % top-1"),))
    said = verify.verify(tmp_path)
    assert "The shape of V-JEPA 2 ViT-tiny; published: 50 % top-1" in said
    assert said.endswith("Features: not checked, none of a clip are published for this checkpoint.")
