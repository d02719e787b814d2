"""Describe the addresses in OpenAPI 3.1, from the table of parameters. The tests send what it allows and what not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..install_check import installed_version
from .limits import Limits
from .parameters import OF_EXPLAIN, OF_JOBS, OF_PREDICT, OF_STREAMS, PARAMETERS
from .uploads import FIELD

BYTES = {"type": "string", "format": "binary"}
NUMBER, TEXT, COUNT = {"type": "number"}, {"type": "string"}, {"type": "integer", "minimum": 0}


def record(**fields: Any) -> dict[str, Any]:
    """Return the schema of an object that has all of these fields; those that end in _ may be missing."""
    properties = {name.rstrip("_"): schema for name, schema in fields.items()}
    return {"type": "object", "properties": properties, "required": [name for name in fields if name[-1] != "_"]}


def array(items: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def by_label_set(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with a value for every label set."""
    return {"type": "object", "additionalProperties": schema}


VIDEO = record(
    seconds=NUMBER, frames=COUNT, fps=NUMBER, width=COUNT, height=COUNT, problem={"type": ["string", "null"]}
)
TIMELINE = record(
    video=VIDEO,
    hop=NUMBER,
    start=array(NUMBER),
    end=array(NUMBER),
    center=array(NUMBER),
    classes=by_label_set(array(record(name=TEXT, probability=array(NUMBER)))),
    segments=array(record(label_set=TEXT, label=TEXT, start=NUMBER, end=NUMBER, score=NUMBER)),
)
TOP = array(record(name=TEXT, probability=NUMBER))
ROW = record(
    start=NUMBER,
    end=NUMBER,
    center=NUMBER,
    padded={"type": "boolean"},
    dropped=COUNT,
    connection=COUNT,
    latency=NUMBER,
    classes=by_label_set(TOP),
)
SCHEMAS = {
    "Error": record(error=TEXT),
    "Prediction": record(classes=by_label_set(TOP), unsure=array(TEXT), video=VIDEO),
    "HuggingFace": array(record(label=TEXT, score=NUMBER)),
    "Explanation": record(
        label_set=TEXT,
        label=TEXT,
        score=NUMBER,
        method=TEXT,
        better_than_random={"type": ["boolean", "null"]},
        moments=array(record(seconds=NUMBER, share=NUMBER, frame=TEXT, map=TEXT)),
        video=VIDEO,
    ),
    "Job": record(
        id=TEXT,
        status={"enum": ["waiting", "running", "done", "failed"]},
        done=COUNT,
        total=COUNT,
        error_=TEXT,
        result_=TIMELINE,
    ),
    "Stream": record(id=TEXT),
    "Rows": record(rows=array(ROW)),
    "Model": record(
        name=TEXT,
        encoder=TEXT,
        body_bytes=COUNT,
        frames=COUNT,
        height=COUNT,
        width=COUNT,
        classes=by_label_set(array(TEXT)),
    ),
    "Status": record(status=TEXT),
}
ERRORS = {
    "400": "A parameter or the form is wrong.",
    "401": "The token is wrong or missing.",
    "403": "Another name of the server, or a page of another site.",
    "404": "There is no such job or stream.",
    "408": "The body comes too slowly.",
    "409": "Another chunk of the stream is still being taken.",
    "413": "The body is larger than the limit.",
    "415": "The body is neither a video nor a form.",
    "422": "The video cannot be decoded within the limits.",
    "500": "The server is at fault.",
    "503": "The queue is full; Retry-After says when to come back.",
}
OF_UPLOADS = ("400", "401", "403", "408", "413", "415", "422", "500", "503")


def reference(*names: str) -> dict[str, Any]:
    """Return the schema of one of the named ones."""
    found = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    return found[0] if len(found) == 1 else {"anyOf": found}


def answer(about: str, *names: str, kind: str = "application/json") -> dict[str, Any]:
    """Return the description of an answer."""
    return {"description": about, "content": {kind: {"schema": reference(*names) if names else TEXT}}}


