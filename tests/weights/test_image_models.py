"""Image ViTs against the libraries that they come from, and the video models that start from them.

The identities are those of docs/guides/weights.md, section "What a model that starts from an image model computes".
"""

import json
import math

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
import transformers
from timm.models.vision_transformer import VisionTransformer

import vivit
from vivit.config import ModelConfig

from ..parity.official import GOLDEN
from .random_weights import randomise

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 5}


def save(model, path, extra=None):
    tensors = {name: tensor.contiguous() for name, tensor in (model.state_dict() | (extra or {})).items()}
    safetensors.torch.save_file(tensors, path)
    return path


def assert_equal(got, expected, atol=1e-4):
    torch.testing.assert_close(got, expected, atol=atol, rtol=1e-4)


@pytest.fixture
def image_model():
    return randomise(VisionTransformer(**SMALL))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_tiny_patch16_224", 64),
        ("vit_small_patch16_224", 48),
        ("vit_base_patch16_224", 32),
        ("deit_tiny_patch16_224", 64),
        ("vit_small_patch14_dinov2", 56),
    ],
)
def test_timm_models_load_as_models_of_one_frame(name, size, tmp_path):
    theirs = randomise(timm.create_model(name, depth=2, img_size=size, num_classes=5))
    ours = vivit.from_pretrained(save(theirs, tmp_path / "w"), num_heads=theirs.blocks[0].attn.num_heads).eval()
    image = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert_equal(ours(image[:, None]), theirs(image))


def test_a_missing_number_of_heads_is_asked_for(image_model, tmp_path):
    with pytest.raises(ValueError, match="does not say num_heads; pass num_heads=, e.g. 1,"):
        vivit.from_pretrained(save(image_model, tmp_path / "w"))


def test_a_distilled_deit_starts_a_model_as_a_deit_without_the_token_would(tmp_path):
    distilled = randomise(timm.create_model("deit_tiny_distilled_patch16_224", depth=2, img_size=64, num_classes=5))
    plain = timm.create_model("deit_tiny_patch16_224", depth=2, img_size=64, num_classes=5).eval()
    state = {k: v for k, v in distilled.state_dict().items() if k != "dist_token" and not k.startswith("head_dist")}
    state["pos_embed"] = state["pos_embed"][:, [0, *range(2, state["pos_embed"].shape[1])]]
    plain.load_state_dict(state)
    path = save(distilled, tmp_path / "w")
    model = vivit.create("ViViT-Ti/16x2", classes={}, depth=2, num_frames=2, image_size=(64, 64), init=path).eval()
    assert {"dist_token", "head_dist.weight"} <= set(model.load_report.names("ignored"))
    video = torch.randn(2, 2, 3, 64, 64)
    with torch.no_grad():
        assert_equal(model.features(video), plain.forward_features(video[:, 1])[:, 0])


HF = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 8, "num_labels": 5}


@pytest.mark.parametrize("size", [32, (24, 40)])
def test_hugging_face_vits_load_as_models_of_one_frame(size, tmp_path):
    config = transformers.ViTConfig(**HF, intermediate_size=96, image_size=size, hidden_act="gelu")
    theirs = randomise(transformers.ViTForImageClassification(config))
    theirs.save_pretrained(tmp_path)
    ours = vivit.from_pretrained(tmp_path).eval()
    height, width = ours.config.image_size
    image = torch.randn(2, 3, height, width)
    with torch.no_grad():
        assert_equal(ours(image[:, None]), theirs(image).logits)


def test_hugging_face_dinov2_loads_as_a_model_of_one_frame(tmp_path):
    theirs = randomise(transformers.Dinov2Model(transformers.Dinov2Config(**HF, mlp_ratio=2, image_size=32)))
    theirs.save_pretrained(tmp_path)
    ours = vivit.from_pretrained(tmp_path).eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert_equal(ours.features(image[:, None]), theirs(image).pooler_output)


def test_hugging_face_deit_starts_a_model_as_a_vit_without_the_token_would(tmp_path):
    sizes = HF | {"intermediate_size": 96, "image_size": 32}
    deit = randomise(transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**sizes)))
    deit.save_pretrained(tmp_path)
    vit = transformers.ViTModel(transformers.ViTConfig(**sizes), add_pooling_layer=False).eval()
    state = {k.removeprefix("deit."): v for k, v in deit.state_dict().items() if k.startswith("deit.")}
    del state["embeddings.distillation_token"]
    state["embeddings.position_embeddings"] = state["embeddings.position_embeddings"][:, [0, *range(2, 18)]]
    vit.load_state_dict(state)
    model = vivit.create(small_config(), classes={}, init=tmp_path).eval()
    video = torch.randn(2, 2, 3, 32, 32)
    with torch.no_grad():
        assert_equal(model.features(video), vit(video[:, 1]).last_hidden_state[:, 0])
    with pytest.raises(ValueError, match="it has a distillation token"):
        vivit.from_pretrained(tmp_path)


