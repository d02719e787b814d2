"""A long run does not grow."""

import json
from pathlib import Path

import pytest

from vivit.config import replace
from vivit.engine.train import train

from ..engine.tiny import tiny_config, with_data, write_table


@pytest.mark.drill
def test_resident_memory_stays_flat_over_ten_thousand_clips(tmp_path):
    config = with_data(tiny_config(write_table(tmp_path / "data"), tmp_path / "run"), workers=1)
    optim = replace(config.optim, epochs=1250)
    config = replace(config, optim=optim, eval_every=625, save_every=625, log_every=50)
    folder = train(config)
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    memory = [line["memory_mib"] for line in lines if "memory_mib" in line]
    print(f"10 000 clips: {memory[2]:.0f} MiB after 1 200, {memory[-1]:.0f} MiB at the end")
    assert memory[-1] < memory[2] + 60
