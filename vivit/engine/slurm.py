"""Write the batch script of a training run under SLURM: requeued and resumed until it is done."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ..config import check

SCRIPT = """#!/bin/bash
{directives}

{setup}# One process per task. They find each other at a port of the first node that other jobs on it do not use.
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 40000))
srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec "$@"' start {command}
code=$?

# 143: the signal before the time limit stopped the run, which has saved. 137: a process was killed, for example for
# its memory. 75: one was late or gone, and the log names it. The same command resumes the run.
case $code in
    143) scontrol requeue "$SLURM_JOB_ID" ;;
    137 | 75) if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then scontrol requeue "$SLURM_JOB_ID"; fi ;;
esac
exit $code
"""


@dataclass(frozen=True)
class SlurmOptions:
    """What to ask SLURM for."""

    nodes: int = 1
    """Machines."""
    gpus: int = 8
    """GPUs of each machine, one process each; 0: one process on the CPU of each machine."""
    cpus: int = 12
    """Cores of each process."""
    time: str = "24:00:00"
    """Time limit; the job is requeued when it is reached."""
    grace: int = 300
    """Seconds before the time limit at which the run is told to save."""
    restarts: int = 20
    """Requeue a job that lost a process only while it was started again less often than this, for whatever reason."""
    partition: str = ""
    """Partition of the cluster; empty: its default."""
    account: str = ""
    """Account to charge; empty: your default."""
    setup: str = ""
    """Shell line to run first: source .venv/bin/activate."""

    def __post_init__(self):
        for name, least in (("nodes", 1), ("gpus", 0), ("cpus", 1), ("grace", 60), ("restarts", 0)):
            value = getattr(self, name)
            check(value >= least, f"slurm.{name} is {value}; it is {least} or more")


def sbatch_script(command: Sequence[str], options: SlurmOptions) -> str:
    """Return a script for sbatch that runs a command of `vivit train` as one process per GPU of all nodes.

    `--signal` tells the run to save before the time limit; exit code 143 then requeues the job, and so do the codes of
    a lost process, and SLURM itself after a failure of a node.
    """
    wanted = {
        "nodes": options.nodes,
        "ntasks-per-node": options.gpus or 1,
        "gpus-per-node": options.gpus,
        "cpus-per-task": options.cpus,
        "time": options.time,
        "partition": options.partition,
        "account": options.account,
        "signal": f"TERM@{options.grace}",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in wanted.items() if value]
    lines += ["#SBATCH --requeue", "#SBATCH --open-mode=append"]
    setup = f"{options.setup}\n" if options.setup else ""
    return SCRIPT.format(
        directives="\n".join(lines), setup=setup, command=shlex.join(command), restarts=options.restarts
    )
