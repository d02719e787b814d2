"""A client of `vivit serve` that needs the standard library only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

from ..errors import VivitError


class ServerError(VivitError):
    """The server refused: `status` is the number, the message is what it says; `retry_after` seconds if it is busy."""

    def __init__(self, status: int, message: str, retry_after: float | None = None):
        super().__init__(status, message, retry_after)
        self.status, self.message, self.retry_after = status, message, retry_after

    def __str__(self) -> str:
        return f"{self.message} (HTTP {self.status})"


class Client:
    """Ask a server at `url`, such as "http://127.0.0.1:8000". Parameters are those of its /openapi.json."""

    def __init__(self, url: str = "http://127.0.0.1:8000", *, token: str | None = None, timeout: float = 300.0):
        self.url, self.timeout = url.rstrip("/"), timeout
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.opener = build_opener(ProxyHandler({}))

    def predict(self, video: Path | str, **parameters: str | float) -> Any:
        """Classify a video file; returns {"classes": {label set: [{"name", "probability"}]}, "unsure", "video"}."""
        return self._json("POST", "/v1/predict", video, parameters)

    def explain(self, video: Path | str, **parameters: str | float) -> dict[str, Any]:
        """Show where the model looks; returns {"label", "score", "moments": [{"seconds", "share", "map", …}], …}."""
        return self._json("POST", "/v1/explain", video, parameters)

    def submit(self, video: Path | str, **parameters: str | float) -> dict[str, Any]:
        """Start a job that computes the timeline of a long video; returns {"id", "status", …}."""
        return self._json("POST", "/v1/jobs", video, parameters)

    def job(self, id: str) -> dict[str, Any]:
        """Return the job; "result" is its timeline when it is done."""
        return self._json("GET", f"/v1/jobs/{id}")

    def follow(self, id: str) -> Iterator[dict[str, Any]]:
        """Yield the job each time it gets on, until it is done or failed."""
        with self._open("GET", f"/v1/jobs/{id}/events") as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])

    def delete(self, id: str) -> None:
        """Stop a job and forget its result."""
        self._open("DELETE", f"/v1/jobs/{id}").close()

    def stream(self, chunks: Iterable[bytes], **parameters: str | float) -> Iterator[dict[str, Any]]:
        """Send the chunks of one video, cut anywhere, and yield its rows as soon as each is there."""
        path = f"/v1/streams/{self._json('POST', '/v1/streams', None, parameters)['id']}"
        try:
            for chunk in chunks:
                with self._open("POST", path, chunk, len(chunk)) as answer:
                    yield from json.load(answer)["rows"]
        except BaseException:
            with suppress(ServerError):  # of a stream that the error has ended
                self._open("DELETE", path).close()
            raise
        yield from self._json("DELETE", path)["rows"]

    def _json(self, method: str, path: str, video: Path | str | None = None, parameters: Any = None) -> Any:
        query = f"?{urlencode(parameters)}" if parameters else ""
        if video is None:
            with self._open(method, path + query) as answer:
                return json.load(answer)
        with open(video, "rb") as file, self._open(method, path + query, file, Path(video).stat().st_size) as answer:
            return json.load(answer)

    def _open(self, method: str, path: str, body: Any = None, size: int = 0) -> Any:
        headers = self.headers | (
            {"Content-Type": "application/octet-stream", "Content-Length": str(size)} if body else {}
        )
        try:
            return self.opener.open(Request(self.url + path, body, headers, method=method), timeout=self.timeout)
        except HTTPError as error:
            with error:
                text, after = error.read().decode("utf-8", "replace"), error.headers.get("Retry-After")
            message = json.loads(text)["error"] if text.startswith("{") else text
            raise ServerError(error.code, message, float(after) if after else None) from None
