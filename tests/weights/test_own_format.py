"""Our folder: exact, atomic, mapped; other classes, other sizes; and the trip to scenic's format and back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import torch

import vivit
from vivit.config import Preprocessing, replace
from vivit.model.encoders import resize_positions
from vivit.weights import convert as convert_module
from vivit.weights import save as save_module
from vivit.weights.convert import convert
from vivit.weights.load import config_for_init

from .models import CONFIGS, pixels
from .random_weights import randomise
from .test_image_models import assert_once


@pytest.fixture(params=CONFIGS)
def model(request):
    return randomise(vivit.create(CONFIGS[request.param]))


def test_a_saved_model_comes_back_with_its_bits_its_classes_and_its_preprocessing(model, tmp_path):
    model.config = replace(model.config, preprocessing=Preprocessing(frame_stride=4, mean=(0.4, 0.5, 0.6)))
    model.save_pretrained(tmp_path)
    back = vivit.from_pretrained(tmp_path)
    assert back.config == model.config
    assert back.normalization.shift[0] == pytest.approx(-0.8)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in back.state_dict().items())
    assert set(back.load_report.names("loaded")) == set(model.state_dict())
    assert_once(back, model.state_dict())
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["format"], saved["version"], saved["model"]["classes"]) == (
        "vivit",
        1,
        {"label": ["run", "jump", "sit"]},
    )


def test_to_scenic_and_back_is_bit_equal(model, tmp_path):
    config = model.config
    model.save_pretrained(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "checkpoint_0", to="scenic")
    cannot_say = {"image_size": config.image_size, "num_frames": config.num_frames}
    cannot_say |= {"encoder": config.encoder, "attention_order": config.attention_order}
    if config.temporal_depth == 0 and config.tokenizer == "uniform_frames":
        cannot_say["sampled_frames"] = config.sampled_frames
    back = vivit.from_pretrained(tmp_path / "checkpoint_0", classes=config.classes, **cannot_say)
    temporal = config.temporal_depth if config.encoder == "factorised_encoder" else back.config.temporal_depth
    assert back.config == replace(config, temporal_depth=temporal)
    assert back.load_report.names("initialised") == []
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


def test_scenic_has_no_exact_gelu_and_is_not_given_one(tmp_path):
    vivit.create(CONFIGS["model 1"], activation="gelu").save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match="scenic's ViViT has no activation='gelu'"):
        convert(tmp_path / "ours", tmp_path / "checkpoint_0", to="scenic")


def test_an_unknown_format_is_an_error_that_lists_the_formats(tmp_path):
    with pytest.raises(ValueError, match="cannot write 'onnx'; formats are vivit, huggingface, scenic"):
        convert(tmp_path, tmp_path / "x", to="onnx")
    assert set(convert_module.WRITERS) == {"vivit", "huggingface", "scenic"}


def test_saving_over_the_loaded_folder_keeps_the_model_and_the_new_file(tmp_path):
    vivit.create(CONFIGS["model 1"]).save_pretrained(tmp_path)
    model = vivit.from_pretrained(tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.head.bias.add_(1)  # in memory only: the mapping is private
    assert torch.equal(vivit.from_pretrained(tmp_path).head.bias, before["head.bias"])
    model.save_pretrained(tmp_path)
    assert torch.equal(vivit.from_pretrained(tmp_path).head.bias, before["head.bias"] + 1)


def test_an_interrupted_save_leaves_the_old_files_whole(tmp_path, monkeypatch):
    model = randomise(vivit.create(CONFIGS["model 1"]))
    model.save_pretrained(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full_disk(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(save_module.safetensors.torch, "save_file", full_disk)
    with pytest.raises(OSError, match=r"model.safetensors cannot be written: .*No space left"):
        model.save_pretrained(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_other_classes_keep_everything_but_the_head_and_the_report_says_so(tmp_path):
    model = randomise(vivit.create(CONFIGS["model 2"]))
    model.save_pretrained(tmp_path)
    other = vivit.from_pretrained(tmp_path, classes={"label": ["left", "right"]}).eval()
    assert other.load_report.names("initialised") == ["head.weight", "head.bias"]
    reasons = {row.reason for row in other.load_report.rows if row.status in ("initialised", "ignored")}
    assert reasons == {"other classes: 3 in the file, 2 here"}
    assert_once(other, model.state_dict())
    video = pixels(model.config)
    with torch.no_grad():
        assert torch.equal(other.features(video), model.features(video))
        assert torch.equal(other(video), torch.zeros(2, 2))


def test_the_same_classes_under_another_name_keep_the_head(tmp_path):
    model = randomise(vivit.create(CONFIGS["model 2"]))
    model.save_pretrained(tmp_path)
    same = vivit.from_pretrained(tmp_path, classes={"action": ["run", "jump", "sit"]})
    assert torch.equal(same.head.weight, model.head.weight)
    assert list(same.config.classes) == ["action"]


def test_a_trained_video_model_starts_another(tmp_path):
    model = randomise(vivit.create(CONFIGS["model 2"]))
    model.save_pretrained(tmp_path)
    target = replace(CONFIGS["model 2"], classes={"label": ("a", "b")}, num_frames=12, drop_path=0.2)
    tuned = vivit.create(target, init=tmp_path)
    assert tuned.config == target
    assert tuned.load_report.names("interpolated") == ["encoder.temporal.pos_embed"]
    assert torch.equal(tuned.encoder.spatial.pos_embed, model.encoder.spatial.pos_embed)
    with pytest.raises(ValueError, match="this ViViT has encoder='factorised_encoder', not 'spatiotemporal'"):
        vivit.create(CONFIGS["model 1"], init=tmp_path)


def test_overrides_cannot_turn_a_trained_model_into_another(tmp_path):
    vivit.create(CONFIGS["model 1"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_heads=4, not 2"):
        vivit.from_pretrained(tmp_path, num_heads=2)
    with pytest.raises(ValueError, match="unknown setting 'image_siz'; did you mean 'image_size'"):
        vivit.from_pretrained(tmp_path, image_siz=(32, 32))


LENGTHS, FRAME_SIZES = (4, 8, 12), ((32, 32), (16, 16), (24, 40))


@pytest.mark.parametrize("frame_size", FRAME_SIZES)
@pytest.mark.parametrize("length", LENGTHS)
def test_a_model_is_resized_to_other_lengths_and_frame_sizes(model, length, frame_size, tmp_path):
    video = pixels(model.config)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        before, weights = model(video), {k: v.clone() for k, v in model.state_dict().items()}
        resized = model.resize(num_frames=length, image_size=frame_size)
        logits = resized(pixels(resized.config))
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()
    loaded = vivit.from_pretrained(tmp_path, num_frames=length, image_size=frame_size)
    for name, tensor in resized.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
        if "pos_embed" not in name:
            assert torch.equal(weights[name], tensor), name
    if (length, frame_size) == (8, (32, 32)):
        with torch.no_grad():
            assert torch.equal(resized(video), before)
        assert all(torch.equal(weights[name], tensor) for name, tensor in resized.state_dict().items())


def test_positions_that_change_linearly_over_time_are_interpolated_without_error():
    t = torch.arange(4.0) + 0.5
    positions = (t / 4)[None, :, None].expand(1, 4, 3)
    got = resize_positions(positions, (4, 1, 1), (8, 1, 1))[0, 1:-1, 0]
    torch.testing.assert_close(got, (torch.arange(8.0) + 0.5)[1:-1] / 8)


def test_a_constant_position_stays_constant_at_every_size():
    positions = torch.full((1, 1 + 2 * 4 * 4, 3), 0.7)
    for grid in ((2, 3, 7), (5, 4, 4), (1, 2, 2), (4, 9, 2)):
        got = resize_positions(positions, (2, 4, 4), grid)
        torch.testing.assert_close(got, torch.full((1, 1 + grid[0] * grid[1] * grid[2], 3), 0.7))


MEASURE = """
import os, sys, time, torch, vivit
def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024
vivit.from_pretrained(sys.argv[2])  # first uses of libraries are not what is measured
before, models, seconds = anonymous(), [], []
for _ in range(3):  # other programs run too
    start = time.perf_counter()
    models.append(vivit.from_pretrained(sys.argv[1]))
    seconds.append(time.perf_counter() - start)
