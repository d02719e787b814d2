"""What stands before the application: who may ask, how large and how slow a request may be, headers of the answers."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from asyncio import Transport
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .limits import Limits
from .metrics import Metrics

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
LINGER_SECONDS = 2  # for the rest of a body that is refused
SEND_SECONDS = 30  # for a client that does not read its answer
# The page has no secrets, and its token is typed into it. Health is for the machine that watches the server.
HEALTH = ("/healthz", "/readyz")
PUBLIC = ("/", "/page.js", "/page.css", "/openapi.json", *HEALTH)
SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Let through requests with the token, from the server's own page or from no page, that keep the limits.

    `hosts` are the names that a request may call the server by; None: any. Names other than its own are what a page
    uses whose address was rebound to this machine.
    """

    def __init__(
        self, app: ASGIApp, *, limits: Limits, token: str | None, hosts: tuple[str, ...] | None, metrics: Metrics
    ):
        self.app, self.limits, self.hosts, self.metrics = app, limits, hosts, metrics
        self.token = None if token is None else digest(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, complete = time.monotonic(), 500, False

        async def watched_receive() -> Message:
            nonlocal complete
            message = await receive()
            complete = not message.get("more_body", False)
            return message

        async def linger() -> None:
            """Throw away what is left of the body, so that a client that sends first can read the refusal."""
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    while not complete:
                        await watched_receive()

        async def guarded_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
            is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
            async with asyncio.timeout(SEND_SECONDS):
                if is_last and status >= 400 and not complete:
                    await send({**message, "more_body": True})
                    await linger()
                    message = {"type": "http.response.body"}
                await send(message)

        try:
            if refusal := self.refusal(scope):
                await refusal(scope, receive, guarded_send)
            else:
                await self.app(scope, limited(watched_receive, self.limits), guarded_send)
        finally:
            endpoint = getattr(scope.get("endpoint"), "__name__", "none")
            self.metrics.request(endpoint, status, time.monotonic() - started)

    def refusal(self, scope: Scope) -> JSONResponse | None:
        """Return the answer to a request that may not pass."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self.hosts is not None and name.lower() not in self.hosts and scope["path"] not in HEALTH:
            return error(403, f"this server is not called {name[:50]!r}; its names are {', '.join(self.hosts)}")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return error(403, "a page of another site may not use this server")
        if self.token is not None and scope["path"] not in PUBLIC:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(digest(given.strip()), self.token):
                answer = error(401, "wrong or missing token; send the header Authorization: Bearer TOKEN")
                answer.headers["www-authenticate"] = "Bearer"
                return answer
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.limits.body_bytes:
            return error(413, too_large(self.limits))
        return None


def limited(receive: Receive, limits: Limits) -> Receive:
    """Return a `receive` that raises HTTPException 413 for a byte beyond the limit, 408 for a body that is too slow."""
    size, waited, complete = 0, 0.0, False

    async def limited_receive() -> Message:
        nonlocal size, waited, complete
        if complete:  # what comes now is the end of the connection, which may take as long as it likes
            return await receive()
        started = time.monotonic()
        allowed = limits.body_grace + size / (1e3 * limits.body_kb_per_second)
        try:
            async with asyncio.timeout(max(allowed - waited, 0)):
                message = await receive()
        except TimeoutError:
            rate = f"{limits.body_kb_per_second:g} kB/s after {limits.body_grace:g} s"
            raise HTTPException(408, f"the body comes too slowly; at least {rate} are needed") from None
        waited += time.monotonic() - started
        size += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if size > limits.body_bytes:
            raise HTTPException(413, too_large(limits))
        return message

    return limited_receive


def too_large(limits: Limits) -> str:
    return f"the body is larger than {limits.body_bytes} bytes; cut the video, or raise --limits.body-mb of the server"


def digest(text: str) -> bytes:
    """Return a hash of a token, so that comparing takes the same time for every length."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error in the shape that all of them have."""
    return JSONResponse({"error": message}, status, headers)


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose request line and headers take longer than `header_seconds`."""

    header_seconds = Limits.header_seconds

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start the clock with the connection."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Stop the clock when a request is complete as far as its headers; start it with the next one."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self.header_timer is None and not self.transport.is_closing():
            self.header_timer = self.loop.call_later(self.header_seconds, self.transport.close)

    def _stop(self) -> None:
        if self.header_timer is not None:
            self.header_timer.cancel()
            self.header_timer = None
