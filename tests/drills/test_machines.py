"""Training on two hosts: equal to one process, also when a host dies or is cut off, a worker is killed or stopped."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..cli.conftest import vivit  # noqa: F401
from ..engine.conftest import data_root  # noqa: F401
from ..engine.test_slurm import TRAIN, environment, equal, free_port, straight  # noqa: F401
from .hosts import Host, descendants, kill, two_hosts

pytestmark = pytest.mark.drill
SECONDS = 900  # for everything that a test starts
TIMEOUT = 20  # seconds that processes wait for each other
WAITING = ["--parallel.timeout", TIMEOUT, "--data.storage-timeout", TIMEOUT // 2]


@pytest.fixture
def hosts(tmp_path):
    with two_hosts(tmp_path) as pair:
        yield pair


def torchrun(host: Host, port: int, options: list, train: list, log: Path) -> subprocess.Popen:
    """Start an agent of the guide's line for several nodes."""
    endpoint = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"host-a:{port}" if host.prefix else f"127.0.0.1:{port}"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", *endpoint, *options]
    return host.start([*command, "-m", "--", "vivit", "train", *train], log, OMP_NUM_THREADS="1")


def wait_for(log: Path, text: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + SECONDS
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def finish(*processes: subprocess.Popen) -> list[int]:
    """Wait for processes and return their exit codes; whatever is left at the end is killed."""
    try:
        return [process.wait(SECONDS) for process in processes]
    finally:
        for process in processes:
            kill(process)


def test_two_agents_on_two_hosts_equal_one_process(hosts, straight, data_root, tmp_path):  # noqa: F811
    train = [*TRAIN, "--data.root", data_root, "--run", tmp_path / "run"]
    logs, port = [tmp_path / "a.log", tmp_path / "b.log"], free_port()
    agents = [torchrun(host, port, ["--nnodes", "2"], train, log) for host, log in zip(hosts, logs)]
    assert finish(*agents) == [0, 0], "\n".join(log.read_text() for log in logs)
    assert "2 x cpu" in logs[0].read_text() + logs[1].read_text()
    equal(tmp_path / "run", straight)


@pytest.mark.parametrize(("loss", "left"), [("dies", 1), ("is cut off", 1), ("loses its process", 2)])
def test_the_others_resume_when_a_host(loss, left, hosts, straight, data_root, tmp_path):  # noqa: F811
    if loss == "is cut off" and not hosts[0].prefix:
        pytest.skip("needs network namespaces")
    elastic = ["--nnodes", "1:2", "--max-restarts", "3", "--rdzv-conf", "last_call_timeout=5"]
    train = [*TRAIN, "--data.root", data_root, "--run", tmp_path / "run", *WAITING]
    logs, port = [tmp_path / "a.log", tmp_path / "b.log"], free_port()
    agents = [torchrun(host, port, elastic, train, log) for host, log in zip(hosts, logs)]
    try:
        wait_for(logs[0], "step 9/", agents[0])  # after the first checkpoint, at step 7
        if loss == "dies":
            kill(agents[1])
        elif loss == "is cut off":
            hosts[1].cut()
        else:
            os.kill(descendants(agents[1].pid)[1], signal.SIGKILL)
        assert finish(*agents[:left]) == [0] * left, "\n".join(log.read_text() for log in logs)
    finally:
        kill(agents[1])
    log = logs[0].read_text()
    if left == 1:  # else the agent of host-b may be the first to know, and ask host-a to start again
        assert re.search(r"vivit: process 1 of 2 \(host (host-b|\S+), pid \d+\) does not answer; it was at ", log), log
    log += logs[1].read_text()  # where the first process may be now
    assert re.search(rf"{left} x cpu.*\n.*resuming after step \d+ of", log), log
    print(f"host-b {loss}: {left} left, {re.search('resuming after step [0-9]+ of [0-9]+', log)[0]}")
    equal(tmp_path / "run", straight)


SRUN = """#!/bin/bash
# Run the command as one task on each host; when one fails, kill the others, and exit with the highest code.
shift
for ((i = 0; i < SLURM_NTASKS; i++)); do SLURM_PROCID=$i SLURM_LOCALID=0 ./on-host-$i "$@" & echo $! >> pids; done
code=0
for ((i = 0; i < SLURM_NTASKS; i++)); do
    wait -n; one=$?
    ((one)) && kill -KILL $(jobs -p) 2>/dev/null
    ((one > code)) && code=$one
done
exit $code
"""


@pytest.mark.parametrize("loss", ["is killed", "is stopped"])
def test_a_slurm_job_on_two_hosts_is_requeued_and_resumes_when_a_process(
    loss,
    vivit,  # noqa: F811
    hosts,
    straight,  # noqa: F811
    data_root,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    options = [*WAITING, "--slurm.gpus", 0, "--slurm.nodes", 2]
    code, script, _ = vivit("slurm", *TRAIN, "--data.root", data_root, "--run", tmp_path / "run", *options)
    assert code == 0
    (tmp_path / "job.sh").write_text(script)
    job = (free_port() - 20000) % 40000
    job_environment = environment(tmp_path, SLURM_NTASKS="2", SLURM_JOB_ID=str(job), SLURM_JOB_NODELIST="both")
    (tmp_path / "srun").write_text(SRUN)
    names = (tmp_path / "scontrol").read_text().replace("127.0.0.1", f"{hosts[0].name}; echo {hosts[1].name}")
    (tmp_path / "scontrol").write_text(names)
    for i, host in enumerate(hosts):
        words = " ".join(f"'{word}'" for word in host.prefix)
        (tmp_path / f"on-host-{i}").write_text(f'#!/bin/bash\nexec {words} "$@"\n')
        (tmp_path / f"on-host-{i}").chmod(0o755)
    log = tmp_path / "log"
    monkeypatch.chdir(tmp_path)
    for start in range(2):
        process = Host("this one").start(["bash", "job.sh"], log, **job_environment)
        if start == 0:
            wait_for(log, "step 9/", process)
            victim = descendants(int((tmp_path / "pids").read_text().split()[1]))[0]
            os.kill(victim, signal.SIGKILL if loss == "is killed" else signal.SIGSTOP)
        code = finish(process)[0]
        text = log.read_text()
        if start == 0:
            assert code == 137, text
            assert (tmp_path / "requeued").read_text() == f"requeue {job}\n"
            if loss == "is stopped":
                assert re.search(r"vivit: process 1 of 2 \(host \S+, pid \d+\) does not answer; it was at ", text), text
    assert code == 0, text
    assert re.search(r"resuming after step \d+ of", text), text
    equal(tmp_path / "run", straight)
