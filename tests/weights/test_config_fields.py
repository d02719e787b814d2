"""Every field of every config class of transformers, changed: our numbers are still transformers', or we refuse.

The fields are those of the installed release, so that a new one is a failing test and not a silent difference.
"""

import json
import math

import pytest
import torch
import transformers as T

import vivit
from vivit.errors import WeightsError
from vivit.weights import config_fields
from vivit.weights.text_tower import load_text_tower

from .prism import NARROW, TEXT
from .random_weights import randomise
from .test_contradictions import DINO, IMAGE, JEPA, ONE, VIDEO
from .test_text_tower import padded_ids
from .test_vjepa2 import TOLERANCE, relative

TEXT_TOWER = ONE | {"num_hidden_layers": 1, "vocab_size": 9, "max_position_embeddings": 4}
PRISM = NARROW | {"num_labels": 5}


def towers(kind, **changes):
    config = getattr(T, f"{kind}Config")(vision_config=IMAGE, text_config=TEXT_TOWER, **changes)
    return getattr(T, f"{kind}Model")(config)


def prism_clip():
    return T.VideoPrismClipModel(T.VideoPrismConfig(vision_config=NARROW, text_config=TEXT))


IMAGE_CONFIGS = (
    *(T.ViTConfig, T.Dinov2Config, T.Dinov2WithRegistersConfig, T.DINOv3ViTConfig),
    *(T.CLIPVisionConfig, T.SiglipVisionConfig),
)

# Family → (its model with random weights, what of its output our features or logits are)
FAMILIES = {
    "ViT": (lambda: T.ViTForImageClassification(T.ViTConfig(**IMAGE, num_labels=3)), "logits"),
    "DINOv2": (lambda: T.Dinov2Model(T.Dinov2Config(**DINO)), "pooler_output"),
    "DINOv2 with registers": (
        lambda: T.Dinov2WithRegistersModel(T.Dinov2WithRegistersConfig(**DINO)),
        "pooler_output",
    ),
    "DINOv3": (
        lambda: T.DINOv3ViTModel(T.DINOv3ViTConfig(**IMAGE | {"hidden_size": 32, "num_register_tokens": 2})),
        "pooler_output",
    ),
    "CLIP": (lambda: T.CLIPVisionModel(T.CLIPVisionConfig(**IMAGE)), "pooler_output"),
    "CLIP with text": (lambda: towers("CLIP", projection_dim=8), "vision_model"),
    "SigLIP": (lambda: T.SiglipVisionModel(T.SiglipVisionConfig(**IMAGE)), "pooler_output"),
    "SigLIP without head": (
        lambda: T.SiglipVisionModel(T.SiglipVisionConfig(**IMAGE, vision_use_head=False)),
        "mean",
    ),
    "SigLIP with text": (lambda: towers("Siglip"), "vision_model"),
    "ViViT": (lambda: T.VivitForVideoClassification(T.VivitConfig(**VIDEO, tubelet_size=[2, 8, 8])), "logits"),
    "VideoMAE": (lambda: T.VideoMAEForVideoClassification(T.VideoMAEConfig(**VIDEO, patch_size=8)), "logits"),
    "V-JEPA 2": (lambda: T.VJEPA2Model(T.VJEPA2Config(**JEPA)), "mean"),
    "V-JEPA 2 with a probe": (lambda: T.VJEPA2ForVideoClassification(T.VJEPA2Config(**JEPA)), "logits"),
    "VideoPrism": (lambda: T.VideoPrismVisionModel(T.VideoPrismVisionConfig(**PRISM)), "mean"),
    "VideoPrism, video-text": (lambda: T.VideoPrismVideoModel(T.VideoPrismVisionConfig(**PRISM)), "pooler_output"),
    "VideoPrism, classifier": (
        lambda: T.VideoPrismForVideoClassification(T.VideoPrismVisionConfig(**PRISM)),
        "logits",
    ),
    "VideoPrism with text": (prism_clip, "video_model"),
}


# Sizes of parts that are not read; with others, transformers does not load the file
UNREAD = ("pred_", "decoder_", "projection_dim", "text_config")
# Settings of transformers' classes, and what other tests change
ELSEWHERE = {"return_dict", "attn_implementation", "_attn_implementation", "model_type", "transformers_version"}
ELSEWHERE |= {"architectures", "num_labels"}


def other_values(name, value):
    """Values that a field may have instead of `value`."""
    if name == "id2label":
        return [{i: f"class {i}" for i in value or {}}]
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, 2 * value]
        case float():
            return [3 * value + 0.1]
        case str():
            return ["gelu_new", "quick_gelu", "relu"] if name.endswith("_act") else ["other"]
        case None:
            return [1, True, 0.5, "other"]
        case [*items] if items and all(type(x) is int for x in items):
            return [[x + 1 for x in items], items[::-1]]
        case list() | tuple():
            return [["other"]]
    return [{"other": 1}]


def is_valid(kind, config):
    """Tell whether transformers takes the values of a config.json."""
    try:
        kind.from_dict(json.loads(json.dumps(config)))
    except Exception:  # of many kinds
        return False
    return True


