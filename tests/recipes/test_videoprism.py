"""The recipes for VideoPrism start from its weights, and the probe leaves its encoder as it is."""

import json

import torch

import vivit
from vivit.config import replace
from vivit.recipes import RECIPES
from vivit.recipes.videoprism import BASE

from ..engine.tiny import write_table
from ..weights.prism import save, their_model


def config_of(name, tmp_path, kind="vision"):
    weights = save(their_model(kind, num_frames=4), tmp_path / "prism", "Hugging Face")
    table = write_table(tmp_path, label_sets=1)
    config = RECIPES[name](vivit.DataConfig(root=str(table), workers=0), str(weights))
    optim = replace(config.optim, epochs=1, batch_size=4, warmup_epochs=0)
    return weights, replace(config, optim=optim, run=str(tmp_path / "run"), eval_every=1)


def test_the_probe_trains_pooling_and_head_and_nothing_else(tmp_path):
    weights, config = config_of("videoprism-probe", tmp_path)
    trained = vivit.from_pretrained(vivit.train(config))
    before = vivit.from_pretrained(weights).state_dict()
    assert trained.config.attention_pool
    for name, value in trained.state_dict().items():
        if name.startswith(("head.", "encoder.temporal.attention_pool.")):
            assert value.abs().sum() > 0, name
        else:
            assert torch.equal(value, before[name]), name
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows


def test_fine_tuning_trains_every_layer_also_from_a_video_text_model(tmp_path):
    weights, config = config_of("videoprism-finetune", tmp_path, "video-text")
    assert (config.model.attention_pool_ratio, config.model.unit_features, config.model.joint_depth) == (2.0, False, 2)
    trained = vivit.from_pretrained(vivit.train(config))
    before = vivit.from_pretrained(weights).state_dict()
    moved = [name for name, value in trained.state_dict().items() if not torch.equal(value, before[name])]
    blocks = {name.rpartition(".blocks.")[0] for name in moved if ".blocks." in name}
    assert blocks == {"encoder.spatial", "encoder.temporal"}


def test_without_weights_the_model_is_the_base_model():
    assert RECIPES["videoprism-probe"]().model == BASE
    assert (BASE.grid, BASE.embed_dim, BASE.depth, BASE.temporal_depth) == ((16, 16, 16), 768, 12, 4)
