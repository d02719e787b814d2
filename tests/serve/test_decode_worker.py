"""The decoding process of the server ends with it."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

from vivit.config import to_dict

from ..processes import outlive

ROOT = Path(__file__).parents[2]
HANGING = """
import sys
from pathlib import Path
from tests.processes import hang
from vivit.serve import decode_worker
decode_worker.checked_sample = lambda job, limits: hang(Path(sys.argv[1]))
decode_worker.main()
"""


def decode_for_ever(setup, folder):
    """Start a decoding process that gets a video without an end, as the server does."""
    lines = [json.dumps(line) + "\n" for line in (setup, {"kind": "views", "path": "x"})]
    command = [sys.executable, "-c", HANGING, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        process.stdin.writelines(lines)
        process.stdin.flush()
        process.wait()


def test_a_process_in_the_middle_of_a_video_ends_when_the_server_is_killed(model, tmp_path):
    setup = {"model": to_dict(model.config), "memory_mb": 2000, "pixels": 10**6, "frames": 1000}
    assert outlive(partial(decode_for_ever, setup), "fork", tmp_path, children=1) == []
