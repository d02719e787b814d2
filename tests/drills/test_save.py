"""How long a step waits while a checkpoint of the base model is written: for docs/guides/scale.md."""

import time

import pytest
import torch

import vivit
from vivit.config import OptimConfig
from vivit.engine.checkpoint import Checkpoints
from vivit.engine.distributed import World
from vivit.engine.optim import EMA, build_optimizer


@pytest.mark.drill
def test_a_checkpoint_of_the_base_model_is_written_in_reasonable_time(tmp_path):
    model = vivit.create("ViViT-B/16x2 FE", classes={"action": tuple(map(str, range(400)))})
    optimizer = build_optimizer(model, OptimConfig(name="adamw", lr=1e-4))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    average = EMA(model, 0.999)
    checkpoints = Checkpoints(tmp_path, World(0, 1, torch.device("cpu")), keep=1)
    seconds = []
    for step in range(1, 5):
        started = time.monotonic()
        folder = checkpoints.save(model, optimizer, average, {"step": step})
        seconds.append(time.monotonic() - started)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{size / 2**30:.2f} GiB in {', '.join(f'{s:.1f}' for s in seconds)} s")
    assert size == pytest.approx(16 * sum(p.numel() for p in model.parameters()), rel=0.02)
    assert min(seconds) < 120
