"""The same run on one, two and four processes (gloo), copied or divided, and across a change of their number."""

import os
import signal
import socket
import subprocess
import sys

import pytest
import torch
import torch.multiprocessing
from safetensors.torch import load_file

from vivit.config import Config, replace
from vivit.engine.train import train

from ..processes import forkserver
from .tiny import metrics, mixed_config, tiny_config
from .worker import Job, work

pytestmark = pytest.mark.slow


def scaled(config: Config, **changes) -> Config:
    return replace(config, parallel=replace(config.parallel, **changes))


def run_in_world(processes: int, jobs: list[Job]) -> None:
    """Train in that many processes; an error in one of them is raised here."""
    forkserver()
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.start_processes(work, (processes, port, jobs), nprocs=processes, start_method="forkserver")


NAMES = ("ddp 2", "fsdp 2", "ddp 4", "ddp 2 to 4", "fsdp 2 to ddp 1")
MIXED = ("mixed ddp 2", "mixed ddp 4", "mixed fsdp 2 to 4")


@pytest.fixture(scope="module")
def runs(data_root, tmp_path_factory):
    """Folders of the run in every world; those `a to b` were stopped in world a and continued in world b."""
    folder = tmp_path_factory.mktemp("worlds")
    config = {name: tiny_config(data_root, folder / name, save_every=100) for name in NAMES}
    config["ddp 2"] = scaled(tiny_config(data_root, folder / "ddp 2"), micro_batch=3)
    config["fsdp 2"] = scaled(config["fsdp 2"], strategy="fsdp", micro_batch=1, checkpoint_activations=True)
    config["fsdp 2 to ddp 1"] = scaled(config["fsdp 2 to ddp 1"], strategy="fsdp")
    config |= {name: mixed_config(tiny_config(data_root, folder / name)) for name in MIXED}
    config["mixed ddp 2"] = scaled(config["mixed ddp 2"], micro_batch=3)
    config["mixed fsdp 2 to 4"] = scaled(config["mixed fsdp 2 to 4"], strategy="fsdp", micro_batch=2)
    run_in_world(
        2,
        [
            (config["ddp 2"], None, True),  # and a full disk on the way
            (config["fsdp 2"], None, False),
            (config["ddp 2 to 4"], 4, False),
            (config["fsdp 2 to ddp 1"], 5, False),
            (config["mixed ddp 2"], None, False),
            (config["mixed fsdp 2 to 4"], 1, False),
        ],
    )
    in_four = ("ddp 4", "ddp 2 to 4", "mixed ddp 4", "mixed fsdp 2 to 4")
    run_in_world(4, [(config[name], None, False) for name in in_four])
    train(scaled(config["fsdp 2 to ddp 1"], strategy="ddp"))
    return {name: folder / name for name in NAMES + MIXED}


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_accuracies_do_not_depend_on_the_processes(runs, straight, name):
    for ours, theirs in zip(metrics(runs[name]), metrics(straight), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", MIXED)
def test_neither_do_they_with_every_augmentation_on(runs, mixed_run, name):
    for ours, theirs in zip(metrics(runs[name]), metrics(mixed_run), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_their_average_do_not_depend_on_the_processes(runs, straight, name):
    for kind in ("weights", "best"):
        ours, theirs = (load_file(folder / kind / "model.safetensors") for folder in (runs[name], straight))
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], atol=2e-4, rtol=1e-3, msg=f"{kind} {key}")


def test_torchrun_passes_a_schedulers_signal_on_and_every_process_saves_and_ends(data_root, tmp_path):
    settings = {
        "--data.root": data_root, "--run": tmp_path / "run", "--data.workers": 0, "--log-every": 1, "--device": "cpu",
        "--optim.epochs": 40, "--optim.batch-size": 4, "--model.num-frames": 4, "--model.embed-dim": 32,
        "--model.num-heads": 2, "--model.depth": 1,
    }  # fmt: skip
    options = [str(word) for pair in settings.items() for word in pair]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["--", "vivit", "train", "finetune", "--model.image-size", "32", "32", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **pipes, env=os.environ | {"OMP_NUM_THREADS": "1"}) as torchrun:
        lines = []
        for line in torchrun.stdout:
            lines.append(line)
            if line.startswith("step 2/"):
                torchrun.send_signal(signal.SIGTERM)
    out = "".join(lines)
    assert "2 x cpu, 2 clips each in micro-batches of 2" in out
    assert out.count("and saved; the same command resumes here") == 1  # one of the processes speaks
    assert torchrun.returncode != 0
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*/manifest.json"))) == 1
