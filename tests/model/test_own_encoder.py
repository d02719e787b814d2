"""An encoder of one's own, registered in the table, does everything that the four of the paper do."""

import pytest
import torch
from torch import nn

import vivit
from vivit.config import ModelConfig, from_dict, to_dict
from vivit.engine.train import train
from vivit.model.encoders import ENCODERS

from ..engine.tiny import tiny_config, write_table
from . import tiny


class Average(nn.Module):
    """The mean of all tokens, through one linear layer."""

    def __init__(self, config):
        super().__init__()
        self.linear = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, tokens, seeds=None):
        return self.linear(tokens.mean(dim=(1, 2)))


def test_a_registered_encoder_is_created_trained_saved_and_loaded(tmp_path, monkeypatch):
    monkeypatch.setitem(ENCODERS, "average", Average)
    config = tiny_config(write_table(tmp_path / "data", train=4, val=2), tmp_path / "run")
    model_config = vivit.config.replace(config.model, encoder="average")
    optim = vivit.config.replace(config.optim, epochs=1, warmup_epochs=0, layer_decay=1.0, batch_size=4)
    train(vivit.config.replace(config, model=model_config, optim=optim))
    model = vivit.from_pretrained(tmp_path / "run")
    assert isinstance(model.encoder, Average)
    assert model.config.encoder == "average"
    video = tiny.video(model)
    created = vivit.create(model.config, init=tmp_path / "run").eval()
    assert torch.equal(created(video), model(video))


def test_a_name_that_is_not_in_the_table_is_refused_when_the_config_is_made():
    with pytest.raises(ValueError, match="encoder is 'average'; allowed: factorised_dot_product"):
        ModelConfig(encoder="average")
    values = to_dict(ModelConfig()) | {"encoder": "spatiotemporall"}
    with pytest.raises(ValueError, match="did you mean 'spatiotemporal'"):
        from_dict(ModelConfig, values)
