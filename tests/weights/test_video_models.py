"""Other libraries' video models: transformers' ViViT, in and out, and VideoMAE."""

import json
import re
import warnings

import pytest
import safetensors.torch
import torch
import transformers
from timm.models.vision_transformer import VisionTransformer

import vivit
from vivit.config import ModelConfig, replace
from vivit.errors import WeightsError
from vivit.weights import huggingface
from vivit.weights.assemble import MappedTensor
from vivit.weights.convert import convert

from .random_weights import randomise
from .test_image_models import assert_equal, assert_once

SIZES = [((32, 32), 4, (2, 8, 8)), ((24, 40), 6, (2, 8, 8)), ((32, 16), 4, (4, 16, 16))]


def their_vivit(image_size=(32, 32), num_frames=4, tubelet_size=(2, 8, 8), **changes):
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config = transformers.VivitConfig(
        image_size=image_size, num_frames=num_frames, tubelet_size=list(tubelet_size), num_labels=5, **sizes, **changes
    )
    return randomise(transformers.VivitForVideoClassification(config))


def save_new_names(model, folder):
    """As transformers 5 names the parameters in memory."""
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    model.config.save_pretrained(folder)


@pytest.mark.parametrize("era", ["hub", "transformers 5"])
@pytest.mark.parametrize(("image_size", "num_frames", "tubelet_size"), SIZES)
def test_hugging_face_vivit_gives_the_same_logits(era, image_size, num_frames, tubelet_size, tmp_path):
    theirs = their_vivit(image_size, num_frames, tubelet_size)
    theirs.save_pretrained(tmp_path) if era == "hub" else save_new_names(theirs, tmp_path)
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = list(file.keys())
    assert any("attention.attention.query" in n for n in names) == (era == "hub")
    ours = vivit.from_pretrained(tmp_path).eval()
    assert_once(ours, names)
    video = torch.randn(2, num_frames, 3, *image_size)
    with torch.no_grad():
        assert_equal(ours(video), theirs(video).logits)


def test_hugging_face_vivit_without_its_config_asks_for_what_the_tensors_do_not_say(tmp_path):
    theirs = their_vivit()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="pass num_heads="):
        vivit.from_pretrained(tmp_path)
    ours = vivit.from_pretrained(tmp_path, num_heads=4, image_size=(32, 32)).eval()
    video = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        assert_equal(ours(video), theirs(video).logits)


def test_class_names_come_with_the_weights(tmp_path):
    names = {0: "abseiling", 1: "air drumming", 2: "answering questions", 3: "applauding", 4: "applying cream"}
    their_vivit(id2label=names, label2id={v: k for k, v in names.items()}).save_pretrained(tmp_path)
    assert vivit.from_pretrained(tmp_path).config.classes == {"label": tuple(names.values())}


def processed(processor, frames):
    return processor(list(frames), return_tensors="pt", input_data_format="channels_first").pixel_values


