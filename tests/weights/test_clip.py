"""The vision towers of CLIP and SigLIP against transformers, alone and next to their text towers."""

import json

import pytest
import torch
import transformers

import vivit
from vivit.config import ModelConfig
from vivit.errors import WeightsError

from .random_weights import randomise
from .test_image_models import assert_once
from .test_vjepa2 import TOLERANCE, relative

VISION = {"patch_size": 8, "image_size": 32, "hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 72}
VISION |= {"num_hidden_layers": 2}
TEXT = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 9}
KINDS = ("CLIP", "Siglip")


def their_tower(kind, *, complete=False, **changes):
    vision = VISION | changes
    if complete:
        config = getattr(transformers, f"{kind}Config")(vision_config=vision, text_config=TEXT)
        return randomise(getattr(transformers, f"{kind}Model")(config))
    return randomise(
        getattr(transformers, f"{kind}VisionModel")(getattr(transformers, f"{kind}VisionConfig")(**vision))
    )


def pooled(theirs, image):
    return getattr(theirs, "vision_model", theirs)(image).pooler_output


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tower_is_equal_as_a_model_of_one_frame(kind, complete, tmp_path):
    theirs = their_tower(kind, complete=complete)
    theirs.save_pretrained(tmp_path)
    ours = vivit.from_pretrained(tmp_path)
    assert_once(ours, vivit.weights.formats.read_files(tmp_path).tensors)
    assert ours.config.activation == {"CLIP": "quick_gelu", "Siglip": "gelu_tanh"}[kind]
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert relative(ours.features(image[:, None]), pooled(theirs, image)) < TOLERANCE


def config_for(folder, **changes):
    config = vivit.config.replace(ModelConfig(), encoder="factorised_encoder", temporal_depth=0, num_frames=6)
    return vivit.config.replace(vivit.weights.load.config_for_init(folder, config), **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_model_2_averages_its_features_of_the_frames_of_any_video(kind, tmp_path):
    theirs = their_tower(kind)
    theirs.save_pretrained(tmp_path)
    model = vivit.create(config_for(tmp_path), classes={}, init=tmp_path).eval()
    video = torch.randn(2, 6, 3, 32, 32)
    with torch.no_grad():
        expected = torch.stack([pooled(theirs, video[:, i]) for i in (1, 3, 5)]).mean(dim=0)
        assert relative(model.features(video), expected) < TOLERANCE
        back = vivit.from_pretrained(model.save_pretrained(tmp_path / "ours"))
        assert relative(back.features(video), expected) < TOLERANCE


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 1e-2])
def test_the_pooling_head_is_equal_for_tokens_of_any_size_and_any_epsilon(eps, tmp_path):
    """Epsilons far above and far below the variance of the tokens, also after our own files."""
    theirs = their_tower("Siglip", layer_norm_eps=eps)
    theirs.save_pretrained(tmp_path)
    ours = vivit.from_pretrained(tmp_path)
    back = vivit.from_pretrained(ours.save_pretrained(tmp_path / "ours"))
    x = torch.nn.functional.layer_norm(torch.randn(2, 16, 48), (48,), eps=0)  # variance 1
    with torch.no_grad():
        for variance in (100, 1, 0.05, 1e-4, 1e-6, 1e-12):
            expected = theirs.head(theirs.post_layernorm(x * variance**0.5))
            for model in (ours, back):
                assert relative(model.encoder.pool_and_norm(x * variance**0.5), expected) < TOLERANCE


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_a_tower_is_equal_for_dark_images_too(eps, tmp_path):
    theirs = their_tower("Siglip", layer_norm_eps=eps)
    for p in (*theirs.embeddings.parameters(), *theirs.encoder.layers[-1].mlp.fc2.parameters()):
        p.data.mul_(1e-3)
    theirs.save_pretrained(tmp_path)
    ours, image = vivit.from_pretrained(tmp_path), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert relative(ours.features(image[:, None]), pooled(theirs, image)) < TOLERANCE


def test_a_video_model_that_began_with_the_pooling_head_starts_another_and_keeps_its_function_in_a_file(tmp_path):
    their_tower("Siglip", layer_norm_eps=1e-3).save_pretrained(tmp_path)
    first = vivit.create(config_for(tmp_path, temporal_depth=1), classes=["a", "b"], init=tmp_path).eval()
    assert not first.config.pool_norm_tokens
    own = first.save_pretrained(tmp_path / "ours")
    with pytest.raises(WeightsError, match="pool_norm_tokens=False, not True"):
        vivit.from_pretrained(own, pool_norm_tokens=True)
    wanted = vivit.config.replace(first.config, pool_norm_tokens=True)  # as a preset has it
    again = vivit.create(wanted, init=own).eval()
    graph = torch.export.export(first, (torch.randn(2, 6, 3, 32, 32),)).module()
    video = torch.randn(2, 6, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(video), first(video), rtol=0, atol=0)
        torch.testing.assert_close(graph(video), first(video), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoder", ["spatiotemporal", "factorised_self_attention", "factorised_dot_product"])
def test_it_starts_models_that_pool_the_mean(kind, encoder, tmp_path):
    """Without class token and pooling head, on one tubelet: the mean of the normed patches."""
    theirs = their_tower(kind)
    theirs.save_pretrained(tmp_path)
    changes = {"encoder": encoder, "pool": "mean", "num_frames": 2}
    model = vivit.create(config_for(tmp_path, **changes), classes={}, init=tmp_path).eval()
    image = torch.randn(2, 3, 32, 32)
    tower = getattr(theirs, "vision_model", theirs)
    with torch.no_grad():
        x = tower.embeddings(image)[:, int(kind == "CLIP") :]
        x = tower.pre_layrnorm(x) if kind == "CLIP" else x
        expected = tower.post_layernorm(tower.encoder(inputs_embeds=x).last_hidden_state).mean(dim=1)
        features = model.features(torch.stack((torch.randn_like(image), image), dim=1))
    if encoder != "factorised_dot_product":  # half of whose heads see only their own token
        assert relative(features, expected) < TOLERANCE
    assert features.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("CLIP", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("CLIP", {"num_hidden_layers": 3}, "num_hidden_layers is 3; the file has 2 blocks"),
        ("CLIP", {"model_type": "metaclip_2"}, "is of a 'metaclip_2'"),
        ("Siglip", {"model_type": "siglip2"}, "not NaFlex"),
    ],
)
def test_a_config_of_another_kind_is_refused(kind, change, message, tmp_path):
    their_tower(kind).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(WeightsError, match=message):
        vivit.from_pretrained(tmp_path)


def test_a_tower_without_its_config_is_refused_since_activations_differ(tmp_path):
    their_tower("CLIP").save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"needs its config.json of a clip, .* is not in the folder"):
        vivit.from_pretrained(tmp_path)


def test_naflex_is_refused(tmp_path):
    config = transformers.Siglip2VisionConfig(**{k: v for k, v in VISION.items() if k != "image_size"}, num_patches=16)
    transformers.Siglip2VisionModel(config).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="not NaFlex"):
        vivit.from_pretrained(tmp_path)


def test_a_classifier_on_a_tower_is_refused(tmp_path):
    transformers.SiglipForImageClassification(transformers.SiglipConfig(vision_config=VISION)).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="classifier.weight, .*has no place|has no place in this model"):
        vivit.from_pretrained(tmp_path)
