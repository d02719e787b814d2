"""A run is a function of its config: interrupted, repeated or refactored, it gives the same numbers."""

import json
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from vivit.config import ModelConfig, ParallelConfig, replace
from vivit.data.video.decoder import Video
from vivit.engine import distributed
from vivit.engine import train as train_module
from vivit.engine.distributed import uses_compiler
from vivit.engine.losses import cross_entropy
from vivit.engine.optim import learning_rate
from vivit.engine.train import train
from vivit.model.layers import Block
from vivit.model.vivit import ViViT

from ..processes import forkserver
from .tiny import (
    assert_equal_runs,
    losses,
    metrics,
    tiny_config,
    train_and_stop,
    with_data,
    write_table,
)
from .worker import train_in_one_thread

GOLDEN = Path(__file__).parents[1] / "golden" / "losses.json"


# Before a save, with a save, and again and again: before each validation and before the last one.
@pytest.mark.parametrize("steps", [(1,), (2,), (3, 6, 9, 10)])
def test_a_run_stopped_at_a_step_and_continued_equals_the_uninterrupted_one_bit_for_bit(config, straight, steps):
    for step in steps:
        train_and_stop(config, step)
        lines = [line for line in metrics(config.run) if line["step"] >= step]
        assert [line["step"] for line in lines] == [step]  # no further step, and no validation
        assert "loss" in lines[0]
    train(config)
    assert_equal_runs(config.run, straight)


def test_a_run_that_decodes_each_clip_equals_one_with_cached_frames_bit_for_bit(config, straight, monkeypatch):
    decoded, decode, frames = [], Video._decode, Path(config.run) / "frames"
    monkeypatch.setattr(Video, "_decode", lambda self, wanted: decoded.append(self.path) or decode(self, wanted))
    train_and_stop(with_data(config, frame_cache=0.0), 4)
    assert len(decoded) > len(set(decoded))
    assert not frames.exists()
    decoded.clear()
    train_and_stop(config, 6)
    assert len(list(frames.iterdir())) == len(decoded)
    train(config)
    assert len(set(decoded)) == len(decoded)  # the rest of the run and its validations decode no video again
    assert not frames.exists()
    assert_equal_runs(config.run, straight)


