"""The application: its addresses, and what stands behind them."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..errors import VideoError, VivitError, WeightsError
from ..inference.explain import Clip, explain_clip
from ..inference.explain_config import ExplainConfig
from ..inference.prediction import Prediction, top_classes
from ..model.vivit import ViViT
from ..report.examples import map_columns
from .decoders import Decoders
from .engine import Engine
from .guard import Guard, error
from .jobs import Job, JobQueue
from .limits import Limits
from .metrics import Metrics
from .openapi import describe
from .parameters import OF_EXPLAIN, OF_JOBS, OF_PREDICT, OF_STREAMS, BadRequest, read_parameters
from .streams import Rows, Stream, Streams, gone
from .uploads import uploaded_video

PAGE = {
    "/": ("text/html", ("serve/page/index.html",)),
    "/page.js": ("text/javascript", ("serve/page/page.js",)),
    "/page.css": (
        "text/css",
        ("report/templates/style.css", "report/templates/timeline.css", "serve/page/page.css"),
    ),
}


class Service:
    """One model behind its addresses. `requests` counts those that upload, wait or compute."""

    def __init__(self, model: ViViT, *, name: str, limits: Limits, precision: str = "auto"):
        self.name, self.limits, self.metrics = name, limits, Metrics()
        self.engine = Engine(model, precision=precision)
        self.decoders = Decoders(model.config, limits, number=limits.workers)
        self.job_decoders = Decoders(model.config, limits, number=1)
        self.jobs = JobQueue(self.engine, self.job_decoders, limits)
        self.stream_decoders = Decoders(model.config, limits, number=limits.streams)
        self.streams = Streams(self.engine, self.stream_decoders, limits)
        self.requests = 0
        self.seconds = 1.0  # that a request takes, a moving average
        self.is_ready = False
        self.folder = Path()
        for name, about, read in (
            ("vivit_requests_in_progress", "Requests that upload, wait or compute.", lambda: self.requests),
            ("vivit_jobs_unfinished", "Jobs that wait or run.", lambda: self.jobs.unfinished),
            ("vivit_streams_open", "Streams that are open.", lambda: len(self.streams.open)),
            ("vivit_decoders_killed", "Decoding processes that broke a limit.", self.killed),
        ):
            self.metrics.gauge(name, about, read)

    def killed(self) -> int:
        """Count the decoding processes that broke a limit so far."""
        return self.decoders.killed + self.job_decoders.killed + self.stream_decoders.killed

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Start the thread and the processes; end them with the server."""
        with tempfile.TemporaryDirectory(prefix="vivit-serve-") as folder:
            self.folder = Path(folder)
            self.engine.start()
            try:
                await self.decoders.start()
                self.is_ready = True
                yield
            finally:
                self.is_ready = False
                await self.jobs.close()
                await self.streams.close()
                for decoders in (self.decoders, self.job_decoders, self.stream_decoders):
                    await decoders.close()
                await self.engine.close()

    @contextmanager
    def admitted(self):
        """Count a request while it is served, or refuse it with 503 where too many are."""
        if self.requests >= self.limits.queue:
            raise self.busy(self.requests, f"{self.requests} requests are being served")
        self.requests, started = self.requests + 1, time.monotonic()
        try:
            yield
        finally:
            self.requests -= 1
            self.seconds += 0.1 * (time.monotonic() - started - self.seconds)

    def busy(self, waiting: int, what: str) -> HTTPException:
        """Return the refusal of a server that has enough to do."""
        after = min(max(round(waiting * self.seconds), 1), 600)
        return HTTPException(503, f"{what}; try again in {after} s", {"retry-after": str(after)})

    async def predict(self, request: Request) -> Response:
        """Classify the video of the request, as `vivit.predict` does."""
        asked = read_parameters(request.query_params.multi_items(), OF_PREDICT)
        classes = self.engine.model.config.classes
        label_set = check_label_set(asked["label_set"], classes)
        timing = self.metrics.timing()
        with self.admitted():
            async with uploaded_video(request, self.folder) as path:
                fields = {name: asked[name] for name in ("start", "end", "temporal_views", "spatial_views")}
                [(about, views)] = await self.decoders.decode("views", str(path), observe=timing.add, **fields)
            logits = await self.engine.logits(torch.from_numpy(views), timing.add)
        found = Prediction("", top_classes(classes, logits.cpu().numpy(), asked["top_k"]))
        if asked["format"] == "huggingface":
            top = [{"label": name, "score": p} for name, p in found.classes[label_set]]
            return JSONResponse(top, headers=timing.header())
        answer = found.to_dict()
        del answer["path"]
        answer |= {"unsure": found.unsure(asked["threshold"]), "video": about["video"]}
        return JSONResponse(answer, headers=timing.header())

    async def explain(self, request: Request) -> Response:
        """Show where in the middle clip the model looks, as `vivit.explain` does."""
        asked = read_parameters(request.query_params.multi_items(), OF_EXPLAIN)
        classes = self.engine.model.config.classes
        label_set = None if asked["label_set"] is None else check_label_set(asked["label_set"], classes)
        if asked["label"] is not None and not any(
            asked["label"] in names for name, names in classes.items() if label_set in (None, name)
        ):
            raise BadRequest(f"label is {asked['label'][:50]!r}; it is a class of /v1/model")
        with self.admitted():
            async with uploaded_video(request, self.folder) as path:
                fields = {name: asked[name] for name in ("start", "end")}
                (about, video), (_, seconds) = await self.decoders.decode("clip", str(path), answers=2, **fields)
            clip = Clip("the video", torch.from_numpy(video), seconds)
            answer = await self.engine.call(partial(explain_to_dict, self.engine, clip, asked))
        return JSONResponse(answer | {"video": about["video"]})

    async def add_job(self, request: Request) -> Response:
        """Take a video whose timeline is computed while the client does something else."""
        asked = read_parameters(request.query_params.multi_items(), OF_JOBS)
        with self.admitted():
            self.refuse_job()
            async with uploaded_video(request, self.folder) as path:
                self.refuse_job()
                kept = path.rename(path.with_suffix(".job"))
            job = self.jobs.add(kept, asked)
        return JSONResponse(job.to_dict(), 202, {"location": f"/v1/jobs/{job.id}"})

    def refuse_job(self) -> None:
        """Raise HTTPException 503 where too many jobs wait."""
        if self.jobs.unfinished >= self.limits.jobs:
            raise self.busy(10 * self.jobs.unfinished, f"{self.jobs.unfinished} jobs wait or run")

    def job(self, request: Request) -> Job:
        """Return the job that the address names."""
        read_parameters(request.query_params.multi_items(), ())
        job = self.jobs.jobs.get(request.path_params["id"])
        if job is None:
            raise HTTPException(404, "there is no such job; it was deleted, or newer results have replaced it")
        return job

    async def get_job(self, request: Request) -> Response:
        """Return the status of a job, and its timeline if it is done."""
        return JSONResponse(self.job(request).to_dict())

    async def follow_job(self, request: Request) -> Response:
        """Send the progress of a job as server-sent events."""
        return StreamingResponse(self.job(request).events(), media_type="text/event-stream")

    async def delete_job(self, request: Request) -> Response:
        """Stop a job and forget it."""
        await self.jobs.remove(self.job(request))
        return Response(status_code=204)

    async def open_stream(self, request: Request) -> Response:
        """Open a stream, which takes a recording in chunks."""
        asked = read_parameters(request.query_params.multi_items(), OF_STREAMS)
        number = len(self.streams.open)
        if number >= self.limits.streams:
            raise self.busy(10 * number, f"{number} streams are open")
        stream = await self.streams.start(asked)
        return JSONResponse({"id": stream.id}, 201, {"location": f"/v1/streams/{stream.id}"})

    def stream(self, request: Request) -> Stream:
        """Return the stream that the address names."""
        read_parameters(request.query_params.multi_items(), ())
        stream = self.streams.open.get(request.path_params["id"])
        if stream is None:
            raise gone()
        return stream

    def rows(self, stream: Stream, rows: Rows) -> Response:
        """Return rows for JSON."""
        classes, top_k = self.engine.model.config.classes, stream.asked["top_k"]
        return JSONResponse({"rows": [row.to_dict(classes, top_k) for row in rows]})

    async def add_chunk(self, request: Request) -> Response:
        """Take the next chunk of a stream; return the rows that it finishes."""
        stream = self.stream(request)
        with stream.turn():
            try:
                async with uploaded_video(request, self.folder) as path:
                    rows = await stream.put(path)
            except ClientDisconnect:
                stream.end()
                raise
        return self.rows(stream, rows)

    async def end_stream(self, request: Request) -> Response:
        """End a stream; return its last rows."""
        stream, rows = self.stream(request), []
        try:
            rows = await stream.put(None)
        except VideoError:
            if stream.has_chunks:
                raise
        return self.rows(stream, rows)

    async def model(self, request: Request) -> Response:
        """Say what the model is: its classes and its clip."""
        config = self.engine.model.config
        shape = {"frames": config.num_frames, "height": config.image_size[0], "width": config.image_size[1]}
        classes = {name: list(names) for name, names in config.classes.items()}
        about = {"name": self.name, "encoder": config.encoder, "body_bytes": self.limits.body_bytes}
        return JSONResponse(about | shape | {"classes": classes})

    async def healthz(self, request: Request) -> Response:
        """Say that the server answers."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Say whether a prediction would be taken now."""
        if not self.is_ready or not any(worker.is_alive for worker in self.decoders.workers):
            return error(503, "no decoding process is ready yet", {"retry-after": "1"})
        if self.requests >= self.limits.queue:
            return error(503, "the queue is full", {"retry-after": "1"})
        return JSONResponse({"status": "ready"})

    async def read_metrics(self, request: Request) -> Response:
        """Return the counters in Prometheus' text format."""
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def openapi(self, request: Request) -> Response:
        """Describe all this in OpenAPI."""
        return JSONResponse(describe(self.limits))

    async def page(self, request: Request) -> Response:
        """Return a file of the page."""
        kind, names = PAGE[request.url.path]
        return Response(b"".join(files("vivit").joinpath(name).read_bytes() for name in names), media_type=kind)