# What a model that starts from an image model computes


def small_config(**changes):
    values = {
        "encoder": "spatiotemporal",
        "tubelet_size": (2, 8, 8),
        "num_frames": 2,
        "image_size": (32, 32),
        "embed_dim": 48,
        "depth": 2,
        "temporal_depth": 1,
        "num_heads": 4,
        "mlp_ratio": 2 if changes.pop("half_mlp", True) else 4,
    }
    return ModelConfig(**(values | changes))


def timm_config(**changes):
    return small_config(half_mlp=False, **changes)


def still(image, frames):
    return image[:, None].expand(-1, frames, -1, -1, -1)


def test_model_1_on_one_tubelet_is_the_image_model_on_its_central_frame(image_model, tmp_path):
    model = vivit.create(timm_config(), classes={}, init=save(image_model, tmp_path / "w")).eval()
    video = torch.randn(2, 2, 3, 32, 32)
    with torch.no_grad():
        assert_equal(model.features(video), image_model.forward_features(video[:, 1])[:, 0])


@pytest.mark.parametrize("kernel_init", ["central_frame", "filter_inflation"])
def test_model_1_with_mean_pooling_sees_a_still_clip_as_its_image(kernel_init, tmp_path):
    image_model = randomise(VisionTransformer(**SMALL, class_token=False, global_pool="avg"))
    path = save(image_model, tmp_path / "w")
    model = vivit.create(timm_config(num_frames=6, pool="mean"), classes={}, init=path, kernel_init=kernel_init).eval()
    assert model.config.norm_after_pool  # timm's fc_norm
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert_equal(
            model.features(still(image, 6)), image_model.forward_head(image_model.forward_features(image), True)
        )


def test_model_1_with_a_class_token_sees_a_still_clip_with_each_patch_counted_t_times(image_model, tmp_path):
    model = vivit.create(timm_config(num_frames=6), classes={}, init=save(image_model, tmp_path / "w")).eval()
    image = torch.randn(2, 3, 32, 32)
    counted = torch.zeros(17, 17)
    counted[:, 1:] = math.log(3)  # softmax over three equal keys = over one with log 3 more
    with torch.no_grad():
        x = image_model._pos_embed(image_model.patch_embed(image))
        for block in image_model.blocks:
            x = block(x, attn_mask=counted)
        assert_equal(model.features(still(image, 6)), image_model.norm(x)[:, 0])


def test_model_2_without_a_temporal_encoder_averages_the_image_features_of_any_video(image_model, tmp_path):
    config = timm_config(num_frames=6, encoder="factorised_encoder", temporal_depth=0)
    model = vivit.create(config, classes={}, init=save(image_model, tmp_path / "w")).eval()
    video = torch.randn(2, 6, 3, 32, 32)
    with torch.no_grad():
        frames = [image_model.forward_features(video[:, i])[:, 0] for i in (1, 3, 5)]
        assert_equal(model.features(video), torch.stack(frames).mean(dim=0))


def test_model_3_starts_as_the_image_model_on_every_tubelet(tmp_path):
    image_model = randomise(VisionTransformer(**SMALL, class_token=False, global_pool="avg", fc_norm=False))
    config = timm_config(num_frames=6, encoder="factorised_self_attention", pool="mean")
    model = vivit.create(config, classes={}, init=save(image_model, tmp_path / "w")).eval()
    video = torch.randn(2, 6, 3, 32, 32)
    with torch.no_grad():
        frames = [image_model.forward_features(video[:, i]).mean(dim=1) for i in (1, 3, 5)]
        assert_equal(model.features(video), torch.stack(frames).mean(dim=0))


def test_model_3_can_learn_to_see_time_from_its_zero_start(image_model, tmp_path):
    config = timm_config(num_frames=6, encoder="factorised_self_attention", pool="mean", classes={"label": ("a", "b")})
    model = vivit.create(config, init=save(image_model, tmp_path / "w"))
    torch.nn.init.normal_(model.head.weight)
    F.cross_entropy(model(torch.randn(2, 6, 3, 32, 32)), torch.tensor([0, 1])).backward()
    assert model.encoder.blocks[0].attn_time.proj.weight.grad.abs().max() > 1e-4