def test_the_default_processor_that_maps_pixels_to_minus_three_is_corrected_with_one_warning(tmp_path):
    theirs = their_vivit()
    theirs.save_pretrained(tmp_path)
    processor = transformers.VivitImageProcessor()
    processor.save_pretrained(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = vivit.from_pretrained(tmp_path)
    assert ["[-3, 1]" in str(w.message) for w in caught] == [True]
    black = torch.zeros(1, 4, 3, 224, 224, dtype=torch.uint8)
    # The default turns black into −3 and white into 1 …
    assert processed(processor, black[0].numpy()).unique().tolist() == [-3.0]
    # … and the weights were trained on −1 and 1.
    assert ours.normalize(black).unique().tolist() == [-1.0]
    assert ours.normalize(black + 255).unique().tolist() == [1.0]
    assert any("[-3, 1]" in note for note in ours.load_report.notes)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_normalize": False},
        {"offset": False, "rescale_factor": 1 / 255, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]},
        {"image_mean": [0.0, 0.1, 0.2], "image_std": [1.0, 0.9, 0.8]},
    ],
)
def test_every_other_processor_is_followed(settings, tmp_path):
    their_vivit().save_pretrained(tmp_path)
    size = {"do_resize": False, "do_center_crop": False}
    processor = transformers.VivitImageProcessor(**settings, **size)
    processor.save_pretrained(tmp_path)
    ours = vivit.from_pretrained(tmp_path)
    video = torch.randint(0, 256, (1, 4, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(ours.normalize(video), processed(processor, video[0].numpy()), atol=1e-5, rtol=1e-5)


def our_vivit(**changes):
    config = ModelConfig(
        classes={"label": ("run", "jump", "sit")},
        encoder="spatiotemporal",
        tubelet_size=(2, 8, 8),
        num_frames=4,
        image_size=(32, 24),
        embed_dim=48,
        depth=2,
        num_heads=4,
        mlp_ratio=2,
    )
    return randomise(vivit.create(replace(config, **changes)))


@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu"])
def test_transformers_loads_what_we_write_and_gives_the_same_logits(activation, tmp_path):
    ours = our_vivit(activation=activation)
    ours.save_pretrained(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "theirs", to="huggingface")
    theirs, info = transformers.VivitForVideoClassification.from_pretrained(
        tmp_path / "theirs", output_loading_info=True
    )
    assert not any(info.values())
    assert theirs.config.id2label == {0: "run", 1: "jump", 2: "sit"}
    processor = transformers.VivitImageProcessor.from_pretrained(tmp_path / "theirs")
    video = torch.randint(0, 256, (2, 4, 3, 32, 24), dtype=torch.uint8)
    processor.do_resize = False
    pixels = torch.cat([processed(processor, clip.numpy()) for clip in video])
    torch.testing.assert_close(pixels, ours.normalize(video), atol=1e-6, rtol=0)
    with torch.no_grad():
        assert_equal(theirs.eval()(pixels).logits, ours(video))


def test_to_hugging_face_and_back_is_bit_equal(tmp_path):
    ours = our_vivit(drop_path=0.1, image_size=(56, 24))  # 56 of 64: the default crop, in whole pixels
    ours.save_pretrained(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "theirs", to="huggingface")
    back = vivit.from_pretrained(tmp_path / "theirs")
    assert replace(back.config, drop_path=0.1) == replace(ours.config, temporal_depth=back.config.temporal_depth)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


@pytest.mark.parametrize("encoder", ["factorised_encoder", "factorised_self_attention", "factorised_dot_product"])
def test_models_that_transformers_does_not_have_are_not_written(encoder, tmp_path):
    pool = "cls" if encoder == "factorised_encoder" else "mean"
    our_vivit(encoder=encoder, pool=pool).save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=f"Model 1 with a class token and tubelets; it has no encoder='{encoder}'"):
        convert(tmp_path / "ours", tmp_path / "theirs", to="huggingface")
    assert not (tmp_path / "theirs").exists()


# VideoMAE


def their_video_mae(kind, image_size=(32, 32), num_frames=4, **changes):
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config = transformers.VideoMAEConfig(
        image_size=image_size, num_frames=num_frames, patch_size=8, num_labels=5, **(sizes | changes)
    )
    return randomise(kind(config))


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize(("image_size", "num_frames"), [((32, 32), 4), ((32, 32), 8), ((16, 16), 6)])
def test_video_mae_gives_the_same_logits(image_size, num_frames, qkv_bias, tmp_path):
    theirs = their_video_mae(transformers.VideoMAEForVideoClassification, image_size, num_frames, qv_bias=qkv_bias)
    theirs.save_pretrained(tmp_path)
    ours = vivit.from_pretrained(tmp_path).eval()
    assert (ours.config.pool, ours.config.norm_after_pool) == ("mean", True)
    video = torch.randn(2, num_frames, 3, *image_size)
    with torch.no_grad():
        assert_equal(ours(video), theirs(video).logits)
    ours.save_pretrained(tmp_path / "ours")  # and it stays itself in our format
    with torch.no_grad():
        assert torch.equal(vivit.from_pretrained(tmp_path / "ours").eval()(video), ours(video))


def test_video_mae_in_its_own_repositorys_names_gives_the_same_logits(tmp_path):
    theirs = their_video_mae(transformers.VideoMAEForVideoClassification)
    state = theirs.state_dict()
    original = {
        "patch_embed.proj.weight": state["videomae.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": state["videomae.embeddings.patch_embeddings.projection.bias"],
        **{f"fc_norm.{x}": state[f"fc_norm.{x}"] for x in ("weight", "bias")},
        **{f"head.{x}": state[f"classifier.{x}"] for x in ("weight", "bias")},
    }
    for i in range(2):
        layer = f"videomae.encoder.layer.{i}."
        qkv = [state[f"{layer}attention.attention.{x}.weight"] for x in ("query", "key", "value")]
        original[f"blocks.{i}.attn.qkv.weight"] = torch.cat(qkv)
        for x, name in (("q", "query"), ("v", "value")):
            original[f"blocks.{i}.attn.{x}_bias"] = state[f"{layer}attention.attention.{name}.bias"]
        for old, new in (
            ("attention.output.dense", "attn.proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
        ):
            for leaf in ("weight", "bias"):
                original[f"blocks.{i}.{new}.{leaf}"] = state[f"{layer}{old}.{leaf}"]
    torch.save({"module": original, "epoch": 3}, tmp_path / "mae.pth")
    for missing in ("num_heads", "image_size", "num_frames"):
        given = {"num_heads": 4, "image_size": (32, 32), "num_frames": 4}
        del given[missing]
        with pytest.raises(ValueError, match=f"pass {missing}="):
            vivit.from_pretrained(tmp_path / "mae.pth", **given)
    ours = vivit.from_pretrained(tmp_path / "mae.pth", num_heads=4, image_size=(32, 32), num_frames=4).eval()
    assert_once(ours, original)
    video = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        assert_equal(ours(video), theirs(video).logits)


@pytest.mark.parametrize("use_mean_pooling", [True, False])
def test_a_pre_trained_video_mae_starts_a_classifier(use_mean_pooling, tmp_path):
    theirs = their_video_mae(
        transformers.VideoMAEForPreTraining,
        use_mean_pooling=use_mean_pooling,
        decoder_hidden_size=24,
        decoder_num_attention_heads=2,
        decoder_num_hidden_layers=1,
        decoder_intermediate_size=24,
    )
    theirs.save_pretrained(tmp_path)
    ours = vivit.from_pretrained(tmp_path, classes={"label": ["a", "b"]}).eval()
    decoder = [n for n in theirs.state_dict() if n.startswith(("decoder", "encoder_to_decoder", "mask_token"))]
    assert len(decoder) == len(ours.load_report.names("ignored")) > 10
    video = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        tokens = theirs.videomae(video).last_hidden_state.mean(dim=1)
        expected = ours.encoder.norm(tokens) if use_mean_pooling else tokens
        assert_equal(ours.features(video), expected)


def test_a_video_mae_classifier_on_the_first_token_is_refused(tmp_path):
    their_video_mae(transformers.VideoMAEForVideoClassification, use_mean_pooling=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="its head sees the first token only"):
        vivit.from_pretrained(tmp_path)


def test_a_video_mae_starts_a_model_of_another_length_and_size(tmp_path):
    their_video_mae(transformers.VideoMAEForVideoClassification).save_pretrained(tmp_path)
    model = vivit.create(
        "ViViT-B/8x2",
        classes={"label": ["a", "b"]},
        init=tmp_path,
        pool="mean",
        embed_dim=48,
        depth=2,
        num_heads=4,
        mlp_ratio=2,
        num_frames=8,
        image_size=(32, 48),
    )
    assert model.load_report.names("interpolated") == ["encoder.pos_embed"]
    assert model.config.norm_after_pool
    assert model(torch.zeros(1, 8, 3, 32, 48)).shape == (1, 2)
    json.dumps(str(model.load_report))


# Other video ViTs in the names of VideoMAE's repository, which are timm's


def video_vit(**changes):
    """(a timm ViT with a 3-D patch kernel, its features of a video (B, T, C, H, W))."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 5}
    model = VisionTransformer(**(sizes | changes))
    model.patch_embed.proj = torch.nn.Conv3d(3, 48, (2, 8, 8), stride=(2, 8, 8))
    model.pos_embed = torch.nn.Parameter(torch.zeros(1, 2 * 16 + model.num_prefix_tokens, 48))
    randomise(model)

    def forward(video):
        x = model.patch_embed.proj(video.movedim(1, 2)).flatten(2).mT
        if model.cls_token is not None:
            x = torch.cat((model.cls_token.expand(len(x), -1, -1), x), dim=1)
        return model.forward_head(model.norm(model.blocks(x + model.pos_embed)))

    return model, forward


GIVEN = {"num_heads": 4, "image_size": (32, 32), "num_frames": 4}


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("fc_norm", [True, False])
@pytest.mark.parametrize("class_token", [True, False])
def test_a_video_vit_in_timm_names_keeps_its_qkv_biases(class_token, fc_norm, qkv_bias, tmp_path):
    if class_token and fc_norm:
        return  # a mean next to a class token: refused, in test_timm
    pool = "token" if class_token else "avg"
    theirs, forward = video_vit(class_token=class_token, global_pool=pool, fc_norm=fc_norm, qkv_bias=qkv_bias)
    torch.save(theirs.state_dict(), tmp_path / "w")
    ours = vivit.from_pretrained(tmp_path / "w", **GIVEN)
    assert_once(ours, theirs.state_dict())
    video = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        assert_equal(ours(video), forward(video))


def test_positions_are_not_invented_for_a_model_that_is_no_video_mae(tmp_path):
    theirs, _ = video_vit(class_token=False, global_pool="avg")
    state = theirs.state_dict()
    del state["pos_embed"]
    torch.save(state, tmp_path / "w")
    with pytest.raises(WeightsError, match="holds no positions .* and is no VideoMAE"):
        vivit.from_pretrained(tmp_path / "w", **GIVEN)


def test_a_tensor_that_no_rule_reads_is_an_error_whatever_lost_it(tmp_path, monkeypatch):
    their_vivit().save_pretrained(tmp_path)
    fuse = huggingface.fuse_qkv

    def forgetful(pieces):
        fuse(pieces)
        bias = pieces["encoder.blocks.1.attn.qkv.bias"]
        pieces["encoder.blocks.1.attn.qkv.bias"] = MappedTensor(torch.zeros_like(bias.tensor), ())

    monkeypatch.setattr(huggingface, "fuse_qkv", forgetful)
    with pytest.raises(WeightsError, match=r"no rule reads its tensors .*layer.1.attention.attention.key.bias"):
        vivit.from_pretrained(tmp_path)


def test_a_video_mae_without_any_qkv_bias_gives_the_same_logits(tmp_path):
    theirs = their_video_mae(transformers.VideoMAEForVideoClassification)
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if re.search(r"(query|value)\.bias|[qv]_bias", name):
                p.zero_()
    theirs.save_pretrained(tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    kept = {name: x for name, x in tensors.items() if not re.search(r"(query|value)\.bias|[qv]_bias", name)}
    assert len(kept) == len(tensors) - 4
    safetensors.torch.save_file(kept, tmp_path / "model.safetensors")
    ours = vivit.from_pretrained(tmp_path)
    video = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        assert_equal(ours(video), theirs(video).logits)


def test_class_names_that_repeat_or_do_not_number_the_rows_are_still_usable(tmp_path):
    their_vivit().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def classes(id2label):
        (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": id2label}))
        return vivit.from_pretrained(tmp_path).config.classes["label"]

    crane = {"0": "crane", "1": "dog", "2": "crane", "3": "cat", "4": "bus"}  # ImageNet's bird and machine
    assert classes(crane) == ("crane (0)", "dog", "crane (2)", "cat", "bus")
    assert classes({str(int(i) + 1): name for i, name in crane.items()}) == ("0", "1", "2", "3", "4")
    assert classes(dict(list(crane.items())[:3])) == ("0", "1", "2", "3", "4")