def check_label_set(name: str | None, classes: Any) -> str:
    """Return the label set, by default the first one. Raises BadRequest."""
    if name is not None and name not in classes:
        raise BadRequest(f"label_set is {name[:50]!r}; the model has {', '.join(classes)}")
    return name or next(iter(classes))


def explain_to_dict(engine: Engine, clip: Clip, asked: dict[str, Any]) -> dict[str, Any]:
    """Explain a clip and return the moments for JSON, with pictures as data URLs."""
    config = ExplainConfig(random_orders=asked["random_orders"])
    found = explain_clip(engine.model, clip, label_set=asked["label_set"], label=asked["label"], config=config)
    columns = map_columns(clip.video, found.joint, found.time, found.frames)
    moments = [
        {
            "seconds": round(float(clip.seconds[column.number - 1]), 6),
            "share": column.share,
            "frame": column.frame,
            "map": column.heat,
        }
        for column in columns
    ]
    trusted = found.evidence.better_than_random if found.evidence else None
    about = {"label_set": found.label_set, "label": found.label, "score": found.score, "method": found.method}
    return {**about, "better_than_random": trusted, "moments": moments}


def make_app(service: Service, *, token: str | None = None, hosts: tuple[str, ...] | None = None) -> Starlette:
    """Return the application of a service; see `Guard` for `token` and `hosts`."""
    get: dict[str, Callable[[Request], Awaitable[Response]]] = {
        **dict.fromkeys(PAGE, service.page),
        "/healthz": service.healthz,
        "/readyz": service.readyz,
        "/metrics": service.read_metrics,
        "/openapi.json": service.openapi,
        "/v1/model": service.model,
        "/v1/jobs/{id}": service.get_job,
        "/v1/jobs/{id}/events": service.follow_job,
    }
    post = {
        "/v1/predict": service.predict,
        "/v1/explain": service.explain,
        "/v1/jobs": service.add_job,
        "/v1/streams": service.open_stream,
        "/v1/streams/{id}": service.add_chunk,
    }
    guard = Middleware(Guard, limits=service.limits, token=token, hosts=hosts, metrics=service.metrics)
    return Starlette(
        routes=[
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in get.items()),
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in post.items()),
            Route("/v1/jobs/{id}", service.delete_job, methods=["DELETE"]),
            Route("/v1/streams/{id}", service.end_stream, methods=["DELETE"]),
        ],
        middleware=[guard],
        exception_handlers={
            HTTPException: lambda _, e: error(e.status_code, e.detail, e.headers),  # type: ignore[attr-defined]
            BadRequest: lambda _, e: error(400, str(e)),
            ClientDisconnect: lambda _, e: error(400, "the client has gone"),
            VideoError: lambda _, e: error(422, f"the video {e.reason}; expected {e.expected}"),  # type: ignore[attr-defined]
            WeightsError: weights_at_fault,
            VivitError: lambda _, e: error(422, str(e)),
            Exception: server_at_fault,
        },
        lifespan=service.lifespan,
    )


def weights_at_fault(request: Request, exception: Exception) -> Response:
    """Answer 500 where the model gives no numbers, and say so in the log."""
    logging.getLogger("vivit").error("%s", exception)
    return error(500, str(exception))


def server_at_fault(request: Request, exception: Exception) -> Response:
    """Answer 500 without a word of what is inside; Starlette logs it."""
    return error(500, "the server made a mistake; its log has more")
