"""Requests that wait go through the model together, and half as many where they do not fit its memory."""

import asyncio

import pytest
import torch

from vivit.errors import WeightsError
from vivit.serve.engine import Engine

from ..model import tiny


@pytest.fixture
def videos(model):
    return [tiny.video(model, batch=views) for views in (2, 3, 1, 2)]


def serve(engine, videos):
    """Return the logits of the videos, asked for at the same time."""

    async def run():
        engine.start()
        try:
            return await asyncio.gather(*(engine.logits(views) for views in videos), return_exceptions=True)
        finally:
            await engine.close()

    return asyncio.run(run())


def watch(engine, most=None):
    """Have the engine batch as on a GPU whose memory fits `most` clips; return the sizes of its batches."""
    sizes, forward = [], engine.forward

    def call(clips):
        if most is not None and len(clips) > most:
            raise torch.OutOfMemoryError("too many")
        sizes.append(len(clips))
        return forward(clips)

    engine.forward = call
    engine.compute = torch.no_grad()(lambda videos: [engine._checked(x) for x in engine._together(videos)])
    return sizes


def expected(model, videos):
    with torch.no_grad():
        return [model(views).mean(dim=0) for views in videos]


def test_on_a_cpu_requests_go_one_by_one_and_are_right(model, videos):
    for got, right in zip(serve(Engine(model), videos), expected(model, videos)):
        torch.testing.assert_close(got, right)


def test_requests_that_wait_are_one_batch(model, videos):
    engine = Engine(model)
    engine.clips = 64
    sizes = watch(engine)
    for got, right in zip(serve(engine, videos), expected(model, videos)):
        torch.testing.assert_close(got, right)
    assert sizes == [8]


def test_a_batch_has_no_more_clips_than_allowed_and_keeps_requests_whole(model, videos):
    engine = Engine(model)
    engine.clips = 5
    sizes = watch(engine)
    for got, right in zip(serve(engine, videos), expected(model, videos)):
        torch.testing.assert_close(got, right)
    assert sizes == [5, 3]


def test_where_the_memory_is_short_batches_are_halved_from_then_on(model, videos):
    engine = Engine(model)
    engine.clips = 64
    sizes = watch(engine, most=3)
    for got, right in zip(serve(engine, videos), expected(model, videos)):
        torch.testing.assert_close(got, right)
    assert engine.clips == 2
    assert sizes == [2, 2, 2, 2]


def test_one_bad_request_does_not_spoil_its_batch(model, videos):
    engine = Engine(model)
    engine.clips = 64
    forward = engine.forward

    def poisoned(clips):
        logits = forward(clips)
        logits[2:5] = float("nan")
        return logits

    engine.forward = poisoned
    watch(engine)
    first, second, *others = serve(engine, videos)
    assert isinstance(second, WeightsError)
    torch.testing.assert_close(first, expected(model, videos)[0])
    assert all(isinstance(one, torch.Tensor) for one in others)


def test_views_of_another_shape_are_refused(model, videos):
    [error] = serve(Engine(model), [videos[0][:, :2]])
    assert isinstance(error, ValueError)
    assert "not those of the model" in str(error)
