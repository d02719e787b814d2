"""The plan of a run, held to PyTorch's own books and to arithmetic by hand."""

import gc
import math
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from vivit.cli.plan import run as run_plan
from vivit.config import AugmentConfig, Config, ModelConfig, OptimConfig, ParallelConfig, replace
from vivit.engine.device import autocast
from vivit.engine.distributed import World, parallelize
from vivit.engine.memory import TrainingCost, saved_bytes, training_cost
from vivit.engine.optim import freeze
from vivit.engine.plan import Hardware, format_plans, plan
from vivit.model.vivit import ViViT

ENCODERS = {
    "spatiotemporal": "cls",
    "factorised_encoder": "cls",
    "factorised_self_attention": "mean",
    "factorised_dot_product": "mean",
}
CPU = torch.device("cpu")


def config_of(encoder: str, *, precision="float32", checkpointed=False, **changes) -> Config:
    sizes = {"embed_dim": 32, "depth": 3, "temporal_depth": 2, "num_heads": 4, "num_frames": 4}
    sizes |= {"image_size": (32, 32), "tubelet_size": (2, 8, 8), "classes": {"action": ("run", "swim")}}
    model = ModelConfig(encoder=encoder, pool=ENCODERS[encoder], **(sizes | changes))
    return Config(model=model, precision=precision, parallel=ParallelConfig(checkpoint_activations=checkpointed))


