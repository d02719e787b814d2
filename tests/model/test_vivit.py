"""What every one of the four models does, whatever its encoder."""

import copy
import math

import pytest
import torch
from torch import nn

from vivit.config import Preprocessing
from vivit.model.vivit import ViViT, init_weights

from . import tiny

slower_guards = pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
every_encoder = pytest.mark.parametrize("encoder", tiny.NAMES)


@every_encoder
@pytest.mark.parametrize(
    ("num_frames", "image_size", "tubelet_size"),
    [(2, (8, 8), (2, 8, 8)), (6, (16, 24), (2, 8, 8)), (9, (24, 8), (3, 4, 8)), (4, (16, 16), (1, 16, 4))],
)
def test_any_length_and_size_that_the_tubelet_divides_gives_features_and_logits(
    encoder, num_frames, image_size, tubelet_size
):
    made = tiny.model(encoder, num_frames=num_frames, image_size=image_size, tubelet_size=tubelet_size)
    video = tiny.video(made)
    with torch.no_grad():
        features = made.features(video)
        assert features.shape == (2, 16)
        torch.testing.assert_close(made(video), features @ made.head.weight.T + made.head.bias)


def test_several_label_sets_share_one_tensor_of_logits():
    made = tiny.model(classes={"verb": ("a", "b"), "noun": ("x", "y", "z")})
    assert made(tiny.video(made)).shape == (2, 5)


def test_bytes_and_normalised_floats_give_the_same_result():
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.5, 0.3)
    for preprocessing in (Preprocessing(), Preprocessing(mean=mean, std=std)):
        made = tiny.model(preprocessing=preprocessing)
        video = tiny.video(made)
        m, s = (torch.tensor(x).view(3, 1, 1) for x in (preprocessing.mean, preprocessing.std))
        with torch.no_grad():
            torch.testing.assert_close(made(video), made((video / 255 - m) / s), atol=1e-5, rtol=1e-5)


def test_pixels_go_from_minus_one_to_one_by_default():
    made = tiny.model()
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1, 1).expand(2, 1, 3, 1, 1)
    torch.testing.assert_close(made.normalize(ends).flatten(), torch.tensor([-1.0] * 3 + [1.0] * 3))


def test_whole_numbers_that_are_not_bytes_are_refused():
    made = tiny.model()
    with pytest.raises(ValueError, match=r"torch.int64; give pixels as uint8 .* or float"):
        made(tiny.video(made).long())


@pytest.mark.parametrize(
    "shape", [(6, 3, 16, 24), (1, 3, 6, 16, 24), (1, 4, 3, 16, 24), (1, 6, 3, 24, 16), (1, 6, 1, 16, 24)]
)
def test_a_video_of_another_shape_is_an_error_that_says_what_the_model_takes(shape):
    with pytest.raises(ValueError, match="this model takes") as error:
        tiny.model()(torch.zeros(shape))
    for said in (str(shape), "(B, T, C, H, W) = (B, 6, 3, 16, 24)", "(2, 8, 8)", "model.resize"):
        assert said in str(error.value)


@every_encoder
def test_the_head_starts_at_zero_so_that_all_classes_are_equally_likely(encoder):
    made = ViViT(tiny.config(encoder))
    assert bool((made(tiny.video(made)) == 0).all())


def test_the_random_start_has_the_stated_spread():
    made = ViViT(tiny.config("spatiotemporal", embed_dim=256, num_frames=16, image_size=(64, 64)))
    block, kernel = made.encoder.blocks[0], made.tokenizer.proj.weight
    fan_in = kernel[0].numel()
    assert kernel.std().item() == pytest.approx(1 / math.sqrt(fan_in), rel=0.03)
    assert kernel.abs().max() <= 2 / math.sqrt(fan_in) / 0.8796 + 1e-6
    assert made.encoder.pos_embed.std().item() == pytest.approx(0.02, rel=0.03)
    for weight in (*block.attn.qkv.weight.chunk(3), block.mlp.fc1.weight):
        bound = math.sqrt(6 / sum(weight.shape))
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    for zero in (block.attn.qkv.bias, block.attn.proj.bias, made.tokenizer.proj.bias, made.encoder.cls_token):
        assert bool((zero == 0).all())


