"""Damage files at random and see what reading them comes to, each in a child process with limits.

A child that crashes, hangs or takes too much memory counts against the reader, as does any error but the allowed ones.
"""

import os
import random
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

SECONDS = 20  # for one file
GIB = 2  # of address space beyond what the process has when it starts


def damage(data: bytes, rng: random.Random) -> bytes:
    """Flip bits, overwrite, zero, cut, drop, repeat or swap parts of `data`; some of it in the first kilobyte."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        size = len(out)
        reach = min(1024, size) if rng.random() < 0.4 else size
        at = rng.randrange(max(reach, 1))
        length = min(rng.choice((1, 4, 16, 200, 2000)), max(size - at, 1))
        kind = rng.choice(("flip", "flip", "noise", "zero", "cut", "drop", "repeat", "swap", "number"))
        if kind == "flip":
            out[at] ^= 1 << rng.randrange(8)
        elif kind == "noise":
            out[at : at + length] = rng.randbytes(length)
        elif kind == "zero":
            out[at : at + length] = bytes(length)
        elif kind == "cut":
            del out[max(at, 16) :]
        elif kind == "drop":
            del out[at : at + length]
        elif kind == "repeat":
            out[at:at] = out[at : at + length]
        elif kind == "swap":
            other = rng.randrange(size)
            out[at : at + length], out[other : other + length] = out[other : other + length], out[at : at + length]
        else:  # a field with an extreme value
            out[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\x00\x00\x00\x01"))
        if not out:
            return b"\0"
    return bytes(out)


def drill(
    sources: Sequence[Path], read: Callable[[Path], str], folder: Path, *, count: int, seed: int
) -> tuple[Counter[str], list[str]]:
    """Read `count` damaged copies of `sources`; return how often each outcome came and what went wrong, with its file.

    `read` returns the name of an allowed outcome, or raises. Files that went wrong stay in `folder`.
    """
    rng, outcomes, wrong = random.Random(seed), Counter[str](), []
    originals = [source.read_bytes() for source in sources]
    for number in range(count):
        which = number % len(sources)
        path = folder / f"{number}-{sources[which].name}"
        path.write_bytes(damage(originals[which], rng))
        outcome = in_child(read, path)
        outcomes[outcome.split("\n")[0] if not outcome.startswith("!") else "wrong"] += 1
        if outcome.startswith("!"):
            wrong.append(f"{path}: {outcome[1:]}")
        else:
            path.unlink()
    return outcomes, wrong


def in_child(read: Callable[[Path], str], path: Path) -> str:
    """What `read(path)` returns in a forked child; "!…" where it raises, crashes, or passes a limit."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        text = "!the child wrote nothing"
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + GIB * 2**30,) * 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            text = read(path)
        except BaseException:
            text = "!" + traceback.format_exc(limit=-3)
        finally:
            os.write(sending, text.encode("utf-8", "replace")[:4000])
            os._exit(0)
    os.close(sending)
    begin, alive = time.monotonic(), True
    while alive and time.monotonic() - begin < SECONDS:
        alive = os.waitpid(child, os.WNOHANG)[0] == 0
        time.sleep(0.001)
    if alive:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(receiving, "rb") as file:
        text = file.read().decode()
    if alive:
        return f"!still reading after {SECONDS} s"
    return text or "!the child crashed"
