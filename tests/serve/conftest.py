"""A server in a thread of this process, over loopback, with decoding processes of its own."""

import threading
import time
from contextlib import contextmanager

import pytest
import torch

from vivit.data.tools.synthetic import render, write_video
from vivit.serve.client import Client
from vivit.serve.limits import Limits
from vivit.serve.run import make_server

from ..model import tiny


class Running:
    """A server that runs: its port, its model, its service, and a client."""

    def __init__(self, server, model, token=None):
        self.server, self.model, self.token = server, model, token
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = Client(self.url, token=token)
        self.service = server.config.app.router.lifespan_context.__self__


@contextmanager
def serving(model, *, token=None, host="127.0.0.1", **limits):
    """Start a server and stop it at the end; nothing of it may be left."""
    limits = Limits(**{"header_seconds": 2.0, "body_grace": 2.0, "body_mb": 4.0, "decode_seconds": 20.0, **limits})
    server = make_server(model, name="tiny", host=host, port=0, token=token, limits=limits, log_level="error")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + 120
        while not server.started:
            assert thread.is_alive(), "the server has ended"
            assert time.monotonic() < end, "the server does not start"
            time.sleep(0.02)
        yield Running(server, model, token)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="package")
def model():
    torch.manual_seed(0)
    return tiny.model(classes={"noun": ("cup", "dog", "pen"), "verb": ("put", "take")})


@pytest.fixture(scope="package")
def server(model):
    with serving(model) as running:
        yield running


@pytest.fixture(scope="package")
def video(tmp_path_factory):
    """A video of 50 frames."""
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    write_video(path, render(0, "val", 0, num_frames=50)[0])
    return path
