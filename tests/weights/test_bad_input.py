"""Everything that is not whole weights of a model we read: one clear error each, and no code is run."""

import json
import pickle
import re
from pathlib import Path

import msgpack
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

import vivit
from vivit.weights import formats, scenic

from ..parity.official import GOLDEN
from .models import CONFIGS
from .random_weights import randomise


@pytest.fixture
def folder(tmp_path):
    randomise(vivit.create(CONFIGS["model 2"])).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(folder, change):
    tensors = {k: v.clone() for k, v in safetensors.torch.load_file(folder / "model.safetensors").items()}
    change(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


def fails(source, match, error=ValueError, **options):
    """One error that begins with the source's name."""
    with pytest.raises(error, match=match) as caught:
        vivit.from_pretrained(source, **options)
    assert str(caught.value).startswith(str(source))


def fails_by_both_doors(source, match, error=ValueError):
    fails(source, match, error)
    with pytest.raises(error, match=match):
        vivit.create(CONFIGS["model 2"], init=source)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.999])
def test_a_cut_off_safetensors_file_is_refused(share, folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: int(len(data) * share)])
    fails_by_both_doors(folder, "broken or cut-off|not a checkpoint")


def test_own_weights_without_the_head_of_their_classes_are_refused(folder):
    edit(folder, lambda tensors: [tensors.pop(name) for name in ("head.weight", "head.bias")])
    fails_by_both_doors(folder, "config.json has classes, but there is no head")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_cut_off_scenic_checkpoint_is_refused(share, tmp_path):
    data = (GOLDEN / "m2_cls" / "checkpoint_123").read_bytes()
    (tmp_path / "checkpoint").write_bytes(data[: int(len(data) * share)])
    fails(tmp_path / "checkpoint", "not a Flax msgpack checkpoint", image_size=(32, 32))


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_cut_off_archive_is_refused(kind, share, tmp_path):
    path = tmp_path / "weights"
    arrays = {f"layer{i}": np.ones((50, 50), np.float32) for i in range(3)}
    if kind == "torch":
        torch.save({k: torch.from_numpy(v) for k, v in arrays.items()}, path)
    else:
        with path.open("wb") as file:
            np.savez(file, **arrays)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    fails_by_both_doors(path, "a broken or cut-off")


def test_damaged_bytes_inside_an_archive_are_noticed(tmp_path):
    path = tmp_path / "vit.npz"
    data = bytearray((GOLDEN / "image_vit" / "vit_original_names.npz").read_bytes())
    for i in range(len(data) // 2, len(data) // 2 + 200):
        data[i] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match="broken or cut-off .npz"):
        vivit.from_pretrained(path)


def test_a_tensor_of_another_shape_is_refused_by_its_name(folder):
    edit(folder, lambda t: t.update({"encoder.spatial.blocks.1.mlp.fc1.weight": torch.zeros(48, 23)}))
    fails_by_both_doors(folder, r"fc1.weight has shape \(48, 23\); this model takes \(48, 24\)")


def test_a_missing_tensor_is_refused_by_its_name(folder):
    edit(folder, lambda t: t.pop("encoder.temporal.norm.weight"))
    fails_by_both_doors(folder, "encoder.temporal.norm.weight is not in the file")


def test_an_additional_tensor_is_refused_by_its_name(folder):
    edit(folder, lambda t: t.update({"encoder.temporal.gate": torch.zeros(3)}))
    fails_by_both_doors(folder, "encoder.temporal.gate has no place in this model")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_refused_by_its_name(value, folder):
    edit(folder, lambda t: t["encoder.spatial.blocks.0.attn.qkv.weight"][3, 5].fill_(value))
    fails_by_both_doors(folder, "attn.qkv.weight holds NaN or Inf")


