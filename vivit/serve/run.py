"""Run the server with uvicorn: one process, HTTP/1.1, until Ctrl-C."""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import python_multipart  # noqa: F401  # Starlette imports it with the first form
import uvicorn

from ..model.vivit import ViViT
from .app import Service, make_app
from .guard import LOOPBACK, PatientProtocol
from .limits import Limits


@contextmanager
def in_thread(server: uvicorn.Server) -> Iterator[str]:
    """Run a server in a thread and yield its address; stop it at the end. For notebooks, tests and benchmarks."""
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise OSError("the server did not start; its log says why")
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach the address."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def make_server(
    model: ViViT,
    *,
    name: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    names: Sequence[str] = (),
    token: str | None = None,
    limits: Limits | None = None,
    precision: str = "auto",
    log_level: str = "info",
) -> uvicorn.Server:
    """Return a server; `run()` serves until a signal. `token` is what clients must send; None: nothing.

    It answers only to its `names`, so that no page on the web can reach it by a name of its own; without any, to those
    of this machine on a loopback address, and to all elsewhere.
    """
    limits = limits or Limits()
    if not model.config.classes:
        raise ValueError(f"{name} has no classes; vivit serve needs a model that was trained on some")
    if not is_loopback(host) and token is None:
        logging.getLogger("vivit").warning(
            "warning: %s can be reached from other machines, and there is no token: whoever reaches it can use it; "
            "give --token-file, or --host 127.0.0.1",
            host,
        )
    service = Service(model, name=name, limits=limits, precision=precision)
    app = make_app(
        service, token=token, hosts=tuple(map(str.lower, names)) or (LOOPBACK if is_loopback(host) else None)
    )
    protocol = type("Protocol", (PatientProtocol,), {"header_seconds": limits.header_seconds})
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,
        ws="none",
        lifespan="on",
        log_level=log_level,
        limit_concurrency=limits.connections,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
        server_header=False,
        date_header=False,
        proxy_headers=False,
    )
    return uvicorn.Server(config)