print(min(seconds), anonymous() - before, sum(p.numel() for p in models[0].parameters()) * 4 / 2**20)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads memory from /proc")
def test_a_base_size_model_loads_fast_and_takes_no_memory_of_its_own(tmp_path):
    with torch.device("meta"):  # random numbers for 88 million parameters would take most of the test's time
        base = vivit.create("ViViT-B/16x2", classes={"label": ["a", "b"]})
    base.load_state_dict({name: torch.zeros(t.shape) for name, t in base.state_dict().items()}, assign=True)
    base.save_pretrained(tmp_path / "base")
    vivit.create(CONFIGS["model 1"]).save_pretrained(tmp_path / "tiny")
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "base"), str(tmp_path / "tiny")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds, grown, size = map(float, out.split())
    assert size > 300  # MiB
    assert grown < 0.2 * size  # the parameters are the file's pages
    assert seconds < 2


def test_importing_the_package_does_not_import_pytorch():
    code = "import sys, vivit; assert 'create' in dir(vivit); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_saved_file_is_a_plain_safetensors_file(tmp_path):
    model = vivit.create(CONFIGS["model 1"])
    model.save_pretrained(tmp_path)
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(model.state_dict())


# The head's rows follow the names of the classes


def rows_of(model, old):
    """For every class of `model`, the class of `old` whose row of the head it has; None for zeros."""
    names = [(s, name) for s, labels in old.config.classes.items() for name in labels]
    out = {}
    for row, name in zip(model.head.weight, [(s, n) for s, labels in model.config.classes.items() for n in labels]):
        found = [names[i] for i, theirs in enumerate(old.head.weight) if torch.equal(theirs, row)]
        assert found or not row.any()
        out[name] = found[0] if found else None
    return out