def compute_theirs(model, of, video):
    """What transformers computes of a video (B, T, C, H, W), or of its only frame."""
    if of in ("vision_model", "video_model"):
        model, of = getattr(model, of), "pooler_output"
    is_image = isinstance(model.config, IMAGE_CONFIGS)
    options = {"skip_predictor": True} if isinstance(model, T.VJEPA2Model) else {}
    out = model(video[:, 0] if is_image else video, **options)
    return out.last_hidden_state.mean(dim=1) if of == "mean" else out[of].reshape(len(video), -1)


def compare(folder, kind, of):
    """Return how far our numbers are from transformers', 0 where we refuse the folder."""
    try:
        ours = vivit.from_pretrained(folder)
    except WeightsError:
        return 0.0
    theirs = kind.from_pretrained(folder, dtype=torch.float32).eval()
    c = ours.config
    video = torch.rand(2, c.num_frames, 3, *c.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return relative(ours(video) if of == "logits" else ours.features(video), compute_theirs(theirs, of, video))


@pytest.fixture
def saved(family, tmp_path):
    """(folder with the model of a family, its class and that of its config, its config.json with every field)."""
    theirs = randomise(FAMILIES[family][0]())
    theirs.save_pretrained(tmp_path)
    return tmp_path, type(theirs), type(theirs.config), json.loads(json.dumps(theirs.config.to_dict()))


def write(folder, config):
    (folder / "config.json").write_text(json.dumps(config))


def of_tower(config):
    """(the names before the fields of the tower that is read, its fields)."""
    where = () if "vision_config" not in config else ("vision_config",)
    return where, config["vision_config"] if where else config


def changed(config, where, fields):
    """Return `config` with other fields, at the top or in the config of the tower."""
    return config | {where[0]: config[where[0]] | fields} if where else config | fields


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_fields_that_are_not_read_change_nothing_in_transformers(family, saved):
    """All of them at once, with a value of each type that transformers takes."""
    folder, kind, config_kind, config = saved
    where, tower = of_tower(config)
    known = {"clip_vision_model": "clip", "siglip_vision_model": "siglip"}.get(tower["model_type"], tower["model_type"])
    names = sorted((config_fields.NEUTRAL | config_fields.UNUSED.get(known, set())) - ELSEWHERE)
    names = [name for name in names if not name.startswith(UNREAD)]
    for i in range(4):
        fields = {}
        for name in names:
            value = dict(enumerate(other_values(name, tower.get(name)))).get(i)
            if value is not None and is_valid(config_kind, changed(config, where, {name: value})):
                fields[name] = value
        write(folder, changed(config, where, fields))
        vivit.from_pretrained(folder)  # not refused
        assert compare(folder, kind, FAMILIES[family][1]) < TOLERANCE, sorted(fields)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_another_value_of_any_other_field_gives_equal_numbers_or_is_refused(family, saved):
    folder, kind, config_kind, config = saved
    of, (where, tower) = FAMILIES[family][1], of_tower(config)
    wrong = []
    for name in set(tower) - config_fields.NEUTRAL:
        if name.startswith(UNREAD):
            continue
        without = {k: v for k, v in tower.items() if k != name}
        mutants = [tower | {name: value} for value in other_values(name, tower[name])] + [without]
        for mutant in mutants:
            write(folder, mutated := config | {where[0]: mutant} if where else mutant)
            if not is_valid(config_kind, mutated):
                continue
            try:
                difference = compare(folder, kind, of)
            except (RuntimeError, ValueError):  # transformers does not load it
                difference = 0.0 if mutant is without else math.inf
            if not difference < TOLERANCE:
                wrong.append((name, mutant.get(name, "left out"), difference))
    assert not wrong


@pytest.mark.parametrize("family", FAMILIES)
def test_a_field_that_nobody_knows_is_refused_by_its_name(family, saved):
    folder, _, _, config = saved
    where, _ = of_tower(config)
    for at in {(), where}:
        write(folder, changed(config, at, {"use_new_norm": False}))
        with pytest.raises(
            WeightsError, match=r"config\.json has use_new_norm False, which this release does not know"
        ):
            vivit.from_pretrained(folder)
    write(folder, changed(config, where, {"use_new_norm": None, "pruned_heads": {}}))
    vivit.from_pretrained(folder)
    write(folder, changed(config, where, {"pruned_heads": {"0": [1]}}))
    with pytest.raises(WeightsError, match="pruned_heads is .* attention heads are missing"):
        vivit.from_pretrained(folder)


@pytest.mark.slow
def test_another_value_of_any_field_of_a_text_tower_gives_equal_vectors_or_is_refused(tmp_path):
    theirs = randomise(prism_clip())
    theirs.save_pretrained(tmp_path)
    config = json.loads(json.dumps(theirs.config.to_dict()))
    ids, mask = padded_ids([4, 9])
    wrong = []
    for name, value in config["text_config"].items():
        for other in [] if name in ELSEWHERE else other_values(name, value):
            write(tmp_path, mutated := config | {"text_config": config["text_config"] | {name: other}})
            if not is_valid(type(theirs.config), mutated):
                continue
            try:
                ours = load_text_tower(tmp_path)
            except WeightsError:
                continue
            try:
                theirs = type(theirs).from_pretrained(tmp_path, dtype=torch.float32)
            except RuntimeError:
                wrong.append((name, other, "transformers does not load it"))
                continue
            with torch.no_grad():
                expected = theirs.text_model(ids, attention_mask=mask.long()).pooler_output
                difference = relative(ours(ids, mask), expected)
            if not difference < TOLERANCE:
                wrong.append((name, other, difference))
    assert not wrong
