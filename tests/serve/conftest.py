"""A server in a thread of this process, over loopback, with decoding processes of its own."""

from contextlib import contextmanager

import pytest
import torch

from vivit.data.tools.synthetic import render, write_video
from vivit.serve.client import Client
from vivit.serve.limits import Limits
from vivit.serve.run import in_thread, make_server

from ..model import tiny


class Running:
    """A server that runs: its address, its model, its service, and a client."""

    def __init__(self, server, url, model, token=None):
        self.server, self.url, self.model = server, url, model
        self.port = int(url.rpartition(":")[2])
        self.client = Client(url, token=token)
        self.service = server.config.app.router.lifespan_context.__self__


@contextmanager
def serving(model, *, token=None, host="127.0.0.1", names=(), **limits):
    """Start a server and stop it at the end; nothing of it may be left."""
    limits = Limits(**{"header_seconds": 2.0, "body_grace": 2.0, "body_mb": 4.0, "decode_seconds": 20.0, **limits})
    server = make_server(
        model, name="tiny", host=host, port=0, names=names, token=token, limits=limits, log_level="error"
    )
    with in_thread(server) as url:
        yield Running(server, url, model, token)


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
