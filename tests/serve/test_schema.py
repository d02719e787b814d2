"""Send what the OpenAPI document allows, and what it does not, and hold every answer against the document."""

import json
from urllib.request import urlopen

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from starlette.routing import Route

schema = schemathesis.pytest.from_fixture("document")
EXAMPLES = 12  # of each address


@pytest.fixture(scope="module")
def document(server):
    with urlopen(f"{server.url}/openapi.json") as answer:
        return schemathesis.openapi.from_dict(json.load(answer))


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_those_of_the_document(case, server):
    answer = case.call(base_url=server.url)
    case.validate_response(answer)
    assert answer.status_code != 500, answer.text


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