NUMBERS = tuple(str(i) for i in range(12))
TWO = {"noun": ("cup", "pan", "tap"), "verb": ("open", "tap")}


@pytest.mark.parametrize("how", ["create", "from_pretrained"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"label": NUMBERS}, {"label": tuple(sorted(NUMBERS))}),
        ({"label": NUMBERS}, {"label": NUMBERS[::-1]}),
        ({"label": NUMBERS}, {"label": tuple(str(i + 1) for i in range(12))}),
        ({"label": ("run", "jump", "sit")}, {"label": ("sit", "run", "jump")}),
        ({"label": ("run", "jump", "sit")}, {"label": ("sit", "swim", "run", "fly")}),
        ({"label": ("run", "jump", "sit")}, {"label": ("run", "jump")}),
        ({"label": ("run", "jump", "sit")}, {"action": ("jump", "run", "sit")}),
        (TWO, {"verb": ("open", "tap"), "noun": ("cup", "pan", "tap")}),
        (TWO, {"verb": ("tap", "close"), "noun": ("tap", "cup")}),
        (TWO, {"what": ("pan", "cup"), "verb": ("open",)}),
        (TWO, {"noun": ("cup", "pan", "tap")}),
    ],
)
def test_rows_of_the_head_follow_class_names_whatever_their_order_and_number(old, new, how, tmp_path):
    model = randomise(vivit.create(CONFIGS["model 2"], classes=old))
    model.save_pretrained(tmp_path)
    got = {
        "create": lambda: vivit.create(CONFIGS["model 2"], classes=new, init=tmp_path),
        "from_pretrained": lambda: vivit.from_pretrained(tmp_path, classes=new),
    }[how]()
    partner = {"action": "label", "what": "noun"}
    for (label_set, name), found in rows_of(got, model).items():
        source = label_set if label_set in old else partner[label_set]
        assert found == ((source, name) if name in old[source] else None)
    assert_once(got, model.state_dict())
    reason = next(row.reason for row in got.load_report.rows if "head.weight" in row.targets)
    assert "rows follow class names" in reason
    fresh = [name for s, labels in new.items() for name in labels if name not in old[s if s in old else partner[s]]]
    assert all(name in reason for name in fresh)


@pytest.mark.parametrize("how", ["create", "from_pretrained"])
def test_as_many_classes_of_other_names_get_no_row_of_the_old_ones(how, tmp_path):
    names = {"label": tuple("abcdefghijkl")}
    randomise(vivit.create(CONFIGS["model 2"], classes={"label": NUMBERS})).save_pretrained(tmp_path)
    if how == "create":
        model = vivit.create(CONFIGS["model 2"], classes=names, init=tmp_path)
    else:
        model = vivit.from_pretrained(tmp_path, classes=names)
    assert model.load_report.names("initialised") == ["head.weight", "head.bias"]
    assert not model.head.weight.any()


def test_loading_gives_evaluation_mode_and_creating_training_mode_and_no_random_number_is_drawn(tmp_path):
    vivit.create(CONFIGS["model 2"]).save_pretrained(tmp_path)
    before = torch.get_rng_state()
    model = vivit.from_pretrained(tmp_path, classes={"label": ["a", "b"]})
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in model.modules())
    assert vivit.create(CONFIGS["model 2"], init=tmp_path).training


def test_a_checkpoint_of_training_is_named(tmp_path):
    for name in ("__0_0.distcp", "manifest.json", ".metadata"):
        (tmp_path / name).write_text("")
    with pytest.raises(FileNotFoundError, match="is a checkpoint, from which vivit train resumes; give the run"):
        vivit.from_pretrained(tmp_path)


@pytest.mark.parametrize("source", ["weights", "best"])
def test_a_run_folder_is_a_source_for_every_door(source, tmp_path):
    model = randomise(vivit.create(CONFIGS["model 2"]))
    (tmp_path / "environment.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="a run that has not finished"):
        vivit.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path / source)
    vivit.create(CONFIGS["model 2"]).save_pretrained(tmp_path / "best") if source == "weights" else None
    assert torch.equal(vivit.from_pretrained(tmp_path).head.weight, model.head.weight)
    assert torch.equal(vivit.create(CONFIGS["model 2"], init=tmp_path).head.weight, model.head.weight)
    assert config_for_init(tmp_path, CONFIGS["model 1"]).encoder == "factorised_encoder"
