"""Heads on cached features, and the stages before fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vivit import load_run, predict
from vivit.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, Preprocessing, replace
from vivit.data.dataset import TrainDataset, TrainViews, eval_views
from vivit.data.splits import load_split
from vivit.data.tools.synthetic import write_dataset
from vivit.engine import feature_cache as features_module
from vivit.engine import heads as heads_module
from vivit.engine import probe as probe_module
from vivit.engine import stages as stages_module
from vivit.engine import train as train_module
from vivit.engine.distributed import World
from vivit.engine.evaluate import SINGLE_VIEW
from vivit.engine.feature_cache import cache_features
from vivit.engine.heads import HEADS, LabelledFeatures, Tail, tail_logits, with_head
from vivit.engine.train import train
from vivit.errors import DataError
from vivit.model.vivit import ViViT
from vivit.weights.load import from_pretrained

from .test_scale import run_in_world

CPU = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module", autouse=True)
def short_fits() -> Iterator[None]:
    """Fit heads in few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads_module, "STEPS", 40)
        patch.setattr(heads_module, "FEWEST_STEPS", 10)
        patch.setattr(probe_module, "PENALTIES", (1.0, 0.1))
        patch.setattr(stages_module, "EPOCHS", 6)
        yield


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("videos"), seed=0, train=32, val=8, num_frames=20)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small image ViT, under timm's names."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=48, patch_size=24, embed_dim=32, depth=4, num_heads=2, num_classes=0
    )
    path = tmp_path_factory.mktemp("image") / "vit.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def config(videos: Path, image: Path, run: Path) -> Config:
    return Config(
        model=ModelConfig(
            embed_dim=32,
            depth=4,
            num_heads=2,
            temporal_depth=1,
            tubelet_size=(2, 24, 24),
            num_frames=8,
            image_size=(48, 48),
            preprocessing=Preprocessing(frame_stride=2, crop_fraction=48 / 56),
        ),
        data=DataConfig(root=str(videos), workers=0),
        augment=AugmentConfig(flip=0.5, flip_directed=True),
        optim=OptimConfig(name="adamw", lr=1e-3, batch_size=8, epochs=2, warmup_epochs=0.2),
        init=str(image),
        budget="unlimited",
        final_weights="best",
        run=str(run),
    )


@pytest.fixture(scope="module")
def run(videos: Path, image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config(videos, image, tmp_path_factory.mktemp("runs") / "a"))


def test_a_run_in_stages_is_an_ordinary_run(run: Path, videos: Path) -> None:
    stages = json.loads((run / "stages.json").read_text())
    names = [row["stage"] for row in stages["stages"]]
    assert names[:2] == ["linear", "linear, no clip mirrored"]
    assert "attention pooling" in names[3]
    assert "transformer over time" in names[4]
    loaded = load_run(run)
    assert (loaded.config.budget, loaded.config.optim.epochs) == ("unlimited", 2)
    assert loaded.config.model == from_pretrained(run).config
    start = from_pretrained(run / "start")
    [video] = [s.path for s in load_split(loaded.config.data, "val").samples][:1]
    assert predict(run, video, temporal_views=1, spatial_views=1).classes.keys() == start.config.classes.keys()


@pytest.fixture(scope="module")
def unchanged(run: Path, videos: Path, image: Path) -> Path:
    """A run that ends with the stages."""
    no_epochs = OptimConfig(name="adamw", batch_size=8, epochs=0, warmup_epochs=0)
    return train(replace(config(videos, image, run.parent / "unchanged"), optim=no_epochs))


def test_the_first_validation_is_that_of_the_chosen_start(unchanged: Path) -> None:
    """The caches, the heads on them and the ordinary evaluation agree on the accuracy of one model."""
    stages = json.loads((unchanged / "stages.json").read_text())
    first = next(row for row in load_run(unchanged).metrics if "val/noun/top1" in row)
    kept = [row for row in stages["stages"] if row["kept"] in ("kept", "chosen on the training videos")][-1]
    assert first["step"] == 0
    mean = (first["val/noun/top1"] + first["val/verb/top1"]) / 2
    assert mean == pytest.approx(kept["accuracy"], abs=1 / 16 + 1e-9)  # float16 activations may turn one answer