def errors(*codes: str) -> dict[str, Any]:
    """Return the descriptions of errors."""
    found = {code: answer(ERRORS[code], "Error") for code in codes}
    if "503" in found:
        found["503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return found


def in_query(names: Sequence[str]) -> list[dict[str, Any]]:
    """Describe parameters of the query."""
    return [
        {"name": name, "in": "query", "description": PARAMETERS[name].about, "schema": PARAMETERS[name].schema()}
        for name in names
    ]


def upload(summary: str, parameters: Sequence[str], status: str, good: dict[str, Any]) -> dict[str, Any]:
    """Describe an address that takes a video."""
    form = {"type": "object", "properties": {FIELD: BYTES}, "required": [FIELD], "additionalProperties": False}
    bodies = {"application/octet-stream": BYTES, "video/*": BYTES, "multipart/form-data": form}
    return {
        "summary": summary,
        "parameters": in_query(parameters),
        "requestBody": {"required": True, "content": {kind: {"schema": schema} for kind, schema in bodies.items()}},
        "responses": {status: good, **errors(*OF_UPLOADS)},
    }


def describe(limits: Limits) -> dict[str, Any]:
    """Return the OpenAPI document of a server."""
    read = errors("401", "403")
    of_job = errors("400", "401", "403", "404")
    place = [{"name": "id", "in": "path", "required": True, "schema": TEXT}]
    predict = upload("Classify a video.", OF_PREDICT, "200", answer("The classes.", "Prediction", "HuggingFace"))
    explain = upload("Show where the model looks.", OF_EXPLAIN, "200", answer("Moments.", "Explanation"))
    add = upload("Compute the timeline of a long video.", OF_JOBS, "202", answer("The job waits.", "Job"))
    job = {
        "get": {"summary": "Status and result.", "responses": {"200": answer("The job.", "Job"), **of_job}},
        "delete": {"summary": "Stop and forget.", "responses": {"204": {"description": "It is gone."}, **of_job}},
        "parameters": place,
    }
    chunk = upload("Send the next chunk of a stream.", (), "200", answer("What it finishes.", "Rows"))
    chunk["responses"] |= errors("404", "409")
    last = {"200": answer("The last rows.", "Rows"), **of_job, **errors("422", "500")}
    opened = {"201": answer("It is open.", "Stream"), **errors("400", "401", "403", "422", "500", "503")}
    events = answer("Server-sent events: progress, then done or failed.", kind="text/event-stream")
    text = answer("Counters.", kind="text/plain")
    ready = {"200": answer("It is.", "Status"), **errors("403", "503")}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vivit",
            "version": installed_version("vivit"),
            "description": f"Video classification. A body has at most {limits.body_bytes} bytes.",
        },
        "paths": {
            "/v1/predict": {"post": predict},
            "/v1/explain": {"post": explain},
            "/v1/jobs": {"post": add},
            "/v1/jobs/{id}": job,
            "/v1/jobs/{id}/events": {
                "get": {"summary": "Follow the progress.", "responses": {"200": events, **of_job}},
                "parameters": place,
            },
            "/v1/streams": {
                "post": {
                    "summary": "Open a stream, which takes a recording in chunks.",
                    "parameters": in_query(OF_STREAMS),
                    "responses": opened,
                }
            },
            "/v1/streams/{id}": {
                "post": chunk,
                "delete": {"summary": "End a stream.", "responses": last},
                "parameters": place,
            },
            "/v1/model": {"get": {"summary": "The model.", "responses": {"200": answer("It.", "Model"), **read}}},
            "/healthz": {
                "get": {"summary": "Does it answer?", "responses": {"200": answer("Yes.", "Status"), **errors("403")}}
            },
            "/readyz": {"get": {"summary": "Would it take a video now?", "responses": ready}},
            "/metrics": {"get": {"summary": "Prometheus.", "responses": {"200": text, **read}}},
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }
