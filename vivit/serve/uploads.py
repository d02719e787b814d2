"""Take the video of a request: into a file with a random name, never more than the limit."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from .parameters import BadRequest

FIELD = "video"  # of a form
RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")  # the last is what curl says by default


@asynccontextmanager
async def uploaded_video(request: Request, folder: Path) -> AsyncIterator[Path]:
    """Yield a file with the video that the request brings, as its body or in a form; it is removed at the end.

    The name that the client gives its file is not looked at. Raises BadRequest without a video, HTTPException 415 for
    another type of body; size and pace are the guard's.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    path = folder / secrets.token_hex(16)
    try:
        if kind == "multipart/form-data":
            async with request.form(max_files=1, max_fields=0) as form:
                video = form.get(FIELD)
                if not isinstance(video, UploadFile):
                    raise BadRequest(f"the form has no file called {FIELD!r}: curl -F {FIELD}=@clip.mp4 …")
                await run_in_threadpool(copy, video, path)
        elif kind in RAW or kind.startswith("video/"):
            with path.open("xb") as file:
                async for chunk in request.stream():
                    file.write(chunk)
        else:
            raise HTTPException(415, f"the body is {kind[:50]!r}; send the bytes of a video, or multipart/form-data")
        if not path.stat().st_size:
            raise BadRequest("there is no video in the request: send its bytes as the body, or a form")
        yield path
    finally:
        path.unlink(missing_ok=True)


def copy(video: UploadFile, path: Path) -> None:
    """Write an uploaded file to `path`."""
    with path.open("xb") as file:
        shutil.copyfileobj(video.file, file, 2**20)