def test_where_motion_helps_training_begins_with_a_kernel_that_sees_it(
    run: Path, unchanged: Path, videos: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, found = (load_file(folder / "start" / "model.safetensors") for folder in (run, unchanged))
    assert [name for name in found if not torch.equal(begin[name], found[name])] == ["tokenizer.proj.weight"]
    kernel, image_kernel = begin["tokenizer.proj.weight"], found["tokenizer.proj.weight"]
    assert (kernel - image_kernel).norm() > image_kernel.norm()
    assert torch.allclose(kernel.sum(2), image_kernel.sum(2), atol=1e-5)  # a still video is its image

    still = config(videos, image, run.parent / "still")
    trained = train(replace(still, optim=replace(still.optim, lr=1e-12)))  # so that no validation is above the start
    assert [row["step"] for row in load_run(trained).metrics if "val/noun/top1" in row][0] > 0
    stages = json.loads((trained / "stages.json").read_text())
    monkeypatch.setattr(stages_module, "sees_motion", lambda model: False)
    reached = max(row["val/action/top1"] for row in load_run(trained).metrics if "val/noun/top1" in row)
    weights, kept = load_file(trained / "weights" / "model.safetensors"), found if reached < stages["best"] else begin
    assert all(torch.allclose(weights[name], tensor, atol=1e-6) for name, tensor in kept.items())
    other = train(config(videos, image, run.parent / "no motion"))
    assert json.loads((other / "stages.json").read_text())["best"] < 0
    begin = load_file(other / "start" / "model.safetensors")
    assert all(torch.equal(begin[name], tensor) for name, tensor in found.items())


@pytest.mark.slow
def test_two_processes_compute_the_features_of_one(run: Path, videos: Path, image: Path, tmp_path: Path) -> None:
    """Each reads half of the videos; the first fits the heads while the other waits."""
    no_epochs = OptimConfig(name="adamw", batch_size=8, epochs=0, warmup_epochs=0)
    c = replace(config(videos, image, tmp_path / "two"), optim=no_epochs)
    run_in_world(2, [(c, None, False)])
    for split in ("train", "val"):
        for array in ("done", "positions", "motion", "activations"):
            one, two = (np.load(folder / "features" / split / f"{array}.npy") for folder in (run, Path(c.run)))
            assert np.array_equal(one, two)
    names = [row["stage"] for row in json.loads((Path(c.run) / "stages.json").read_text())["stages"]]
    assert names[0] == "linear"
    assert from_pretrained(c.run).config == from_pretrained(Path(c.run) / "start").config


def test_the_same_command_resumes_and_other_settings_are_refused(run: Path, videos: Path, image: Path) -> None:
    again = config(videos, image, run)
    assert train(again) == run
    with pytest.raises(ValueError, match="holds a run with other settings"):
        train(replace(again, seed=1))


def corrected(videos: Path) -> Path:
    """Return a copy of the table in which the first video has another noun."""
    head, first, *lines = videos.read_text().splitlines()
    path, _, *rest = first.split(",")
    table = videos.with_name("corrected.csv")
    table.write_text("\n".join([head, ",".join([path, "tee", *rest]), *lines]) + "\n")
    return table


@pytest.mark.parametrize("table", [lambda videos: videos, corrected], ids=["same", "corrected"])
def test_a_second_run_reuses_the_features_of_the_first(
    run: Path, videos: Path, image: Path, monkeypatch: pytest.MonkeyPatch, table: Callable[[Path], Path]
) -> None:
    """Also if a label has been corrected in between."""

    def fail(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(features_module, "encode", fail)
    monkeypatch.setattr(stages_module, "number_of_views", lambda *_: 2)  # another machine, another measurement
    other = run.parent / ("corrected" if table is corrected else "second")
    train(
        replace(
            config(table(videos), image, other),
            optim=OptimConfig(name="adamw", lr=1e-4, batch_size=8, epochs=0, warmup_epochs=0),
        )
    )
    assert not (other / "features").exists()
    assert from_pretrained(other).config.classes == from_pretrained(run).config.classes


@pytest.mark.parametrize(
    ("place", "name", "call"),
    [
        (stages_module, "source_groups", 1),  # the features are there, no head yet
        (stages_module, "cross_validate", 2),
        (stages_module, "tune_last_layers", 1),
        (stages_module, "fitting_epochs", 1),  # the weights are there, stages.json is not
        (train_module, "train_steps", 1),  # all stages are done
    ],
)
def test_a_run_killed_in_any_stage_ends_with_the_same_weights(
    place: object,
    name: str,
    call: int,
    run: Path,
    videos: Path,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    c = config(videos, image, run.parent / f"{name}-{call}")  # next to `run`, whose features it takes
    whole, calls = getattr(place, name), []

    def killed(*arguments: object, **settings: object) -> object:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return whole(*arguments, **settings)

    monkeypatch.setattr(stages_module, "number_of_views", lambda *_: 6)
    monkeypatch.setattr(place, name, killed)
    with pytest.raises(KeyboardInterrupt):
        train(c)
    assert (Path(c.run) / "stages.json").exists() == (name == "train_steps")
    train(c)
    for part in ("start", "weights"):
        expected, found = (load_file(folder / part / "model.safetensors") for folder in (run, Path(c.run)))
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_a_killed_cache_is_completed(
    videos: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after 5 videos, the second call computes the other 27 only, and the numbers are the same."""
    c = config(videos, image, tmp_path / "a")
    split = load_split(c.data, "train")
    model = stages_module.create(replace(c.model, classes=split.classes), init=c.init).eval().requires_grad_(False)

    def compute(run: Path) -> features_module.Features:
        return cache_features(
            model, split.samples, split.labels, config=replace(c, run=str(run)), views=2, cut=3, name="train",
            world=CPU, log=lambda line: None,
        )  # fmt: skip

    whole = compute(tmp_path / "whole" / "a")
    encode, calls = features_module.encode, []

    def stop_after_five(*arguments: object) -> dict[str, torch.Tensor]:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return encode(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(features_module, "encode", stop_after_five)
    with pytest.raises(KeyboardInterrupt):
        compute(tmp_path / "killed" / "a")
    resumed = compute(tmp_path / "killed" / "a")
    assert len(calls) == 6 + 27
    assert torch.equal(resumed.positions, whole.positions)
    assert torch.equal(resumed.motion, whole.motion)
    assert whole.activations is not None
    assert resumed.activations is not None
    assert torch.equal(resumed.activations, whole.activations)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
@pytest.mark.parametrize("motion", [False, True])
def test_a_tail_on_the_cache_is_the_whole_model(
    head: object, motion: bool, videos: Path, image: Path, tmp_path: Path
) -> None:
    """Features from cached positions, and from cached activations, equal those of the model on the video."""
    c = config(videos, image, tmp_path / "a")
    split = load_split(c.data, "train")
    frozen = stages_module.create(replace(c.model, classes=split.classes), init=c.init).eval().requires_grad_(False)
    cache = cache_features(
        frozen, split.samples[:3], split.labels[:3], config=c, views=3, cut=3, name="train", world=CPU,
        log=lambda line: None,
    )  # fmt: skip
    model = with_head(frozen, replace(frozen.config, **head.settings, motion_pool=motion), seed=0).eval()  # type: ignore[attr-defined]
    torch.nn.init.normal_(model.head.weight)
    data = LabelledFeatures(cache, split.labels[:3], torch.arange(3), (0, 1, 2))
    clips = torch.stack([eval_views(s, model.config, SINGLE_VIEW)[0] for s in split.samples[:3]])
    with torch.no_grad():
        expected = model(clips)
    rows = torch.arange(3)
    assert (tail_logits(Tail(model, 4), data, rows) - expected).abs().max() < 1e-4
    assert (tail_logits(Tail(model, 3), data, rows) - expected).abs().max() < 2e-2 * expected.abs().max()  # float16


def test_views_are_the_test_view_and_training_clips_every_second_one_mirrored(videos: Path, image: Path) -> None:
    c = config(videos, image, Path("unused"))
    split = load_split(c.data, "train")
    model = replace(c.model, classes=split.classes)
    views = TrainViews(
        split.samples, split.labels, model=model, data=c.data, augment=c.augment, seed=0, count=3, numbers=range(32)
    ).views(2)
    assert torch.equal(views[0], eval_views(split.samples[2], model, SINGLE_VIEW)[0])
    for number, flip in ((1, 0.0), (2, 1.0)):
        clips = TrainDataset(
            split.samples, split.labels, model=model, data=c.data, augment=replace(c.augment, flip=flip), seed=0
        )
        assert torch.equal(views[number], clips.clip(2, np.random.default_rng((0, number, 2))))


def test_a_budget_needs_an_image_start(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="budget needs init"):
        train(replace(config(videos, Path("none"), tmp_path / "a"), init=None))


def test_other_videos_are_no_resumption(run: Path, videos: Path, image: Path) -> None:
    """A corrected label is another list; the run folder says so instead of keeping what the old labels gave."""
    c = config(videos, image, run)
    with pytest.raises(ValueError, match="another list of videos"):
        train(replace(c, data=replace(c.data, root=str(corrected(videos)))))


def test_an_unreadable_video_is_named_and_left_out(videos: Path, image: Path, tmp_path: Path) -> None:
    table = videos.with_name("with-broken.csv")
    videos.with_name("broken.mp4").write_bytes(b"no video")
    rows = videos.read_text().splitlines()
    table.write_text("\n".join([*rows[:9], "broken.mp4,bar,left,train", rows[-1]]))
    c = replace(config(videos, image, tmp_path / "a"), data=DataConfig(root=str(table), workers=0))
    split = load_split(c.data, "train")
    model = stages_module.create(replace(c.model, classes=split.classes), init=c.init).eval().requires_grad_(False)
    said: list[str] = []

    def compute(most: int) -> features_module.Features:
        return cache_features(
            model, split.samples, split.labels, config=replace(c, data=replace(c.data, max_unreadable=most)), views=2,
            cut=3, name="train", world=CPU, log=said.append,
        )  # fmt: skip

    found = compute(1)
    assert found.readable.tolist() == [True] * 8 + [False]
    assert any("broken.mp4" in line for line in said)
    with pytest.raises(DataError, match="max_unreadable"):
        compute(0)


def test_videos_have_fewer_views_where_the_machine_is_slower_than_measured(
    videos: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second a view: 32 videos x 4 views have 64 seconds, so that all are read, in two views on the average."""
    c = config(videos, image, tmp_path / "a")
    split = load_split(c.data, "train")
    model = stages_module.create(replace(c.model, classes=split.classes), init=c.init).eval().requires_grad_(False)
    said, counts, encode = list[str](), list[int](), features_module.encode

    def slow(model: ViViT, motion: object, views: torch.Tensor, cut: int) -> dict[str, torch.Tensor]:
        counts.append(len(views))
        return encode(model, motion, views, cut)  # type: ignore[arg-type]

    monkeypatch.setattr(features_module, "encode", slow)
    monkeypatch.setattr(features_module, "time", SimpleNamespace(monotonic=lambda: float(sum(counts))))
    found = cache_features(
        model, split.samples, split.labels, config=c, views=4, cut=3, name="train", world=CPU, log=said.append,
        seconds=64.0,
    )  # fmt: skip
    assert found.readable.all()
    assert 60 <= sum(counts) <= 64
    assert f"features: fewer than 4 views of {sum(n < 4 for n in counts)} videos" in said[-1]
    same = [(found.positions[:, 2] == found.positions[:, view]).flatten(1).all(dim=1).sum() for view in (0, 1)]
    assert same == [sum(n < 3 for n in counts), sum(n == 1 for n in counts)]


def test_features_that_the_budget_has_no_time_for_are_left_out_for_good(
    videos: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any time FEWEST videos of all classes are read; the same command reads no more."""
    monkeypatch.setattr(features_module, "FEWEST", 16)
    c = config(videos, image, tmp_path / "a")
    split = load_split(c.data, "train")
    model = stages_module.create(replace(c.model, classes=split.classes), init=c.init).eval().requires_grad_(False)
    said: list[str] = []

    def compute(seconds: float) -> features_module.Features:
        return cache_features(
            model, split.samples, split.labels, config=c, views=1, cut=3, name="train", world=CPU, log=said.append,
            seconds=seconds,
        )  # fmt: skip

    found = compute(0.0)
    assert int(found.readable.sum()) == 16
    assert len(split.labels[found.readable, 0].unique()) == 4
    assert any("no time for 16 of the 32 videos" in line for line in said)
    monkeypatch.setattr(features_module, "encode", lambda *_: pytest.fail("computed again"))
    again = compute(1e9)
    assert torch.equal(again.readable, found.readable)
    assert torch.equal(again.positions, found.positions)