def test_model_4_sees_a_still_clip_with_half_of_the_heads_on_the_token_itself(tmp_path):
    image_model = randomise(VisionTransformer(**SMALL, class_token=False, global_pool="avg", fc_norm=False))
    config = timm_config(num_frames=6, encoder="factorised_dot_product", pool="mean")
    model = vivit.create(config, classes={}, init=save(image_model, tmp_path / "w")).eval()
    image = torch.randn(2, 3, 32, 32)
    itself = torch.zeros(4, 16, 16)
    itself[:2] = torch.full((16, 16), -torch.inf).fill_diagonal_(0)  # over time a still clip shows equal tokens
    with torch.no_grad():
        x = image_model._pos_embed(image_model.patch_embed(image))
        for block in image_model.blocks:
            x = block(x, attn_mask=itself)
        assert_equal(model.features(still(image, 6)), image_model.norm(x).mean(dim=1))


def test_uniformly_sampled_frames_start_as_the_image_model_on_each(image_model, tmp_path):
    config = timm_config(
        num_frames=8,
        encoder="factorised_encoder",
        temporal_depth=0,
        tokenizer="uniform_frames",
        sampled_frames=2,
        tubelet_size=(1, 8, 8),
    )
    model = vivit.create(config, classes={}, init=save(image_model, tmp_path / "w")).eval()
    video = torch.randn(2, 8, 3, 32, 32)
    with torch.no_grad():
        frames = [image_model.forward_features(video[:, i])[:, 0] for i in (3, 5)]  # round(8/3), round(16/3)
        assert_equal(model.features(video), torch.stack(frames).mean(dim=0))


# What else comes from the image model


def test_activation_epsilon_and_pixels_come_from_the_source_and_the_report_says_so(image_model, tmp_path):
    save(image_model, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.4] * 3, "std": [0.2] * 3}}))
    model = vivit.create(timm_config(), classes={}, init=tmp_path)
    assert model.config.activation == "gelu"
    assert model.config.preprocessing.mean == (0.4, 0.4, 0.4)
    assert any("activation" in note for note in model.load_report.notes)
    kept = vivit.create(timm_config(), classes={}, init=tmp_path, activation="gelu_tanh")
    assert kept.config.activation == "gelu_tanh"


def test_model_2s_temporal_encoder_can_start_from_the_first_image_layers(image_model, tmp_path):
    path = save(image_model, tmp_path / "w")
    config = timm_config(num_frames=6, encoder="factorised_encoder")
    model = vivit.create(config, classes={}, init=path, temporal_init="image")
    torch.testing.assert_close(model.encoder.temporal.blocks[0].attn.qkv.weight, image_model.blocks[0].attn.qkv.weight)
    torch.testing.assert_close(model.encoder.temporal.norm.bias, image_model.norm.bias)
    with pytest.raises(ValueError, match="temporal_depth=2 or less"):
        vivit.create(config, classes={}, init=path, temporal_init="image", temporal_depth=3)
    with pytest.raises(ValueError, match="'zero'; factorised_encoder takes temporal_init 'random' or 'image'"):
        vivit.create(config, classes={}, init=path, temporal_init="zero")


def test_model_3s_temporal_attention_can_start_as_a_copy_with_its_norm(image_model, tmp_path):
    config = timm_config(num_frames=6, encoder="factorised_self_attention", pool="mean")
    block = vivit.create(
        config, classes={}, init=save(image_model, tmp_path / "w"), temporal_init="image"
    ).encoder.blocks[1]
    torch.testing.assert_close(block.attn_time.qkv.weight, image_model.blocks[1].attn.qkv.weight)
    torch.testing.assert_close(block.norm_time.weight, image_model.blocks[1].norm1.weight)


@pytest.mark.parametrize("encoder", ["factorised_encoder", "factorised_self_attention"])
def test_copies_of_the_image_layers_have_memory_of_their_own_and_are_saved(encoder, image_model, tmp_path):
    pool = "cls" if encoder == "factorised_encoder" else "mean"
    config = timm_config(num_frames=6, encoder=encoder, pool=pool)
    torch.save(image_model.state_dict(), tmp_path / "vit.bin")
    model = vivit.create(config, classes={}, init=tmp_path / "vit.bin", temporal_init="image")
    starts = [p.data_ptr() for p in model.parameters() if p.numel()]
    assert len(set(starts)) == len(starts)
    model.save_pretrained(tmp_path / "video")
    back = vivit.from_pretrained(tmp_path / "video").state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in model.state_dict().items())


