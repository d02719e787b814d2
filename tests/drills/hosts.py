"""Two hosts on one machine: network namespaces joined by a cable; loopback where that is not allowed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# What runs on a host: its own name, and a list of names that has both hosts; $0 is that list, $1 the name.
ENTER = 'mount --bind "$0" /etc/hosts && echo "$1" > /proc/sys/kernel/hostname && shift && exec "$@"'


@dataclass(frozen=True)
class Host:
    """A host: what to put before a command, and its name in the addresses of others."""

    name: str
    prefix: tuple[str, ...] = ()
    namespace: str = ""

    def start(self, command: Sequence[object], log: Path, **environment: str) -> subprocess.Popen:
        """Start a command on this host; what it prints goes to the file `log`."""
        words = [*self.prefix, *map(str, command)]
        with log.open("w") as file:
            return subprocess.Popen(words, stdout=file, stderr=file, env=os.environ | environment)

    def cut(self) -> None:
        """Unplug the cable."""
        subprocess.run(["ip", "-n", self.namespace, "link", "set", "eth0", "down"], check=True)


def kill(process: subprocess.Popen) -> None:
    """Kill a process and all that it started, as when a host loses its power."""
    if process.poll() is None:
        for pid in descendants(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def descendants(pid: int) -> list[int]:
    """Return the ids of a process and of all that it started, parents first."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(found for child in children for found in descendants(int(child)))]


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Yield two hosts, host-a and host-b, which only a cable between them connects; else loopback twice."""
    names = ("host-a", "host-b")
    spaces = [f"vivit-{os.getpid()}-{name}" for name in names]
    try:
        if not _allowed(spaces):
            print("network namespaces are not allowed here: both hosts are 127.0.0.1")
            yield Host("127.0.0.1"), Host("127.0.0.1")
            return
        print(f"network namespaces {' and '.join(spaces)}, joined by a veth pair")
        _ip("link", "add", "eth0", "netns", spaces[0], "type", "veth", "peer", "name", "eth0", "netns", spaces[1])
        for i, space in enumerate(spaces):
            _ip("-n", space, "address", "add", f"10.77.0.{i + 1}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", space, "link", "set", device, "up")
        (folder / "hosts").write_text("127.0.0.1 localhost\n10.77.0.1 host-a\n10.77.0.2 host-b\n")
        yield tuple(
            Host(
                name,
                ("ip", "netns", "exec", space, "unshare", "--mount", "--uts", "bash", "-c", ENTER)
                + (str(folder / "hosts"), name),
                space,
            )
            for name, space in zip(names, spaces)
        )
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "delete", space], stderr=subprocess.DEVNULL, check=False)


def _allowed(spaces: Sequence[str]) -> bool:
    """Make the namespaces; return whether this system lets us."""
    if sys.platform != "linux" or os.geteuid():
        return False
    try:
        return all(subprocess.run(["ip", "netns", "add", s], capture_output=True, check=False).returncode == 0
                   for s in spaces)  # fmt: skip
    except FileNotFoundError:
        return False


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
