"""Multi-view evaluation and prediction against one forward pass per view."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from vivit.config import Config, EvalConfig
from vivit.data.dataset import eval_views
from vivit.data.datasets.registry import read_samples
from vivit.data.sample import Sample
from vivit.data.sample_table import list_hash
from vivit.engine.distributed import World
from vivit.engine.evaluate import (
    evaluate,
    evaluate_weights,
    format_evaluation,
    official_subsets,
)
from vivit.engine.evaluation import Evaluation, load_evaluation
from vivit.engine.metrics import confusion
from vivit.engine.train import train
from vivit.errors import DataError
from vivit.inference.predict import predict
from vivit.model.token_reduction import reduce_tokens
from vivit.model.vivit import ViViT

from ..data.videos import counter_frames, write_video
from .tiny import ALONE, quick, tiny_config, write_table

MODEL = tiny_config("", "").model
PROTOCOL = EvalConfig(temporal_views=3, spatial_views=3, batch_views=4)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("evaluate") / "data", train=4, val=4, broken=1)


@pytest.fixture(scope="module")
def samples(root):
    """Four videos and a broken one, of which two parts are asked for."""
    rows = read_samples("folder", str(root), "val")
    assert "broken" in rows[-1].path
    return [*rows, replace(rows[-1], start=0.1)]


def random_model(**changes):
    torch.manual_seed(1)
    model = ViViT(
        replace(MODEL, classes={"colour": ("green", "red"), "light": ("bright", "dark", "none")}, **changes)
    ).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def naive_logits(model, sample, protocol):
    """(single view, mean over the views), one view at a time."""
    with torch.no_grad():
        single, *views = [model(view[None])[0] for view in eval_views(sample, model.config, protocol)]
    return single, sum(views) / len(views)


def test_logits_are_the_mean_over_temporal_times_spatial_views(samples):
    model = random_model()
    result = evaluate(model, samples, protocol=PROTOCOL)
    expected = [naive_logits(model, s, PROTOCOL) for s in result.samples]
    torch.testing.assert_close(result.single, torch.stack([e[0] for e in expected]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.multi, torch.stack([e[1] for e in expected]), atol=1e-5, rtol=1e-5)
    truth = [
        [{"green": 0, "red": 1}[s.labels["colour"]], {"bright": 0, "dark": 1}[s.labels["light"]]]
        for s in result.samples
    ]
    assert result.labels.tolist() == truth


def test_missing_videos_are_counted_named_and_in_no_number(samples):
    model = random_model()
    result = evaluate(model, samples, protocol=PROTOCOL)
    assert (len(result.samples), len(result.missing)) == (4, 2)  # two parts of one broken file are two
    assert all("broken-val0.mp4" in problem for problem in result.missing.values())
    sound = evaluate(model, [s for s in samples if "broken" not in s.path], protocol=PROTOCOL)
    assert result.accuracy == sound.accuracy
    assert "4 videos, 2 missing" in format_evaluation(result)


@pytest.mark.parametrize("batch_views", [1, 7, 1000])
def test_the_batch_of_views_does_not_change_the_result(samples, batch_views):
    model = random_model()
    a, b = (evaluate(model, samples, protocol=replace(PROTOCOL, batch_views=n)) for n in (4, batch_views))
    torch.testing.assert_close(a.multi, b.multi, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a.single, b.single, atol=1e-5, rtol=1e-5)


def test_workers_do_not_change_the_result(samples):
    model = random_model()
    a, b = (evaluate(model, samples, protocol=PROTOCOL, workers=n) for n in (0, 2))
    assert bool((a.multi == b.multi).all())
    assert a.missing == b.missing


@dataclass(frozen=True)
class Apart(World):
    """One of several processes, of whom it hears nothing."""

    def gather(self, value):
        return [value]


@pytest.mark.parametrize("size", [2, 4, 7])  # of 6 videos, two of them missing
def test_every_video_is_evaluated_by_exactly_one_process_with_the_same_result(samples, size):
    model, calls = random_model(), []
    whole = evaluate(model, samples, protocol=PROTOCOL)
    model.register_forward_hook(lambda *_: calls.append(1))
    shares, passes = [], []
    for rank in range(size):
        calls.clear()
        shares.append(evaluate(model, samples, protocol=PROTOCOL, world=Apart(rank, size, ALONE.device)))
        passes.append(len(calls))
    assert len(set(passes)) == 1  # a model that is divided among processes needs all of them in every pass
    rows = {id(s): (single, multi) for r in shares for s, single, multi in zip(r.samples, r.single, r.multi)}
    assert sum(len(r.samples) for r in shares) == len(rows) == len(whole.samples)
    for s, single, multi in zip(whole.samples, whole.single, whole.multi):
        torch.testing.assert_close(rows[id(s)][0], single, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(rows[id(s)][1], multi, atol=1e-5, rtol=1e-5)
    assert sorted(pair for r in shares for pair in r.missing.items()) == sorted(whole.missing.items())


def test_what_all_processes_found_is_the_result_of_each(samples):
    model, found = random_model(), []
    whole = evaluate(model, samples, protocol=PROTOCOL)

    @dataclass(frozen=True)
    class Together(World):
        def gather(self, value):
            found.append(value)
            return found

    for rank in range(3):  # the last one hears of all
        result = evaluate(model, samples, protocol=PROTOCOL, world=Together(rank, 3, ALONE.device))
    assert result.samples == whole.samples
    assert bool((result.labels == whole.labels).all())
    torch.testing.assert_close(result.multi, whole.multi, atol=1e-5, rtol=1e-5)
    assert list(result.missing.items()) == list(whole.missing.items())
    assert result.list_hash == whole.list_hash


def test_a_single_view_protocol_gives_the_single_view_twice(samples):
    result = evaluate(random_model(), samples, protocol=EvalConfig(temporal_views=1, spatial_views=1))
    assert bool((result.single == result.multi).all())


def test_accuracy_and_confusion_follow_from_the_logits(samples):
    result = evaluate(random_model(), samples, protocol=PROTOCOL)
    colour, light = result.multi[:, :2].argmax(1), result.multi[:, 2:].argmax(1)
    right = colour == result.labels[:, 0], light == result.labels[:, 1]
    assert result.accuracy["colour"]["top1"] == right[0].float().mean()
    assert result.accuracy["light"]["top1"] == right[1].float().mean()
    assert result.accuracy["all"]["top1"] == (right[0] & right[1]).float().mean()
    assert result.confusion("light").sum() == 4
    assert result.confusion("light").diagonal().sum() == right[1].sum()


def test_a_model_that_averages_over_time_does_not_see_shuffled_frames_and_one_with_order_does(tmp_path):
    path = write_video(tmp_path / "moving.mp4", counter_frames(20))
    samples = [Sample(str(path), {"colour": "red", "light": "none"})]
    shuffled = replace(PROTOCOL, shuffle_frames=True)
    blind = random_model(temporal_depth=0, tubelet_size=(1, 8, 8))
    a, b = (evaluate(blind, samples, protocol=p) for p in (PROTOCOL, shuffled))
    torch.testing.assert_close(a.multi, b.multi, atol=1e-5, rtol=1e-5)
    seeing = random_model()
    for name, p in seeing.named_parameters():
        if "temporal.pos_embed" in name:
            torch.nn.init.normal_(p)
    a, b, c = (evaluate(seeing, samples, protocol=p) for p in (PROTOCOL, shuffled, shuffled))
    assert (a.multi - b.multi).abs().max() > 1e-3
    assert bool((b.multi == c.multi).all())


def test_fewer_tokens_are_in_the_logits_and_in_every_record_of_the_protocol(root, tmp_path, capsys):
    model = random_model(encoder="spatiotemporal", depth=3)
    weights = model.save_pretrained(tmp_path / "weights")
    c = Config(run="", device="cpu", eval=replace(PROTOCOL, merge_tokens=2, drop_static=0.02))
    result = evaluate_weights(str(weights), replace(c, data=replace(c.data, root=str(root), workers=0)))
    views = eval_views(result.samples[0], model.config, PROTOCOL)
    expected = reduce_tokens(model, merge_tokens=2, drop_static=0.02)(views)
    torch.testing.assert_close(result.single[0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.multi[0], expected[1:].mean(dim=0), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert (model(views) - expected).abs().max() > 1e-3
    written = json.loads((weights / "results.json").read_text())["protocol"]
    assert (written["merge_tokens"], written["drop_static"]) == (2, 0.02)
    assert load_evaluation(weights / "predictions.npz").protocol == c.eval
    assert "3 x 3 views, 2 tokens merged per layer, static tubelets dropped (up to 0.02)" in capsys.readouterr().out


def test_a_model_that_cannot_do_with_fewer_tokens_says_so(samples):
    with pytest.raises(ValueError, match="this model is factorised_encoder"):
        evaluate(random_model(), samples, protocol=replace(PROTOCOL, merge_tokens=2))


def test_evaluating_leaves_the_models_mode_as_it_was(samples):
    for training in (True, False):
        model = random_model(dropout=0.5).train(training)
        evaluate(model, samples[:1], protocol=PROTOCOL)
        assert model.training is training


def test_a_label_that_the_model_does_not_know_is_an_error(samples):
    model = ViViT(replace(random_model().config, classes={"colour": ("blue", "green")}))
    with pytest.raises(DataError, match="colour 'red' is not among the 2 classes"):
        evaluate(model, samples, protocol=PROTOCOL)


def test_predictions_are_the_softmax_of_the_evaluations_logits(samples):
    model = random_model()
    result = evaluate(model, samples[:2], protocol=PROTOCOL)
    for sample, logits in zip(samples, result.multi):
        prediction = predict(model, sample.path, temporal_views=3, top_k=2, precision="float32")
        for (label_set, names), part in zip(model.config.classes.items(), logits.split([2, 3])):
            p = part.softmax(0)
            best = sorted(range(len(names)), key=lambda i: -p[i])[:2]
            assert [name for name, _ in prediction.classes[label_set]] == [names[i] for i in best]
            assert [q for _, q in prediction.classes[label_set]] == pytest.approx([p[i].item() for i in best], abs=1e-5)
        assert json.loads(json.dumps(prediction.to_dict()))["path"] == sample.path
        assert all(name in str(prediction) for name, _ in prediction.classes["colour"])


def test_a_prediction_of_a_part_equals_the_evaluation_of_that_part(samples):
    model = random_model()
    part = replace(samples[0], start=0.08, end=0.24)
    logits = evaluate(model, [part], protocol=PROTOCOL).multi[0, :2]
    prediction = predict(model, part.path, temporal_views=3, start=0.08, end=0.24, precision="float32")
    assert dict(prediction.classes["colour"])["green"] == pytest.approx(logits.softmax(0)[0].item(), abs=1e-5)


def test_results_json_says_all_that_makes_the_numbers_comparable(root, samples, tmp_path, capsys):
    c = tiny_config(root, tmp_path / "run")
    run = train(quick(c))
    result = evaluate_weights(str(run), replace(c, eval=PROTOCOL))
    written = json.loads((run / "results.json").read_text(), parse_constant=pytest.fail)
    assert written["protocol"] == {
        "temporal_views": 3,
        "spatial_views": 3,
        "batch_views": 4,
        "shuffle_frames": False,
        "merge_tokens": 0,
        "drop_static": None,
    }
    assert (written["videos"], written["missing"]) == (4, 1)
    assert "broken-val0.mp4" in written["missing_videos"][0]
    assert written["list_hash"] == list_hash(read_samples("folder", str(root), "val"))
    for view, accuracy in (("multi_view", result.accuracy), ("single_view", result.single_view_accuracy)):
        assert list(written[view]) == list(accuracy) == ["colour", "light", "all"]
        for name, shares in accuracy.items():
            assert {key: written[view][name][key] for key in shares} == shares
            assert 0 <= written[view][name]["calibration_error"] <= 1
        matrix = confusion(getattr(result, view.removesuffix("_view"))[:, :2], result.labels[:, 0], 2)
        assert written[view]["colour"]["mean_class"] == pytest.approx((matrix.diagonal() / 2).mean().item())
    assert list(written["per_class"]["light"]) == ["bright", "dark"]
    assert {one["videos"] for one in written["per_class"]["light"].values()} == {2}
    assert written["confusion"]["colour"] == {
        "classes": ["green", "red"],
        "counts": result.confusion("colour").tolist(),
    }
    assert {"weights", "data", "environment"} <= set(written)
    out = capsys.readouterr().out
    assert "single view" in out
    assert "4 videos, 1 missing" in out
    assert "3 x 3 views" in out
    assert "predictions.npz" in out
    assert "mean class" not in out  # each class has two videos, so it would be top-1 again


def test_saved_predictions_load_back_equal(samples, tmp_path):
    part = replace(samples[0], start=0.08, end=None)
    result = evaluate(random_model(), [*samples, part], protocol=replace(PROTOCOL, shuffle_frames=True))
    result.save(tmp_path / "new" / "predictions.npz")
    loaded = load_evaluation(tmp_path / "new" / "predictions.npz")
    for name in ("single", "multi", "labels"):
        assert getattr(loaded, name).dtype == getattr(result, name).dtype
        assert torch.equal(getattr(loaded, name), getattr(result, name))
    for name in ("classes", "protocol", "missing", "list_hash", "accuracy"):
        assert getattr(loaded, name) == getattr(result, name)
    assert [replace(s, where="") for s in result.samples] == loaded.samples
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["predictions.npz"]


@pytest.mark.parametrize("content", ["nothing", "text", "other arrays", "cut short", "pickle"])
def test_a_file_that_holds_no_predictions_is_an_error_that_says_what_to_do(content, samples, tmp_path):
    path = tmp_path / "predictions.npz"
    evaluate(random_model(), samples[:2], protocol=PROTOCOL).save(path)
    if content == "other arrays":
        np.savez(path, path=np.zeros(3))
    elif content == "pickle":
        np.savez(path, path=np.array([object()], dtype=object))
    else:
        path.write_bytes({"nothing": b"", "text": b"path,start", "cut short": path.read_bytes()[:-300]}[content])
    with pytest.raises(ValueError, match=r"predictions.npz holds no predictions .*write them again with vivit eval"):
        load_evaluation(path)


def test_evaluating_nothing_but_unreadable_videos_is_an_error(root, tmp_path):
    weights = random_model().save_pretrained(tmp_path / "weights")
    (tmp_path / "gone.mp4").write_bytes(b"")
    (tmp_path / "t.csv").write_text("path,colour,light,split\ngone.mp4,red,dark,val\n")
    c = Config(run="", device="cpu")
    with pytest.raises(DataError, match=r"none of the videos can be read \(1\)"):
        evaluate_weights(str(weights), replace(c, data=replace(c.data, root=str(tmp_path / "t.csv"), workers=0)))


def test_an_unfinished_run_has_no_weights_yet(tmp_path):
    (tmp_path / "environment.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="a run that has not finished"):
        evaluate_weights(str(tmp_path), Config())


def test_a_model_without_classes_predicts_nothing_and_does_not_fail(samples):
    model = ViViT(replace(random_model().config, classes={}))
    assert predict(model, samples[0].path).classes == {}


def test_videos_of_an_official_list_that_are_not_there_are_in_the_results(tmp_path):
    write_video(tmp_path / "here_000001_000011.mp4", counter_frames(8))
    rows = ["label,youtube_id,time_start,time_end,split", "red,here,1,11,val", "green,gone,2,12,val"]
    (tmp_path / "val.csv").write_text("\n".join(rows) + "\n")
    weights = ViViT(replace(MODEL, classes={"action": ("green", "red")})).save_pretrained(tmp_path / "weights")
    c = Config(run="", device="cpu", eval=PROTOCOL)
    evaluate_weights(
        str(weights), replace(c, data=replace(c.data, dataset="kinetics400", root=str(tmp_path), workers=0))
    )
    written = json.loads((tmp_path / "weights" / "results.json").read_text())
    assert (written["videos"], written["missing"], written["not_there"]) == (1, 0, 1)
    assert "gone" in written["videos_not_there"][0]


def test_the_subsets_of_epic_kitchens_are_counted_as_the_official_evaluation_does(tmp_path):
    verbs, nouns = ("take", "put", "wash"), ("tap", "cup", "pan", "lid")
    (tmp_path / "annotations").mkdir()
    files = {
        "verb_classes": ["id,key", *(f"{i},{name}" for i, name in enumerate(verbs))],
        "noun_classes": ["id,key", *(f"{i},{name}" for i, name in enumerate(nouns))],
        "tail_verbs": ["verb", "2"],
        "tail_nouns": ["noun", "1", "3"],
    }
    for name, lines in files.items():
        (tmp_path / "annotations" / f"EPIC_100_{name}.csv").write_text("\n".join(lines) + "\n")
    # The model has its classes in another order than the official numbers.
    classes = {"noun": nouns[::-1], "verb": verbs[::-1]}
    labels = torch.stack([torch.randint(0, 4, (90,)), torch.randint(0, 3, (90,))], dim=1)
    samples = [
        Sample(f"x/P{i % 7:02d}_{i % 5:02d}.MP4", {"noun": classes["noun"][n], "verb": classes["verb"][v]})
        for i, (n, v) in enumerate(labels.tolist())
    ]
    single, multi = torch.randn(90, 7), torch.randn(90, 7)
    result = Evaluation(PROTOCOL, classes, samples, labels, single, multi, {}, "")
    data = replace(Config().data, dataset="epic_kitchens", root=str(tmp_path))
    assert list(official_subsets(result, data)) == ["tail"]  # who is unseen is not said
    (tmp_path / "EPIC_100_unseen_participant_ids_validation.csv").write_text("participant_id\nP03\nP05\n")
    got = official_subsets(result, data)

    def is_in(subset: str, name: str, s: Sample) -> bool:
        if subset == "unseen":
            return s.path[2:5] in ("P03", "P05")
        rare = {"verb": s.labels["verb"] == "wash", "noun": s.labels["noun"] in ("cup", "lid")}
        return rare.get(name, rare["verb"] or rare["noun"])

    for subset in ("unseen", "tail"):
        for name in ("verb", "noun", "action"):
            for view, logits in (("single_view", single), ("multi_view", multi)):
                hits = []
                for s, row, scores in zip(samples, labels.tolist(), logits):
                    right = {"noun": scores[:4].argmax() == row[0], "verb": scores[4:].argmax() == row[1]}
                    if is_in(subset, name, s):
                        hits.append(bool(right.get(name, right["noun"] and right["verb"])))
                assert got[subset][name][view] == pytest.approx(sum(hits) / len(hits))
                assert got[subset][name]["videos"] == len(hits)
    assert official_subsets(result, Config().data) == {}
