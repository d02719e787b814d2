"""Send what the OpenAPI document allows, and what it does not, and hold every answer against the document."""

import json
from collections import Counter
from contextlib import suppress
from urllib.request import urlopen

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.routing import Route

from .conftest import serving

EXAMPLES = 12  # of each address; bytes that fit the document are seldom a video, and refused as such
QUICK = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def server(model):
    with serving(model, jobs=1000, streams=1) as running:
        assert list(running.client.stream([])) == []  # so that a decoding process is warm: the others are impatient
        yield running


@pytest.fixture(scope="module")
def document(server):
    with urlopen(f"{server.url}/openapi.json") as answer:
        return schemathesis.openapi.from_dict(json.load(answer))


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_are_those_of_the_document(server, document, mode, video):
    seen = Counter()
    for operation in (found.ok() for found in document.get_all_operations()):

        @QUICK
        @given(operation.as_strategy(generation_mode=mode))
        def send(case):
            if mode is GenerationMode.POSITIVE and isinstance(case.body, bytes) and len(case.body) % 2:
                case.body = video.read_bytes()
            answer = case.call(base_url=server.url)
            seen[answer.status_code] += 1
            assert answer.status_code != 500, answer.text
            refused = [not_a_server_error] if answer.status_code == 503 else []  # another stream is open
            case.validate_response(answer, excluded_checks=[positive_data_acceptance, *refused])

        with suppress(Unsatisfiable):  # an address without anything that could be wrong
            send()
    assert sum(seen.values()) >= 36, seen
    assert {400} <= set(seen) if mode is GenerationMode.NEGATIVE else {200, 422} <= set(seen), seen
    with urlopen(f"{server.url}/readyz") as answer:
        assert answer.status == 200


def test_every_address_is_described(server, document):
    routes = {
        (route.path, method.lower())
        for route in server.server.config.app.routes
        if isinstance(route, Route)
        for method in route.methods - {"HEAD"}
    }
    described = {
        (path, method)
        for path, operations in document.raw_schema["paths"].items()
        for method in operations
        if method != "parameters"
    }
    assert routes - described == {("/", "get"), ("/page.js", "get"), ("/page.css", "get"), ("/openapi.json", "get")}
    assert described <= routes
