"""What the server answers is what the package computes: classes, timelines, explanations."""

import json
from urllib.request import Request, urlopen

import pytest

import vivit
from vivit.inference.segments import segments
from vivit.serve.client import ServerError


def post(server, path, body, kind="application/octet-stream"):
    request = Request(server.url + path, body, {"Content-Type": kind}, method="POST")
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)


def assert_same_classes(answer, expected):
    assert list(answer["classes"]) == list(expected.classes)
    for label_set, top in expected.classes.items():
        assert [one["name"] for one in answer["classes"][label_set]] == [name for name, _ in top]
        assert [one["probability"] for one in answer["classes"][label_set]] == pytest.approx(
            [p for _, p in top], abs=1e-6
        )


@pytest.mark.parametrize(
    "asked",
    [{}, {"temporal_views": 1, "spatial_views": 1, "top_k": 1}, {"start": 0.5, "end": 1.5, "temporal_views": 2}],
)
def test_a_prediction_is_that_of_the_package(server, video, asked):
    answer = server.client.predict(video, **asked)
    assert_same_classes(answer, vivit.predict(server.model, video, **asked))
    assert answer["video"]["frames"] == 50
    assert "path" not in answer


def test_a_form_and_a_raw_body_give_the_same_answer(server, video):
    data = video.read_bytes()
    form = (
        b'--x\r\nContent-Disposition: form-data; name="video"; filename="../../etc/passwd"\r\n\r\n%s\r\n--x--\r\n'
        % data
    )
    raw = post(server, "/v1/predict?top_k=2", data, "video/mp4")
    assert post(server, "/v1/predict?top_k=2", form, "multipart/form-data; boundary=x") == raw


def test_the_shape_of_hugging_face(server, video):
    expected = vivit.predict(server.model, video, top_k=2).classes
    for label_set in ("noun", "verb"):
        answer = server.client.predict(video, format="huggingface", label_set=label_set, top_k=2)
        assert [one["label"] for one in answer] == [name for name, _ in expected[label_set]]
        assert [one["score"] for one in answer] == pytest.approx([p for _, p in expected[label_set]], abs=1e-6)
    assert server.client.predict(video, format="huggingface", top_k=2) == server.client.predict(
        video, format="huggingface", top_k=2, label_set="noun"
    )


def test_below_the_threshold_label_sets_are_unsure(server, video):
    [(_, best), *_] = vivit.predict(server.model, video).classes["noun"]
    assert "noun" not in server.client.predict(video, threshold=round(best - 0.01, 6))["unsure"]
    assert "noun" in server.client.predict(video, threshold=round(best + 0.01, 6))["unsure"]


@pytest.mark.parametrize("asked", [{}, {"hop": 0.2, "crops": 3}, {"start": 0.7, "end": 1.4, "hop": 0.1}, {"hop": 1}])
def test_the_result_of_a_job_is_the_timeline_of_the_package(server, video, asked):
    job = server.client.submit(video, top_k=3, **asked)
    seen = list(server.client.follow(job["id"]))
    assert seen[-1]["status"] == "done"
    assert [one["done"] for one in seen] == sorted(one["done"] for one in seen)
    result = server.client.job(job["id"])["result"]
    expected = vivit.timeline(server.model, video, **asked)
    assert result["center"] == pytest.approx(expected.center.tolist(), abs=1e-6)
    assert result["start"] == pytest.approx(expected.start.tolist(), abs=1e-6)
    for label_set, names in expected.classes.items():
        probabilities = expected.probabilities(label_set)
        assert {one["name"] for one in result["classes"][label_set]} == set(names)
        for one in result["classes"][label_set]:
            assert one["probability"] == pytest.approx(probabilities[:, names.index(one["name"])].tolist(), abs=2e-6)
    found = [s for label_set in expected.classes for s in segments(expected, label_set)]
    assert [(s["label"], s["start"], s["end"]) for s in result["segments"]] == [
        (s.label, s.start, s.end) for s in found
    ]
    server.client.delete(job["id"])
    with pytest.raises(ServerError, match="no such job"):
        server.client.job(job["id"])


def test_an_explanation_is_that_of_the_package(server, video):
    answer = server.client.explain(video, label_set="verb", label="take")
    expected = vivit.explain(server.model, video, label_set="verb", label="take")
    assert (answer["label"], answer["score"]) == ("take", pytest.approx(expected.score, abs=1e-6))
    assert [one["share"] for one in answer["moments"]] == pytest.approx(expected.time.tolist(), abs=1e-6)
    assert all(one["map"].startswith("data:image/jpeg;base64,") for one in answer["moments"])
    assert answer["better_than_random"] is None
    checked = server.client.explain(video, random_orders=2)
    assert checked["better_than_random"] in (True, False)


def test_the_model_says_what_it_is(server):
    with urlopen(f"{server.url}/v1/model") as answer:
        about = json.load(answer)
    assert about["classes"] == {"noun": ["cup", "dog", "pen"], "verb": ["put", "take"]}
    assert (about["name"], about["frames"]) == ("tiny", server.model.config.num_frames)


def test_an_answer_says_how_long_it_waited_decoded_and_computed(server, video):
    with urlopen(Request(f"{server.url}/v1/predict", video.read_bytes(), {"Content-Type": "video/mp4"})) as answer:
        timing = answer.headers["server-timing"]
    stages = dict(part.split(";dur=") for part in timing.split(", "))
    assert list(stages) == ["wait", "decode", "compute"]
    assert all(0 <= float(value) < 60_000 for value in stages.values())
    assert float(stages["decode"]) > 0 < float(stages["compute"])


def test_metrics_count_requests_and_stages(server, video):
    server.client.predict(video)
    with urlopen(f"{server.url}/metrics") as answer:
        assert answer.headers["content-type"].startswith("text/plain")
        text = answer.read().decode()
    assert 'vivit_requests_total{endpoint="predict",status="200"}' in text
    assert 'vivit_stage_seconds_count{stage="compute"}' in text
    for path in ("/healthz", "/readyz"):
        with urlopen(server.url + path) as answer:
            assert answer.status == 200