@every_encoder
def test_gradients_reach_every_parameter(encoder):
    made = tiny.model(encoder).train()
    made(tiny.video(made)).pow(2).sum().backward()
    assert [name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@every_encoder
def test_a_result_does_not_depend_on_the_batch_it_is_in(encoder):
    made = tiny.model(encoder)
    video = tiny.video(made, batch=5)
    with torch.no_grad():
        together = made(video)
        alone = torch.cat([made(v[None]) for v in video])
        other_company = made(torch.cat((video[3:], video[:3])))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[3:], other_company[:2], atol=1e-5, rtol=1e-5)


@every_encoder
def test_bfloat16_autocast_stays_close_to_float32(encoder):
    made = tiny.model(encoder)
    video = tiny.video(made)
    with torch.no_grad():
        exact = made(video)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = made(video)
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()


@every_encoder
def test_a_model_in_bfloat16_takes_bytes(encoder):
    made = tiny.model(encoder).bfloat16()
    assert made(tiny.video(made)).dtype == torch.bfloat16


@every_encoder
def test_a_deep_copy_gives_the_same_and_shares_nothing(encoder):
    made = tiny.model(encoder)
    video = tiny.video(made)
    twin = copy.deepcopy(made)
    with torch.no_grad():
        before = made(video)
        assert bool((twin(video) == before).all())
        for p in twin.parameters():
            p.zero_()
        assert bool((made(video) == before).all())


@slower_guards
@every_encoder
def test_compiled_as_one_graph_a_model_gives_the_same(encoder):
    made = tiny.model(encoder, depth=1)
    video = tiny.video(made)
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(made, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(video), made(video), atol=1e-5, rtol=1e-5)


@every_encoder
def test_exported_a_model_gives_the_same(encoder):
    made = tiny.model(encoder, depth=1)
    video = tiny.video(made)
    with torch.no_grad():
        program = torch.export.export(made, (video,))
        torch.testing.assert_close(program.module()(video), made(video), atol=1e-5, rtol=1e-5)


@slower_guards
def test_gradients_of_a_compiled_model_are_those_of_the_model():
    made = tiny.model(depth=1)
    video = tiny.video(made)
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(made), backend="aot_eager", fullgraph=True)
    for m in (made, compiled):
        m(video).pow(2).sum().backward()
    expected = dict(made.named_parameters())
    for name, p in compiled.named_parameters():
        torch.testing.assert_close(p.grad, expected[name.removeprefix("_orig_mod.")].grad, atol=1e-4, rtol=1e-4)


@every_encoder
def test_resizing_to_the_same_size_changes_no_bit(encoder):
    made = tiny.model(encoder)
    video = tiny.video(made)
    with torch.no_grad():
        before = made(video)
        assert bool((made.resize(num_frames=6, image_size=(16, 24))(video) == before).all())


@every_encoder
def test_resized_models_take_other_lengths_and_sizes_and_keep_what_does_not_depend_on_them(encoder):
    made = tiny.model(encoder)
    kept = {name: p.clone() for name, p in made.named_parameters() if "pos_embed" not in name}
    made.resize(num_frames=10, image_size=(32, 16))
    assert made(tiny.video(made)).shape == (2, 3)
    assert all(bool((p == kept[name]).all()) for name, p in made.named_parameters() if name in kept)
    with pytest.raises(ValueError, match="tubelet depth 2 does not divide num_frames 7; use num_frames 6 or 8"):
        made.resize(num_frames=7)