def saved_in_a_real_forward_pass(model: nn.Module, clips: int, precision: str) -> int:
    config, tensors = model.config, []
    video = torch.randint(256, (clips, config.num_frames, 3, *config.image_size), dtype=torch.uint8)

    def keep(tensor):
        tensors.append(tensor)  # all of them live at once, so equal addresses are the same memory
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), autocast(CPU, precision):
        model(video)
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    for parameter in model.parameters():
        sizes.pop(parameter.data_ptr(), None)
    return sum(sizes.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_activations_of_the_plan_are_those_that_a_real_forward_pass_saves(encoder, precision):
    config = config_of(encoder, precision=precision, dropout=0.1, drop_path=0.2)
    needs = training_cost(config)
    for clips in (2, 5):
        saved = saved_in_a_real_forward_pass(ViViT(config.model).train(), clips, precision)
        assert needs.fixed_bytes + clips * needs.bytes_per_clip == saved


def test_the_activations_of_model_1_are_those_counted_by_hand():
    config = config_of("spatiotemporal")
    n, d, heads, depth = 2 * 4 * 4 + 1, 32, 4, 3
    norm = d + 2  # its input, mean and deviation
    attention = d + 3 * d + d + heads  # its input, queries keys values, its result, log of the sum
    mlp = d + 4 * d + 4 * d  # its input, before and after the GELU
    block = norm + attention + norm + mlp
    seen = norm + d + 2 * d  # what the last block's class token attends to: norm, its result, keys and values
    read = d + (d + heads) + norm + mlp + norm + d  # the class token: query, result, MLP, the last norm and its result
    tubelets = (n - 1) * 3 * 2 * 8 * 8
    assert saved_bytes(config, 1) == 4 * (tubelets + n * (depth - 1) * block + n * seen + read)


@pytest.mark.parametrize(
    ("encoder", "precision", "checkpointed", "lowest"),
    [
        ("spatiotemporal", "float32", False, 0.95),
        ("factorised_dot_product", "bfloat16", False, 0.95),
        ("factorised_self_attention", "float32", True, 0.75),  # inputs are freed before the largest block's turn
        ("factorised_encoder", "bfloat16", True, 0.75),
    ],
)
def test_the_peak_of_memory_lies_between_the_activations_and_these_with_all_gradients(
    encoder, precision, checkpointed, lowest
):
    config = config_of(
        encoder, precision=precision, checkpointed=checkpointed, depth=5, embed_dim=64, image_size=(64, 64)
    )
    model = parallelize(ViViT(config.model).train(), config.parallel, World(0, 1, CPU), bfloat16=False)
    video = torch.zeros(3, 4, 3, 64, 64, dtype=torch.uint8)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        with autocast(CPU, precision):
            logits = model(video)
        logits.float().sum().backward()
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    allocated = torch.tensor([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).cumsum(0)
    saved, gradients = saved_bytes(config, 3), sum(4 * p.numel() for p in model.parameters())
    assert lowest * saved < allocated.max().item() < 1.05 * (saved + gradients)


def test_frozen_layers_below_the_trained_ones_keep_nothing():
    config = config_of("factorised_encoder")
    config = replace(config, optim=OptimConfig(freeze=("tokenizer", "encoder.spatial")))
    model = ViViT(config.model).train()
    freeze(model, config.optim.freeze)
    assert saved_bytes(config, 2) == saved_in_a_real_forward_pass(model, 2, "float32")
    needs = training_cost(config)
    assert needs.parameters - needs.trainable == sum(
        p.numel() for part in (model.tokenizer, model.encoder.spatial) for p in part.parameters()
    )


def test_operations_are_those_of_the_matrix_products_by_hand():
    n, d = 2 * 4 * 4 + 1, 32
    block = n * (3 * d * d + d * d + 8 * d * d) + 2 * n * n * d  # projections and MLP; queries x keys, weights x values
    last = n * 2 * d * d + (d * d + d * d + 8 * d * d) + 2 * n * d  # of which only the class token is computed
    forward = (n - 1) * 3 * 2 * 8 * 8 * d + 2 * block + last + d * 2
    assert training_cost(config_of("spatiotemporal")).flops_per_clip == 3 * 2 * forward
    assert training_cost(config_of("spatiotemporal", checkpointed=True)).flops_per_clip == 4 * 2 * forward


NEEDS = TrainingCost(parameters=1000, trainable=600, flops_per_clip=10**9, fixed_bytes=100, bytes_per_clip=1000)


def run_with(strategy="ddp", **optim) -> Config:
    return Config(optim=OptimConfig(**({"batch_size": 64} | optim)), parallel=ParallelConfig(strategy=strategy))


def test_ddp_repeats_the_state_and_fsdp_divides_it():
    adamw = {"name": "adamw", "ema": 0.9}
    alone = plan(run_with(**adamw), NEEDS, gpus=1, num_samples=1).state
    assert alone == {"weights": 4000, "gradients": 2400, "optimiser": 4800, "EMA": 4000}
    assert plan(run_with(**adamw), NEEDS, gpus=4, num_samples=1).state == alone | {"gradients": 4800}  # and buckets
    divided = plan(run_with("fsdp", **adamw), NEEDS, gpus=4, num_samples=1).state
    assert divided == {kind: size / 4 for kind, size in alone.items()}
    sgd = plan(run_with(), NEEDS, gpus=1, num_samples=1).state
    assert (sgd["optimiser"], sgd["EMA"]) == (2400, 0)


@pytest.mark.parametrize("shard", ["ddp", "fsdp"])
@pytest.mark.parametrize("gpus", [1, 3, 8, 64])
@pytest.mark.parametrize("room", [19_000, 22_000, 100_000])
def test_micro_batches_fit_and_cover_the_share_of_a_device(shard, gpus, room):
    hardware = Hardware(gpu_memory_gib=room / 2**30, reserve=0)
    p = plan(run_with(shard, name="adamw", ema=0.9), NEEDS, gpus=gpus, num_samples=1, hardware=hardware)
    share = math.ceil(64 / gpus)
    assert (p.accumulation - 1) * p.micro_batch < share <= p.accumulation * p.micro_batch
    assert sum(p.state.values()) + 100 + p.micro_batch * 1000 <= room


def test_speed_and_days_follow_from_operations_and_utilisation():
    hardware = Hardware(peak_tflops=1, utilisation=0.5)
    p = plan(run_with(epochs=3), NEEDS, gpus=8, num_samples=6400, hardware=hardware)
    assert p.step_seconds == pytest.approx(8 * 1e9 / 0.5e12)
    assert p.clips_per_second == pytest.approx(8 * 500)
    assert p.frames_per_second == pytest.approx(8 * 500 * 32)
    assert p.days == pytest.approx(3 * 6400 / 4000 / 86400)
    repeated = replace(run_with(epochs=3), augment=AugmentConfig(repeats=2))  # an epoch then has twice the clips
    assert plan(repeated, NEEDS, gpus=8, num_samples=6400, hardware=hardware).days == pytest.approx(2 * p.days)
    assert p.sent_per_second * p.step_seconds == pytest.approx(2 * 4 * 600 * 7 / 8)  # a ring, there and back


def test_more_devices_than_clips_in_a_batch_are_an_error():
    with pytest.raises(ValueError, match="batch_size 64 is smaller than the 65 processes"):
        plan(run_with(), NEEDS, gpus=65, num_samples=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--gpus", "0"], "gpus is 0; it must be 1 or more"),
        (["--gpus", "1", "-3"], "gpus is -3"),
        (["--gpus", "1", "--num-samples", "0"], "num_samples is 0"),
        (["--gpus", "1", "--num-samples", "-5"], "num_samples is -5"),
        (["--gpus", "1", "--gpu-memory-gib", "nan"], "gpu_memory_gib is nan; it must be above 0"),
        (["--gpus", "1", "--gpu-memory-gib", "-1"], "gpu_memory_gib is -1"),
        (["--gpus", "1", "--peak-tflops", "0"], "peak_tflops is 0"),
        (["--gpus", "1", "--peak-tflops", "inf"], "peak_tflops is inf"),
        (["--gpus", "1", "--utilisation", "0"], "utilisation is 0"),
        (["--gpus", "1", "--utilisation", "nan"], "utilisation is nan"),
        (["--gpus", "1", "--utilisation", "1.5"], "utilisation is 1.5"),
        (["--gpus", "1", "--reserve", "1"], "reserve is 1"),
        (["--gpus", "1", "--reserve", "nan"], "reserve is nan"),
        (["--gpus", "1", "--optim.epochs", "inf", "--optim.warmup-epochs", "0"], "epochs is inf"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_by_name(wrong, message, capsys):
    words = ["demo", "--num-samples", "600", *wrong]
    try:
        with pytest.raises(ValueError, match=message):
            run_plan(words)
    except SystemExit:  # the command line refuses what a setting refuses
        assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_plan_for_no_number_of_devices_is_refused():
    with pytest.raises(ValueError, match="gpus is empty"):
        format_plans(run_with(), gpus=(), num_samples=1, hardware=Hardware())


def test_the_command_prints_a_line_per_number_of_devices_and_kind_of_division(capsys):
    run_plan(
        [
            "demo",
            "--gpus",
            "1",
            "4",
            "--num-samples",
            "600",
            "--optim.batch-size",
            "8",
            "--optim.epochs",
            "10",
            "--markdown",
        ]
    )
    _, run, assumed, _, *rows = capsys.readouterr().out.splitlines()
    assert run == "adamw, 8 clips a step, 10 epochs of 600 videos."
    assert "nothing was timed" in assumed
    assert [row.split(" | ")[:2] for row in rows[2:]] == [["| 1", "ddp"], ["| 4", "ddp"], ["| 4", "fsdp"]]


def test_a_run_without_room_has_no_speed(capsys):
    run_plan(["demo", "--gpus", "2", "--num-samples", "600", "--gpu-memory-gib", "0.001"])
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert last[-7:] == ["0", "-", *5 * ["-"]]


def test_an_unknown_name_is_answered_with_a_close_one():
    with pytest.raises(ValueError, match="is no recipe, and no preset.*did you mean 'finetune'"):
        run_plan(["finetun"])


def test_the_guide_shows_what_its_command_prints(capsys):
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "scale.md").read_text()
    command = next(line for line in guide.splitlines() if line.startswith("vivit plan"))
    run_plan(shlex.split(command)[2:])
    assert capsys.readouterr().out in guide
