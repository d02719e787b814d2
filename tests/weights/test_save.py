"""What is saved can be loaded: anything else is refused before a file changes."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import vivit
from vivit.config import Preprocessing, replace

from .models import BASE, pixels
from .random_weights import randomise


class LowRank(nn.Module):
    """A linear layer with a low-rank update, as LoRA has before it is merged."""

    def __init__(self, base):
        super().__init__()
        self.base_layer, self.lora_A = base, nn.Linear(base.in_features, 2, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.lora_A(x).mean()


def another_head(model):
    model.head = nn.Linear(model.head.in_features, 10)


def low_rank(model):
    model.encoder.spatial.blocks[0].mlp.fc1 = LowRank(model.encoder.spatial.blocks[0].mlp.fc1)


def weight_norm(model):
    nn.utils.parametrizations.weight_norm(model.head)


def extra_layer(model):
    model.extra = nn.Linear(2, 2)


def no_head(model):
    model.head = nn.Identity()


def integers(model):
    model.head.weight.requires_grad_(False)
    model.head.weight.data = model.head.weight.to(torch.int8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (another_head, r"head\.weight is \(10, 24\), not \(3, 24\) as model\.config says.*classes=.*torch\.save"),
        (low_rank, r"mlp\.fc1\.base_layer\.bias is no parameter of this ViViT.*merge.*torch\.save"),
        (weight_norm, r"head\.parametrizations\.weight\.original0 is no parameter.*parametrizations.*torch\.save"),
        (extra_layer, r"extra\.bias is no parameter"),
        (no_head, r"head\.bias is missing"),
        (integers, r"head\.weight holds int8 numbers"),
    ],
)
def test_a_model_that_would_not_load_is_not_saved(change, message, tmp_path):
    model = randomise(vivit.create(BASE))
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    change(model)
    with pytest.raises(ValueError, match=message):
        model.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_compiled_parts_are_saved_under_the_names_of_the_model(tmp_path):
    model = randomise(vivit.create(BASE))
    state, video = model.state_dict(), pixels(BASE)
    with torch.no_grad():
        expected = model(video)
        model.encoder = torch.compile(model.encoder, backend="eager")
        model.save_pretrained(tmp_path)
        back = vivit.from_pretrained(tmp_path)
        assert torch.equal(back(video), expected)
    assert list(back.state_dict()) == list(state)


def test_settings_of_numpy_are_saved_as_plain_values(tmp_path):
    labels = np.array(["sit", "run", "sit"])
    pixel = Preprocessing(mean=(np.float32(0.25), 0.5, 0.5), frame_stride=np.float64(4))
    model = vivit.create(replace(BASE, preprocessing=pixel), classes=np.unique(labels), depth=np.int64(2))
    model.resize(num_frames=np.int64(4)).save_pretrained(tmp_path)
    assert vivit.from_pretrained(tmp_path).config == model.config
    saved = json.loads((tmp_path / "config.json").read_text())["model"]
    assert (saved["classes"], saved["num_frames"]) == ({"label": ["run", "sit"]}, 4)


def test_a_config_that_no_json_holds_leaves_the_old_files(tmp_path):
    model = vivit.create(BASE)
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model.config = replace(BASE, norm_eps=Fraction(1, 10**6))
    with torch.no_grad():
        model.head.bias.add_(1)
    with pytest.raises(TypeError, match="Fraction is not JSON serializable"):
        model.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
