"""The batch script, run by stand-ins for SLURM's commands: stopped, requeued, resumed, and equal to one process."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from vivit.engine.slurm import SlurmOptions, sbatch_script

from ..cli.conftest import vivit  # noqa: F401
from .tiny import metrics

SRUN = """#!/bin/bash
# Run the command as SLURM_NTASKS tasks, as srun does; exit with the highest code.
shift
for ((i = 0; i < SLURM_NTASKS; i++)); do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & echo $! >> pids; done
code=0
for pid in $(jobs -p); do wait $pid; one=$?; ((one > code)) && code=$one; done
exit $code
"""
SCONTROL = """#!/bin/bash
if [ $1 = show ]; then echo 127.0.0.1; else echo "$@" >> requeued; fi
"""
TRAIN = [
    *("finetune", "--data.workers", "0", "--log-every", "1", "--device", "cpu", "--precision", "float32"),
    *("--optim.epochs", "12", "--optim.batch-size", "4", "--model.num-frames", "4", "--model.embed-dim", "32"),
    *("--model.num-heads", "2", "--model.depth", "1", "--model.image-size", "32", "32"),
]


def test_the_script_asks_for_what_was_said_and_quotes_the_command():
    options = SlurmOptions(nodes=2, gpus=4, time="1-00:00:00", partition="big", setup="source .venv/bin/activate")
    script = sbatch_script(["vivit", "train", "demo", "--run", "a folder/$x'y"], options)
    asked = dict(line.removeprefix("#SBATCH --").split("=") for line in re.findall("#SBATCH .*=.*", script))
    assert asked == {
        "nodes": "2",
        "ntasks-per-node": "4",
        "gpus-per-node": "4",
        "cpus-per-task": "12",
        "time": "1-00:00:00",
        "partition": "big",
        "signal": "TERM@300",
        "open-mode": "append",
    }
    assert "#SBATCH --requeue\n" in script
    assert "\nsource .venv/bin/activate\n" in script
    words = subprocess.run(
        ["bash", "-c", re.search("start (.*)", script)[1].replace("vivit", "printf '%s\\n'", 1)],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert words == ["train", "demo", "--run", "a folder/$x'y"]
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_the_command_checks_the_settings_and_leaves_out_its_own(vivit, tmp_path):  # noqa: F811
    code, out, _ = vivit("slurm", "demo", "--run", "r", "--slurm.nodes", 3, "--optim.lr", 0.1, "--slurm.time=9:00:00")
    assert code == 0
    assert "start vivit train demo --run r --optim.lr 0.1\n" in out
    assert "#SBATCH --nodes=3\n" in out
    assert "#SBATCH --time=9:00:00\n" in out
    assert "give --run FOLDER" in vivit("slurm", "demo")[2]
    assert vivit("slurm", "demo", "--run", "r", "--optim.learning", 1)[0] == 2
    assert "slurm.gpus is -1" in vivit("slurm", "demo", "--run", "r", "--slurm.gpus", -1)[2]


def test_the_command_of_the_guide_runs(vivit):  # noqa: F811
    guide = Path(__file__).parents[2] / "docs" / "guides" / "scale.md"
    [line] = re.findall("^vivit (slurm .*) > job.sh$", guide.read_text(encoding="utf-8"), flags=re.MULTILINE)
    code, out, err = vivit(*line.split())
    assert (code, err) == (0, "")
    assert "start vivit train modern/kinetics400 --data.root /shared/videos --run /shared/runs/a\n" in out


def environment(folder, **variables):
    """Return the environment of a job whose PATH has the stand-ins and this Python's vivit."""
    for name, text in (
        ("srun", SRUN),
        ("scontrol", SCONTROL),
        ("vivit", f'#!/bin/bash\nexec {sys.executable} -m vivit "$@"\n'),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"} | variables


def equal(run, straight):
    for ours, theirs in zip(metrics(run), metrics(straight), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    ours, theirs = (load_file(folder / "weights" / "model.safetensors") for folder in (run, straight))
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) < 1e-5


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [(0, 0, False), (2, 0, False), (143, 99, True), (137, 0, True), (75, 1, True), (75, 2, False), (137, None, True)],
)
def test_a_job_is_requeued_after_a_signal_and_so_many_times_after_a_loss(tmp_path, code, restarts, requeued):
    (tmp_path / "job.sh").write_text(sbatch_script(["vivit"], SlurmOptions(restarts=2)))
    variables = environment(tmp_path, SLURM_JOB_ID="7", SLURM_JOB_NODELIST="one")
    (tmp_path / "srun").write_text(f"#!/bin/bash\nexit {code}\n")
    if restarts is not None:
        variables["SLURM_RESTART_COUNT"] = str(restarts)
    assert subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=variables, check=False).returncode == code
    assert (tmp_path / "requeued").exists() == requeued


@pytest.fixture
def straight(vivit, data_root, tmp_path):  # noqa: F811
    """The folder of the run of one process."""
    assert vivit("train", *TRAIN, "--data.root", data_root, "--run", tmp_path / "straight")[0] == 0
    return tmp_path / "straight"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.drill
def test_a_job_of_two_processes_that_was_stopped_and_requeued_equals_one_process(
    vivit,  # noqa: F811
    straight,
    data_root,
    tmp_path,  # noqa: F811
):
    code, script, _ = vivit(
        "slurm", *TRAIN, "--data.root", data_root, "--run", tmp_path / "run", "--slurm.gpus", 0, "--slurm.nodes", 2
    )
    assert code == 0
    (tmp_path / "job.sh").write_text(script)
    job = (free_port() - 20000) % 40000
    job_environment = environment(tmp_path, SLURM_NTASKS="2", SLURM_JOB_ID=str(job), SLURM_JOB_NODELIST="one")
    command = {"args": ["bash", "job.sh"], "cwd": tmp_path, "env": job_environment}
    log = tmp_path / "log"
    with log.open("w") as file, subprocess.Popen(**command, stdout=file, stderr=file) as first:
        deadline = time.monotonic() + 1200
        while "step 2/" not in log.read_text():
            assert first.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for pid in (tmp_path / "pids").read_text().split():
            os.kill(int(pid), signal.SIGTERM)
    assert first.returncode == 143, log.read_text()
    assert (tmp_path / "requeued").read_text() == f"requeue {job}\n"
    second = subprocess.run(**command, capture_output=True, text=True, timeout=1200, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    assert (tmp_path / "requeued").read_text() == f"requeue {job}\n"
    equal(tmp_path / "run", straight)
