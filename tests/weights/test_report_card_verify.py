"""What is said about weights: the load report, the model card, the check of published logits."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
import transformers

import vivit
from vivit.weights import hub, load, verify

from ..parity.official import GOLDEN
from .models import CONFIGS, pixels
from .random_weights import randomise

ROOT = Path(__file__).parents[2]


def test_the_report_of_a_source_is_text_with_a_one_line_sum(tmp_path):
    text = load.describe_loading(GOLDEN / "m2_cls" / "checkpoint_123", image_size=(32, 32))
    first, *lines = text.splitlines()
    assert first.startswith("scenic checkpoint from ")
    assert first.endswith(": 72 loaded")
    fused = next(line for line in lines if "encoder.spatial.blocks.0.attn.qkv.weight" in line)
    assert "query/kernel" in fused
    assert "value/kernel" in fused


def test_the_report_of_an_initialisation_names_what_is_inflated_and_what_is_new(tmp_path):
    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 4, "mlp_ratio": 2, "num_frames": 8, "image_size": (48, 48)}
    text = load.describe_loading(GOLDEN / "image_vit" / "vit_original_names.npz", preset="ViViT-B/8x2 FE", **sizes)
    assert "inflated     embedding/kernel -> tokenizer.proj.weight  (central_frame to 2 frames)" in text
    assert (
        "interpolated Transformer/posembed_input/pos_embedding -> encoder.spatial.pos_embed  (grid 4 x 4 to 6 x 6)"
        in text
    )
    assert "initialised  encoder.temporal.pos_embed  (an image model has no temporal layers)" in text
    assert "ignored      head/kernel  (head of the image model)" in text


def test_a_random_start_has_no_report():
    assert vivit.create(CONFIGS["model 1"]).load_report is None


def test_the_model_card_says_what_the_model_is(tmp_path):
    model = vivit.create(CONFIGS["model 2"])
    card = hub.model_card(model, "me/runner", results={"top-1, 4 x 3 views": 79.9}, recipe="AdamW, 30 epochs")
    for part in (
        "library_name: vivit",
        'vivit.from_pretrained("me/runner")',
        "run, jump, sit",
        "| encoder | factorised_encoder |",
        "| frame_stride | 2 |",
        "| top-1, 4 x 3 views | 79.9 |",
        "AdamW, 30 epochs",
    ):
        assert part in card, part


def test_push_to_hub_uploads_the_folder_and_its_card(tmp_path, monkeypatch):
    calls = {}

    class Api:
        def create_repo(self, repo_id, *, private, exist_ok):
            calls["repo"] = (repo_id, private, exist_ok)

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            calls["model"] = vivit.from_pretrained(folder_path)
            with open(f"{folder_path}/README.md") as file:
                calls["card"] = file.read()

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    model = randomise(vivit.create(CONFIGS["model 2"]))
    address = model.push_to_hub("me/runner", results={"top-1": 50}, private=True)
    assert address == "https://huggingface.co/me/runner"
    assert calls["repo"] == ("me/runner", True, True)
    assert "| top-1 | 50 |" in calls["card"]
    video = pixels(model.config)
    with torch.no_grad():
        assert torch.equal(calls["model"].eval()(video), model(video))


def test_verify_compares_logits_with_the_published_ones(tmp_path, monkeypatch):
    model = randomise(vivit.create(CONFIGS["model 1"], num_frames=8, image_size=(224, 224), tubelet_size=(2, 56, 56)))
    model.save_pretrained(tmp_path / "model")
    clip = np.random.default_rng(0).integers(0, 256, (8, 300, 400, 3), dtype=np.uint8)
    np.save(tmp_path / "clip.npy", clip)
    release = verify.Release("tiny", "spatiotemporal", 24, None, 3, "nothing", (1.0, 2.0, 3.0))
    monkeypatch.setattr(verify, "RELEASES", (release,))
    with pytest.raises(ValueError, match="first logits .* published"):
        verify.verify(tmp_path / "model", tmp_path / "clip.npy")
    with torch.no_grad():
        logits = model(verify.read_clip(tmp_path / "clip.npy", model.config)[None])[0].tolist()
    monkeypatch.setattr(verify, "RELEASES", (dataclasses.replace(release, values=tuple(logits)),))
    assert "Logits: equal." in verify.verify(tmp_path / "model", tmp_path / "clip.npy")
    assert "not checked; give the clip" in verify.verify(tmp_path / "model")


def test_verify_says_what_it_could_not_check(tmp_path):
    vivit.create(CONFIGS["model 2"], image_size=(224, 224)).save_pretrained(tmp_path)
    assert "Nothing to compare: its shape is none of those that verify knows: ViViT-B/16x2" in verify.verify(tmp_path)
    epic = vivit.create(
        "ViViT-L/16x2 FE", classes={"noun": [str(i) for i in range(300)], "verb": [str(i) for i in range(97)]}, depth=1
    )
    found = verify.find_release(epic.config)
    assert found is not None
    assert found.name == "ViViT-L/16x2 FE, EPIC-Kitchens"


def test_verify_prepares_the_clip_as_transformers_does(tmp_path):
    clip = np.random.default_rng(0).integers(0, 256, (2, 270, 360, 3), dtype=np.uint8)
    np.save(tmp_path / "clip.npy", clip)
    config = vivit.create(CONFIGS["model 1"], num_frames=2, image_size=(224, 224)).config
    ours = verify.read_clip(tmp_path / "clip.npy", config)
    processor = transformers.VivitImageProcessor(do_normalize=False)
    theirs = processor(list(clip), return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(F.to_dtype(ours, torch.float32, scale=True) * 2 - 1, theirs, atol=1e-5, rtol=0)


def test_the_guides_example_of_a_report_is_what_the_command_prints(monkeypatch):
    monkeypatch.chdir(ROOT)
    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 4, "mlp_ratio": 2, "num_frames": 8, "image_size": (48, 48)}
    source = "tests/golden/image_vit/vit_original_names.npz"
    printed = load.describe_loading(source, preset="ViViT-B/8x2 FE", temporal_depth=1, **sizes).splitlines()
    guide = (ROOT / "docs/guides/weights.md").read_text().split("```")
    block = next(part for part in guide if part.startswith(f"\nJAX ViT from {source}"))
    example = [line for line in block.strip("\n").splitlines() if line.strip() != "…"]
    assert len(example) > 8
    assert [line for line in printed if line in example] == example
