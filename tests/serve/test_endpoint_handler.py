"""The handler.py that push_to_hub uploads, loaded from the uploaded folder as a Hugging Face endpoint loads it."""

import base64
import importlib.util
import shutil
import tempfile

import pytest

import vivit


@pytest.fixture(scope="module")
def handler(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "uploaded"

    class Api:
        def create_repo(self, repo_id, **_):
            pass

        def upload_folder(self, *, folder_path, **_):
            shutil.copytree(folder_path, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.HfApi", Api)
        model.push_to_hub("me/model")
    spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


def test_bytes_and_base64_give_the_answer_of_the_package(handler, model, video, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = video.read_bytes()
    [noun, verb] = vivit.predict(model, video, top_k=2).classes.values()
    expected = [{"label": name, "score": pytest.approx(p, abs=1e-6)} for name, p in noun]
    assert handler({"inputs": data, "parameters": {"top_k": 2}}) == expected
    assert handler({"inputs": base64.b64encode(data).decode(), "parameters": {"top_k": 2}}) == expected
    best = handler({"inputs": data, "parameters": {"label_set": "verb", "top_k": 1}})
    assert best[0]["label"] == verb[0][0]
    assert len(handler({"inputs": data})) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"inputs": "http://example.org/clip.mp4"}, "addresses are not fetched"),
        ({}, "inputs is a NoneType"),
        ({"inputs": b"", "parameters": {"topk": 1}}, r"unknown parameters \['topk'\]"),
        ({"inputs": b"", "parameters": {"label_set": "x"}}, "the model has noun, verb"),
    ],
)
def test_wrong_requests_are_named(handler, request_, said):
    with pytest.raises(ValueError, match=said):
        handler(request_)


def test_bytes_that_are_no_video_are_an_error_of_the_video(handler):
    with pytest.raises(vivit.VideoError):
        handler({"inputs": b"no video"})