def test_a_random_kernel_leaves_the_image_models_patches_out(image_model, tmp_path):
    model = vivit.create(timm_config(), classes={}, init=save(image_model, tmp_path / "w"), kernel_init="random")
    assert set(model.load_report.names("initialised")) >= {"tokenizer.proj.weight", "tokenizer.proj.bias"}
    assert set(model.load_report.names("ignored")) >= {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert 0.02 < model.tokenizer.proj.weight.std() < 0.1  # 1 / sqrt(2 * 8 * 8 * 3) = 0.05


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("encoder", ["spatiotemporal", "factorised_encoder"])
def test_every_tensor_of_source_and_model_stands_once_in_the_report(encoder, pool, image_model, tmp_path):
    config = timm_config(num_frames=6, encoder=encoder, pool=pool, image_size=(48, 24))
    model = vivit.create(config, classes={}, init=save(image_model, tmp_path / "w"))
    assert_once(model, image_model.state_dict())
    assert model.load_report.names("interpolated") == [
        "encoder.spatial.pos_embed" if encoder == "factorised_encoder" else "encoder.pos_embed"
    ]


def assert_once(model, source):
    rows = model.load_report.rows
    assert sorted(name for row in rows for name in row.targets) == sorted(model.state_dict())
    assert sorted(name for row in rows for name in row.sources) == sorted(source)


def test_an_image_model_of_another_shape_is_refused_by_what_differs(image_model, tmp_path):
    path = save(image_model, tmp_path / "w")
    with pytest.raises(ValueError, match=r"embed_dim=48, not 192; depth=2, not 12"):
        vivit.create("ViViT-Ti/8x2", classes={}, init=path)
    with pytest.raises(ValueError, match="^kernel_init is 'central'; did you mean 'central_frame'"):
        vivit.create(timm_config(), classes={}, init=path, kernel_init="central")
    with pytest.raises(ValueError, match="say how an image model is inflated"):
        vivit.create(timm_config(), classes={}, kernel_init="filter_inflation")
    with pytest.raises(ValueError, match=r"patches of 8 x 8, not 16 x 16; use tubelet_size=\(2, 8, 8\)"):
        vivit.create(timm_config(tubelet_size=(2, 16, 16)), classes={}, init=path)


# JAX files beyond the golden ones: big_vision's names, stacked layers, bfloat16


@pytest.mark.parametrize("layout", ["big_vision", "stacked", "two towers", "bfloat16", "2021"])
def test_jax_files_in_every_layout_are_the_same_model(layout, tmp_path):
    plain = vivit.from_pretrained(GOLDEN / "image_vit" / "vit_original_names.npz")
    with np.load(GOLDEN / "image_vit" / "vit_original_names.npz") as file:
        arrays = {name: file[name].astype(np.float32) for name in file.files}
    if layout == "2021":
        arrays = {f"opt/target/{name}": array for name, array in arrays.items()} | {"opt/state/step": np.zeros(())}
    else:
        renames = {"MlpBlock_3": "MlpBlock_0", "LayerNorm_2": "LayerNorm_1", "Attention_1": "Attention_0"}
        for old, new in renames.items():
            arrays = {name.replace(old, new): array for name, array in arrays.items()}
        arrays["pos_embedding"] = arrays.pop("Transformer/posembed_input/pos_embedding")
    if layout == "stacked":
        names = [name for name in arrays if "/encoderblock_0/" in name]
        for name in names:
            layers = [arrays.pop(name.replace("block_0/", f"block_{i}/")) for i in range(2)]
            arrays[name.replace("block_0/", "block/")] = np.stack(layers)
    if layout == "two towers":
        arrays = {f"params/img/{name}": array for name, array in arrays.items()}
        arrays |= {"params/img/MAPHead_0/probe": np.zeros((1, 1, 24), np.float32), "params/t": np.zeros(1, np.float32)}
    elif layout != "2021":
        arrays = {f"params/{name}": array for name, array in arrays.items()}
    if layout == "bfloat16":
        arrays = {name: (array.view(np.uint32) >> 16).astype(np.uint16).view("V2") for name, array in arrays.items()}
    np.savez(tmp_path / "vit.npz", **arrays)
    model = vivit.from_pretrained(tmp_path / "vit.npz")
    assert_once(model, arrays)
    assert len(model.load_report.names("ignored")) == {"two towers": 2, "2021": 1}.get(layout, 0)
    rounding = 1e-2 if layout == "bfloat16" else 0
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, atol=0, rtol=rounding)


@pytest.mark.parametrize("wrapper", ["state dict", "model", "state_dict", "DataParallel", "compiled"])
def test_pytorch_files_are_read_in_the_wrappings_that_people_use(wrapper, image_model, tmp_path):
    state = image_model.state_dict()
    prefix = {"DataParallel": "module.", "compiled": "_orig_mod."}.get(wrapper, "")
    state = {prefix + name: tensor for name, tensor in state.items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper in ("model", "state_dict") else state, tmp_path / "vit.bin")
    model = vivit.from_pretrained(tmp_path / "vit.bin", num_heads=4)
    assert torch.equal(model.encoder.blocks[0].mlp.fc1.weight, image_model.blocks[0].mlp.fc1.weight)


def test_half_precision_files_become_float32(image_model, tmp_path):
    path = save(image_model.half(), tmp_path / "w")
    model = vivit.from_pretrained(path, num_heads=4)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.head.weight, image_model.head.weight.float())
