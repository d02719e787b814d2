"""A job of `vivit corpus` on Ray whose videos are slow or kill their actor: `python -m tests.drills.ray_job JSON`."""

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from ray import get_runtime_context, init
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from vivit.corpus import ray
from vivit.corpus.driver import Corpus, run_corpus


class FaultyActor(ray.Actor):
    """Take 30 ms more for every video, but a second for slow.mp4, and ten minutes for hang.mp4.

    Die of poison.mp4, and of each segment of fragile.mp4 the first time; take three seconds for it then.
    """

    def __init__(self, *args):
        super().__init__(*args)
        from vivit.corpus.jobs import JOBS  # that of the actor's process, not a copy

        job = JOBS["predict"]

        def compute(model, sample, *rest):
            name = os.path.basename(sample.path)
            seen = Path(f"{sample.path}.{sample.start}")
            if name == "poison.mp4" or (name == "fragile.mp4" and not seen.exists()):
                seen.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep({"hang.mp4": 600.0, "fragile.mp4": 3.0, "slow.mp4": 1.0}.get(name, 0.03))
            return job.compute(model, sample, *rest)

        JOBS["predict"] = replace(job, compute=compute)


def created() -> int:
    """Return the bytes that were put into the object stores of the cluster so far."""
    state = get_state_from_address(get_runtime_context().gcs_address)
    return get_memory_info_reply(state).store_stats.cumulative_created_bytes


def main() -> None:
    """Run the job, and print what it did and the bytes that it put into the object stores."""
    how = json.loads(sys.argv[1])
    init(how.pop("address"), log_to_driver=False)
    if how.pop("faults"):
        ray.Actor = FaultyActor
    before, began = created(), time.monotonic()
    done = run_corpus(Corpus(**how | {"out": Path(how["out"]), "engine": "ray"}))
    seconds = time.monotonic() - began
    print(json.dumps({"computed": done.computed, "failed": done.failed, "bytes": created() - before, "s": seconds}))


if __name__ == "__main__":
    main()