def test_a_run_that_died_without_saving_goes_on_from_its_last_checkpoint(config, straight, monkeypatch, capsys):
    def die_after_7(step, **how):
        return learning_rate(step, **how) if step < 7 else 1 / 0

    monkeypatch.setattr(train_module, "learning_rate", die_after_7)
    with pytest.raises(ZeroDivisionError):
        train(config)
    monkeypatch.undo()
    partial = Path(config.run) / "checkpoints" / "step-00000007.partial"
    partial.mkdir()
    (partial / "__0_0.distcp").write_bytes(b"half")
    with (Path(config.run) / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    capsys.readouterr()
    train(config)
    assert "resuming after step 6 of 10" in capsys.readouterr().out
    assert not partial.exists()
    assert_equal_runs(config.run, straight)


@pytest.fixture(scope="module")
def accumulated(data_root, tmp_path_factory):
    """The run in micro-batches of 3, 3 and 2 clips."""
    config = tiny_config(data_root, tmp_path_factory.mktemp("accumulated") / "run")
    return train(replace(config, parallel=replace(config.parallel, micro_batch=3)))


def test_accumulation_inside_a_step_survives_a_stop_bit_for_bit(config, accumulated):
    config = replace(config, parallel=replace(config.parallel, micro_batch=3))
    train_and_stop(config, 5, signal.SIGINT)
    train(config)
    assert_equal_runs(config.run, accumulated)


def test_micro_batches_change_the_result_by_rounding_only(accumulated, straight):
    for ours, theirs in zip(metrics(accumulated), metrics(straight), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_activations_computed_again_change_nothing(config, straight):
    train(replace(config, parallel=replace(config.parallel, checkpoint_activations=True)))
    assert_equal_runs(config.run, straight)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # PyTorch's compiler asks for it
def test_compiled_blocks_train_like_the_model_and_are_validated_as_written(config, straight, monkeypatch):
    compiled_with_gradients = []

    def backend(graph, inputs):
        compiled_with_gradients.append(torch.is_grad_enabled())
        return graph.forward

    monkeypatch.setattr(Block, "compile", lambda self: nn.Module.compile(self, backend=backend))
    torch.compiler.reset()
    train(replace(config, parallel=replace(config.parallel, compile=True)))
    torch.compiler.reset()
    assert_equal_runs(config.run, straight)
    assert compiled_with_gradients
    assert all(compiled_with_gradients)


@pytest.mark.parametrize(
    ("steps", "triton", "expected"), [(1999, True, False), (2000, True, True), (2000, False, False)]
)
def test_only_long_runs_on_cuda_with_a_compiler_are_compiled_by_default(monkeypatch, steps, triton, expected):
    monkeypatch.setattr(distributed, "can_compile_for_cuda", lambda: bool(triton))
    settings = ParallelConfig()
    assert uses_compiler(settings, torch.device("cuda"), steps) is expected
    assert not uses_compiler(settings, torch.device("cpu"), steps)
    assert uses_compiler(replace(settings, compile=True), torch.device("cpu"), 1)
    assert not uses_compiler(replace(settings, compile=False), torch.device("cuda"), steps)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")  # more than this machine has cores
def test_the_number_of_workers_changes_nothing(config, straight):
    train(with_data(config, workers=4))
    assert_equal_runs(config.run, straight)


def test_dropout_and_readings_across_a_stop_survive_it_in_deterministic_mode(data_root, tmp_path):
    """All that depends on the past when it is done wrong: dropout; readings, validations, checkpoints out of step."""
    runs = []
    for name in ("straight", "stopped"):
        config = tiny_config(
            data_root, tmp_path / name, deterministic=True, log_every=4, eval_every=0.8, save_every=0.7
        )
        runs.append(replace(config, model=replace(config.model, dropout=0.1, drop_path=0.3)))
    try:
        train(runs[0])
        train_and_stop(runs[1], 5)
        train(runs[1])
    finally:
        torch.use_deterministic_algorithms(False)
    assert_equal_runs(runs[1].run, runs[0].run)
    assert [line["step"] for line in metrics(runs[0].run) if "loss" in line] == [4, 8, 10]


def random_start() -> list[float]:
    """Numbers of the distribution of random weights: PyTorch 2.11 draws others from a seed than 2.15."""
    return torch.nn.init.trunc_normal_(torch.empty(4), generator=torch.Generator().manual_seed(0)).tolist()


def test_a_refactor_shows_in_the_losses_kept_in_the_repository(config):
    """Ten steps of a tiny run, from the random weights that the kept ones had.

    In a process of its own, so that nothing that another test has left in this one changes a number.
    To accept a change on purpose: python -m tests.engine.test_exactness
    """
    kept = json.loads(GOLDEN.read_text())
    if random_start() != pytest.approx(kept["random_start"]):
        pytest.skip(f"PyTorch {torch.__version__} draws other random weights from a seed, so the losses are others")
    process = forkserver().Process(target=train_in_one_thread, args=(config,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert losses(config.run) == pytest.approx(kept["losses"], rel=1e-4)  # other processors round otherwise


@pytest.mark.parametrize(
    "encoder", ["spatiotemporal", "factorised_encoder", "factorised_self_attention", "factorised_dot_product"]
)
def test_each_model_learns_one_batch_by_heart(encoder):
    config = ModelConfig(
        classes={"a": ("x", "y", "z"), "b": ("u", "v")},
        encoder=encoder,
        pool="mean" if encoder in ("factorised_self_attention", "factorised_dot_product") else "cls",
        embed_dim=32,
        depth=2,
        temporal_depth=1,
        num_heads=2,
        num_frames=4,
        image_size=(16, 16),
        tubelet_size=(2, 8, 8),
    )
    model = ViViT(config)
    video = torch.randint(0, 256, (6, 4, 3, 16, 16), dtype=torch.uint8)
    labels = torch.tensor([[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        loss = cross_entropy(model(video), labels, (3, 2)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-2


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = write_table(Path(folder) / "data", train=26, val=6, broken=1)
        run = train(tiny_config(root, Path(folder) / "run"))
        GOLDEN.write_text(json.dumps({"random_start": random_start(), "losses": losses(run)}, indent=1) + "\n")
