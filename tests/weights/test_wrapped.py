"""Our own weights under other file names, and under the prefixes that training loops put before their names."""

import json

import pytest
import safetensors.torch
import torch
import transformers
from torch import nn

import vivit
from vivit.errors import WeightsError

from .models import BASE
from .random_weights import randomise
from .test_image_models import assert_equal
from .test_save import low_rank
from .test_video_models import their_video_mae


@pytest.fixture
def model(tmp_path):
    model = randomise(vivit.create(BASE))
    model.save_pretrained(tmp_path)
    return model


def same(model, source):
    loaded = vivit.from_pretrained(source)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    return loaded


@pytest.mark.parametrize("name", ["model.safetensors", "other.safetensors", "model.pt", "epoch=3.ckpt", "weights"])
def test_a_file_of_our_weights_finds_its_config_by_any_name(name, model, tmp_path):
    if name.endswith("safetensors"):
        (tmp_path / "model.safetensors").rename(tmp_path / name)
    else:
        torch.save(model.state_dict(), tmp_path / name)
    assert same(model, tmp_path / name).config == model.config


def test_our_config_says_nothing_about_other_weights_in_its_folder(model, tmp_path):
    theirs = randomise(their_video_mae(transformers.VideoMAEForVideoClassification)).state_dict()
    safetensors.torch.save_file(theirs, tmp_path / "mae.safetensors")
    sizes = {"num_heads": 4, "image_size": (32, 32), "num_frames": 4}
    assert vivit.from_pretrained(tmp_path / "mae.safetensors", **sizes).load_report.format == "Hugging Face VideoMAE"


def test_one_of_several_files_is_refused_with_the_folder_to_give(model, tmp_path):
    state = model.state_dict()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = {name: names[i % 2] for i, name in enumerate(state)}
    for file in names:
        tensors = {name: tensor for name, tensor in state.items() if index[name] == file}
        safetensors.torch.save_file(tensors, tmp_path / file)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    same(model, tmp_path)
    with pytest.raises(WeightsError, match="index.json: holds no tensors; give the folder"):
        vivit.from_pretrained(tmp_path / "model.safetensors.index.json")
    for file in names:
        with pytest.raises(WeightsError, match=r"one of the files that model\.safetensors\.index\.json lists; give"):
            vivit.from_pretrained(tmp_path / file)


def lightning(model):
    return {"state_dict": {f"net.{name}": x for name, x in model.state_dict().items()} | {"loss.weight": torch.ones(3)}}


def averaged(model):
    return torch.optim.swa_utils.AveragedModel(model).state_dict()


def inner_compile(model):
    model.encoder = torch.compile(model.encoder, backend="eager")
    return model.state_dict()


@pytest.mark.parametrize("wrap", [lightning, averaged, inner_compile])
def test_names_under_a_prefix_are_found_and_the_rest_is_in_the_report(wrap, model, tmp_path):
    state = model.state_dict()
    torch.save(wrap(model), tmp_path / "model.pt")
    loaded = vivit.from_pretrained(tmp_path / "model.pt")
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    ignored = {row.sources[0]: row.reason for row in loaded.load_report.rows if row.status == "ignored"}
    rest = {lightning: {"loss.weight": "not under net."}, averaged: {"n_averaged": "not under module."}}
    assert ignored == rest.get(wrap, {})


def test_a_replaced_head_is_named(model, tmp_path):
    nn.utils.parametrizations.weight_norm(model.head)
    torch.save({f"net.{name}": x for name, x in model.state_dict().items()}, tmp_path / "model.pt")
    with pytest.raises(
        WeightsError, match=r"no head\.weight, but net\.head\.bias; net\.head\.parametrizations.*: merge"
    ):
        vivit.from_pretrained(tmp_path / "model.pt")


def test_unmerged_low_rank_layers_are_named(model, tmp_path):
    low_rank(model)
    torch.save({f"base_model.model.{name}": x for name, x in model.state_dict().items()}, tmp_path / "model.pt")
    with pytest.raises(
        WeightsError, match=r"base_model\.model\..*fc1\.base_layer\.weight.* has no place in this model"
    ):
        vivit.from_pretrained(tmp_path / "model.pt")


def test_our_weights_under_a_prefix_without_their_config_are_known_as_ours(model, tmp_path):
    torch.save(lightning(model), tmp_path / "model.pt")
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match="our own weights without their config.json"):
        vivit.from_pretrained(tmp_path / "model.pt")


@pytest.mark.parametrize("qv_bias", [True, False])
def test_a_video_mae_without_a_head_has_no_prefix(qv_bias, tmp_path):
    theirs = their_video_mae(transformers.VideoMAEModel, use_mean_pooling=False, qv_bias=qv_bias)
    theirs.save_pretrained(tmp_path)
    ours = vivit.from_pretrained(tmp_path)
    video = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        assert_equal(ours.features(video), theirs(video).last_hidden_state.mean(dim=1))
    pooled = their_video_mae(transformers.VideoMAEModel)
    pooled.save_pretrained(tmp_path)
    ours = vivit.from_pretrained(tmp_path)
    with torch.no_grad():
        assert_equal(ours.features(video), ours.encoder.norm(pooled(video).last_hidden_state.mean(dim=1)))