@every_encoder
def test_an_optimizer_from_before_a_resize_trains_all_but_resized_positions(encoder):
    made = tiny.model(encoder).train()
    made.encoder.eval().requires_grad_(False)
    made.get_parameter(
        "encoder.norm.weight" if encoder != "factorised_encoder" else "encoder.spatial.norm.weight"
    ).requires_grad_(True)
    before = dict(made.named_parameters())
    frozen = {name for name, p in before.items() if not p.requires_grad}
    assert made.resize(num_frames=6) is made
    assert all(p is before[name] for name, p in made.named_parameters())  # the size is the same
    made.resize(num_frames=10)
    after = dict(made.named_parameters())
    assert {name for name, p in after.items() if p is not before[name]} == {
        "encoder.temporal.pos_embed" if encoder == "factorised_encoder" else "encoder.pos_embed"
    }
    assert {name for name, p in after.items() if not p.requires_grad} == frozen
    assert made.training
    assert not any(module.training for module in made.encoder.modules())
    optimizer = torch.optim.SGD(before.values(), lr=1.0)
    kernel = made.tokenizer.proj.weight.clone()
    made(tiny.video(made)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(made.tokenizer.proj.weight, kernel)


def test_a_model_without_numbers_is_resized():
    with torch.device("meta"):
        made = ViViT(tiny.model().config)
    made.resize(num_frames=10)
    assert {p.device.type for p in made.parameters()} == {"meta"}


def test_a_resize_to_no_frames_is_refused():
    with pytest.raises(ValueError, match="num_frames is 0; it must be above 0"):
        tiny.model().resize(num_frames=0)


def test_a_model_that_cannot_be_resized_stays_as_it_is():
    made = tiny.model()
    made.encoder.spatial.blocks[0].attn.qkv = nn.Sequential(made.encoder.spatial.blocks[0].attn.qkv)  # as LoRA wraps
    before, video = {name: tensor.clone() for name, tensor in made.state_dict().items()}, tiny.video(made)
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.qkv.*: a layer has been replaced; resize"):
        made.resize(num_frames=10, image_size=(32, 16))
    assert all(bool((tensor == before[name]).all()) for name, tensor in made.state_dict().items())
    assert made(video).shape == (2, 3)


def test_models_1_to_4_are_sensitive_to_the_order_of_frames_and_the_average_over_time_is_not():
    for encoder in tiny.NAMES:
        made = tiny.model(encoder, tubelet_size=(1, 8, 8))
        video = tiny.video(made)
        assert (made(video) - made(video.flip(1))).abs().max() > 1e-3
    made = tiny.model(temporal_depth=0, tubelet_size=(1, 8, 8))
    video = tiny.video(made)
    torch.testing.assert_close(made(video), made(video.flip(1)), atol=1e-5, rtol=1e-5)


def test_model_2_is_a_transformer_over_space_then_one_over_time():
    made = tiny.model()
    video = tiny.video(made)
    frames = []
    for t in range(3):  # each temporal position by itself
        tokens = made.tokenizer(made.normalize(video))[:, t]
        frames.append(made.encoder.spatial(tokens))
    torch.testing.assert_close(made.features(video), made.encoder.temporal(torch.stack(frames, dim=1)))


def test_mean_pooling_with_the_norm_after_it_is_the_norm_of_the_mean():
    made = tiny.model("spatiotemporal", pool="mean", norm_after_pool=True)
    seen = []
    made.encoder.blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    features = made.features(tiny.video(made))
    norm = nn.functional.layer_norm(seen[0].mean(1), (16,), made.encoder.norm.weight, made.encoder.norm.bias, 1e-6)
    torch.testing.assert_close(features, norm)


def test_a_parameter_that_is_there_starts_at_random_beside_others_on_the_meta_device():
    with torch.device("meta"):
        model = ViViT(tiny.config())
    model.encoder.spatial.pos_embed = torch.nn.Parameter(torch.full(model.encoder.spatial.pos_embed.shape, torch.nan))
    init_weights(model)
    assert 0.01 < model.encoder.spatial.pos_embed.std() < 0.03
    assert model.head.weight.is_meta