class Bomb:
    """Pickles into a call."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["torch", "torch before 1.6", "pickle"])
def test_a_pickle_with_code_inside_is_refused_and_not_run(how, tmp_path):
    path, ran = tmp_path / "weights.pth", tmp_path / "ran"
    content = {"patch_embed.proj.weight": torch.zeros(8, 3, 4, 4), "bomb": Bomb(ran)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    fails_by_both_doors(path, "would run code from the file, which never happens")
    assert not ran.exists()
    pickle.loads(pickle.dumps(Bomb(ran)))  # it would have
    assert ran.exists()


def test_a_numpy_file_with_pickled_objects_is_refused_and_not_run(tmp_path):
    path, ran = tmp_path / "vit.npz", tmp_path / "ran"
    np.savez(path, **{"embedding/kernel": np.array([Bomb(ran)], dtype=object)})
    fails(path, "npz")
    assert not ran.exists()


def test_plain_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("weights will follow")
    fails_by_both_doors(tmp_path / "notes.txt", "not a checkpoint: none of safetensors, PyTorch")
    (tmp_path / "empty").touch()
    fails(tmp_path / "empty", "the file is empty")
    (tmp_path / "map.msgpack").write_bytes(msgpack.packb({"epoch": 3}))
    fails(tmp_path / "map.msgpack", "no parameters under optimizer/target or params; it holds epoch")
    torch.save({"epoch": 3, "loss": [1.0]}, tmp_path / "state.pt")
    fails(tmp_path / "state.pt", "no state dict at the top, in 'model' or in 'state_dict'; it holds epoch, loss")


def test_a_pointer_of_git_lfs_is_named(folder):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
    (folder / "model.safetensors").write_text(pointer)
    with pytest.raises(ValueError, match="model.safetensors: a pointer of Git LFS to the file, .* git lfs pull"):
        vivit.from_pretrained(folder)


def test_folders_without_weights_are_refused_with_what_they_hold(tmp_path):
    (tmp_path / "empty").mkdir()
    fails_by_both_doors(tmp_path / "empty", "no model.safetensors in this folder; it holds nothing", FileNotFoundError)
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "videos" / name).touch()
    fails(tmp_path / "videos", "it holds a.mp4, b.mp4. Name the file", FileNotFoundError)


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        vivit.from_pretrained(tmp_path / "absent.safetensors")


def test_checkpoints_of_something_else_are_refused_by_what_they_hold(tmp_path):
    resnet = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(resnet, tmp_path / "resnet.pth")
    fails_by_both_doors(
        tmp_path / "resnet.pth", "neither a ViViT .* nor a VideoMAE, VideoPrism or V-JEPA 2; it holds conv1"
    )
    swin = torchvision.models.vit_b_16(weights=None, num_classes=2)  # a ViT in torchvision's names, which are not read
    safetensors.torch.save_file(swin.state_dict(), tmp_path / "other.safetensors")
    fails(tmp_path / "other.safetensors", "neither a ViViT")


def test_a_vit_with_parts_that_a_vivit_lacks_is_refused_by_their_names(tmp_path):
    timm = pytest.importorskip("timm")
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=4, qk_norm=True
    )
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"blocks.0.attn.q_norm.weight.* has no place in this model"):
        vivit.from_pretrained(tmp_path / "w.safetensors", num_heads=4)


def test_our_weights_without_their_config_are_refused(folder):
    (folder / "config.json").unlink()
    fails(folder, "our own weights without their config.json")


def test_a_broken_or_unknown_config_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"version": 2}))
    fails(folder, "config.json has version 2; this release reads 1")
    (folder / "config.json").write_text(json.dumps(config | {"model": config["model"] | {"dept": 2}}))
    fails(folder, "unknown setting 'dept'; did you mean 'depth'")
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json: not a JSON file"):
        vivit.from_pretrained(folder)


def test_a_config_that_does_not_fit_its_weights_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["model"]["depth"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    fails(folder, re.escape("encoder.spatial.blocks.2.norm1.weight is not in the file"))


def test_missing_shards_are_named(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    fails(folder, "names files that are not there: model-00001-of-00002.safetensors", FileNotFoundError)


def test_scenic_names_that_are_no_vivits_are_refused(tmp_path):
    params = scenic.read_msgpack(GOLDEN / "m1_cls" / "checkpoint_123")
    scenic.write_msgpack(tmp_path / "extra", params | {"Bottleneck/kernel": np.zeros((2, 2), np.float32)})
    fails(tmp_path / "extra", "'Bottleneck/kernel' is not a parameter of an official ViViT", image_size=(32, 32))
    short = {name: value for name, value in params.items() if "/key/" not in name}
    scenic.write_msgpack(tmp_path / "short", short)
    fails(tmp_path / "short", "qkv.weight", image_size=(32, 32))


# The hub, without a network


def test_a_hub_id_is_downloaded_only_where_no_local_path_has_the_name(folder, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **_: asked.append(repo) or str(folder))
    assert vivit.from_pretrained("someone/vivit-tiny").config == vivit.from_pretrained(folder).config
    assert asked == ["someone/vivit-tiny"]


def test_offline_the_error_says_which_files_to_bring(monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(repo, **_):
        raise LocalEntryNotFoundError("cannot connect")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(FileNotFoundError, match="get model.safetensors, config.json and preprocessor_config.json of"):
        vivit.from_pretrained("google/vivit-b-16x2-kinetics400")


def test_a_path_with_more_than_one_slash_is_no_hub_id(monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    for path in ("a/b/c", "weights.pth", "./a", "../a", "/a/b"):
        with pytest.raises(FileNotFoundError, match="not a hub id"):
            formats.read_files(path)
