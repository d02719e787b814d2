"""The table of known starts: what it says of sizes is what the models have, and its names are found everywhere."""

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import vivit
from vivit.config import ModelConfig, replace
from vivit.engine.measure import measure_clip
from vivit.model.cost import count_cost
from vivit.weights import formats
from vivit.weights.starts import STARTS, hub_id


@pytest.mark.parametrize("name", STARTS)
def test_sizes_and_operations_are_those_of_the_model(name):
    start = STARTS[name]
    config = replace(ModelConfig(), **start.model)
    total = count_cost(config)[-1]
    assert total.parameters / 1e6 == pytest.approx(start.parameters, abs=0.06)
    assert total.multiply_adds / 1e9 == pytest.approx(start.multiply_adds, abs=0.6)
    assert start.is_image == (config.encoder == "factorised_encoder" and config.pool_space)


def test_every_number_has_a_source_and_every_start_a_hub_id():
    for start in STARTS.values():
        assert bool(start.source) == bool(start.frozen or start.tuned)
        assert start.hub.count("/") == 1
    assert len({start.hub for start in STARTS.values()}) == len(STARTS)


def test_a_short_name_is_a_hub_id_unless_a_file_has_that_name(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(formats, "_download", lambda repo: asked.append(repo) or tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no model.safetensors"):
        vivit.from_pretrained("vjepa2-large")
    assert asked == [STARTS["vjepa2-large"].hub]
    (tmp_path / "vjepa2-large").mkdir()
    with pytest.raises(FileNotFoundError, match="vjepa2-large: no model.safetensors in this folder; it holds nothing"):
        vivit.from_pretrained("vjepa2-large")
    assert len(asked) == 1
    assert hub_id("some/model") == "some/model"


def test_a_name_with_a_typing_error_gets_a_suggestion():
    with pytest.raises(FileNotFoundError, match="did you mean 'dinov3-base'.* no name that `vivit starts` lists"):
        vivit.from_pretrained("dinov3-bas")


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("dinov3-base", "model.safetensors, config.json and preprocessor_config.json of facebook/dinov3-vitb16"),
        ("vjepa2-large", "model.safetensors, config.json and video_preprocessor_config.json of facebook/vjepa2-vitl"),
        ("videoprism-base", "model.safetensors and config.json, or the official .npz alone of google/videoprism-base"),
        ("some/model", "model.safetensors, config.json and preprocessor_config.json of some/model"),
    ],
)
def test_without_the_hub_the_error_names_the_files_to_bring(name, files, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(FileNotFoundError, match=f"cannot be reached .*get {files}.* in one folder"):
        vivit.from_pretrained(name)


@pytest.mark.slow
def test_a_clip_is_timed_in_a_process_of_its_own():
    small = {"embed_dim": 256, "depth": 8, "num_heads": 4, "num_frames": 4, "image_size": (32, 32)}
    cost = measure_clip(small, "cpu")
    assert 0 < cost.seconds < 10
    assert 2**24 < cost.bytes < 2**30  # 11 million parameters, in float32 and, on some CPUs, in bfloat16


def test_a_clip_whose_process_is_killed_needs_too_much_memory():
    with ThreadPoolExecutor(1) as thread:
        cost = thread.submit(measure_clip, {"embed_dim": 256, "depth": 8, "num_heads": 4}, "cpu")
        while not (processes := multiprocessing.active_children()) and not cost.done():
            time.sleep(0.01)
        [process] = processes
        process.kill()
        assert cost.result(60) is None
