"""`vivit serve`: a model behind HTTP, with a page to drop videos on."""

from __future__ import annotations

import secrets
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..serve.limits import Limits
from .parse import WithWeights, parse
from .predict import Predict, load_model

USAGE = "vivit serve WEIGHTS [options]"
USUAL = ("host", "port", "token_file", "device", "precision", "limits.body_mb", "limits.queue", "limits.decode_seconds")


@dataclass(frozen=True)
class Serve(WithWeights):
    """Serve a model over HTTP, with a page at its address.

    Only this machine can reach it, unless --host says otherwise. Ctrl-C ends it.
    """

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every network of this machine: then give --token-file."""
    port: int = 8000
    """Port; 0 takes a free one."""
    names: tuple[str, ...] = ()
    """Host names that a request may call it by, without the port; none: those of this machine, or with --host any."""
    token_file: Path | None = None
    """A file with the token that clients must send; a file that does not exist gets a new one."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """float32, bfloat16, or auto: bfloat16 on CUDA devices with units for it, else float32."""
    limits: Limits = Limits()
    """What one request may cost."""

    def __post_init__(self):
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}; it is 0 to 65535")
        for name in self.names:
            if name.rpartition(":")[2].isdigit() or ("/" in name):
                raise ValueError(f"names has {name!r}; give the host alone, such as videos.example.org or [::1]")


def run(args: list[str]) -> None:
    """Serve the weights that the arguments name, until Ctrl-C."""
    asked = parse(Serve, args, usage=USAGE, usual=USUAL)
    try:
        from ..serve.run import make_server
    except ImportError as error:
        raise ImportError(f"vivit serve needs the extra 'serve' ({error}); pip install 'vivit[serve]'") from error
    token = read_token(asked.token_file)
    print(f"loading {asked.weights}", file=sys.stderr)
    model = load_model(Predict(asked.weights, device=asked.device, precision=asked.precision))
    server = make_server(
        model,  # type: ignore[arg-type]  # no tokens are reduced
        name=Path(asked.weights).name,
        host=asked.host,
        port=asked.port,
        names=asked.names,
        token=token,
        limits=asked.limits,
        precision=asked.precision,
    )
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))  # a terminal that is closed
    server.run()
    if not server.started:
        raise OSError(f"the server did not start at {asked.host}:{asked.port}; the lines above say why")


def read_token(path: Path | None) -> str | None:
    """Return the token in a file, which is made with a new one if it does not exist. Raises ValueError."""
    if path is None:
        return None
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(32) + "\n")
        print(f"a new token is in {path}", file=sys.stderr)
    token = path.read_text().strip()
    if len(token) < 16:
        raise ValueError(
            f"{path} has a token of {len(token)} characters; it needs 16 or more, or no file for a new one"
        )
    return token
