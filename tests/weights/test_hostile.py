"""Damaged and hostile weights: every load works or ends soon in an error that names the file."""

import io
import json
import os
import random
import time
import zipfile

import msgpack
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from timm.models.vision_transformer import VisionTransformer

import vivit
from vivit.errors import WeightsError

from ..parity.official import GOLDEN
from .models import CONFIGS
from .random_weights import randomise

AMOUNT = int(os.environ.get("VIVIT_FUZZ", "2"))  # mutations of each kind
SECONDS = 60  # for a tiny file on a busy machine; what this guards against takes minutes
ODD = [None, True, -1, 0, 3, 0.5, 10**7, 10**12, 2**70, 1e300, "x", "1", [], {}, [1], [[]], [2, 8], {"a": 1}]
ODD += [float("nan"), float("inf"), [10**6] * 3, ["a", "a"], {"0": "a"}, {"x": {}}, "\ud800"]


def load(source, **options):
    """The error of loading `source`, or None. Anything but an error of ours fails the test."""
    start, error = time.perf_counter(), None
    try:
        model = vivit.from_pretrained(source, **options)
        assert all(torch.isfinite(p).all() for p in model.parameters())
    except (WeightsError, FileNotFoundError) as caught:
        error = caught
        assert str(source) in str(error)
        assert len(str(error)) < 3000
    assert time.perf_counter() - start < SECONDS
    return error


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Folders of every format, each with the arguments that it takes."""
    root = tmp_path_factory.mktemp("sources")
    model = randomise(vivit.create(CONFIGS["model 2"]))
    model.save_pretrained(root / "ours")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    theirs = transformers.VivitConfig(image_size=16, num_frames=4, tubelet_size=[2, 8, 8], num_labels=3, **sizes)
    randomise(transformers.VivitForVideoClassification(theirs)).save_pretrained(root / "vivit")
    transformers.VivitImageProcessor(offset=False, image_mean=[0.4] * 3).save_pretrained(root / "vivit")
    mae = transformers.VideoMAEConfig(image_size=16, num_frames=4, patch_size=8, num_labels=3, **sizes)
    randomise(transformers.VideoMAEForVideoClassification(mae)).save_pretrained(root / "mae")
    (root / "timm").mkdir()
    image = VisionTransformer(img_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=3)
    safetensors.torch.save_file(randomise(image).state_dict(), root / "timm" / "model.safetensors")
    cfg = {"input_size": [3, 16, 16], "mean": [0.4] * 3, "std": [0.3] * 3}
    about = {"architecture": "vit_tiny_patch16_224", "global_pool": "token", "pretrained_cfg": cfg, "model_args": {}}
    (root / "timm" / "config.json").write_text(json.dumps(about))
    (root / "torch").mkdir()
    torch.save(image.state_dict(), root / "torch" / "vit.pth")
    torch.save(image.state_dict(), root / "torch" / "old.pth", _use_new_zipfile_serialization=False)
    return root


def nodes(tree, path=()):
    """The paths of all values of a JSON tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from nodes(value, (*path, key))


def replaced(tree, path, value):
    copy = json.loads(json.dumps(tree))
    node = copy
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return copy


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("ours", "config.json"),
        ("vivit", "config.json"),
        ("vivit", "preprocessor_config.json"),
        ("mae", "config.json"),
        ("timm", "config.json"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*maps pixels to")
def test_any_value_in_a_config_is_used_or_refused(folder, file, sources):
    rng, path = random.Random(0), sources / folder / file
    text, options = path.read_text(), {"num_heads": 2} if folder == "timm" else {}
    tree = json.loads(text)
    try:
        for where in nodes(tree):
            for value in rng.sample(ODD, AMOUNT):
                path.write_text(json.dumps(replaced(tree, where, value)))
                load(path.parent, **options)
    finally:
        path.write_text(text)
    assert load(path.parent, **options) is None


def damaged(data, rng):
    data = bytearray(data)
    at = rng.randrange(min(len(data), rng.choice([64, 2000, len(data)])))
    how = rng.randrange(4)
    if how == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif how == 1:
        data[at : at + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(9))
    elif how == 2:
        data[at : at + 8] = b"\xff" * 8
    else:
        del data[at:]
    return bytes(data)


@pytest.mark.parametrize(
    "path",
    [
        "ours/model.safetensors",
        "torch/vit.pth",
        "torch/old.pth",
        "golden/m2_cls/checkpoint_123",
        "golden/image_vit/vit_original_names.npz",
    ],
)
def test_any_damage_of_a_file_is_noticed_or_harmless(path, sources, tmp_path):
    rng = random.Random(1)
    source = next((GOLDEN.glob(path.removeprefix("golden/"))) if path.startswith("golden") else sources.glob(path))
    data, target = source.read_bytes(), tmp_path / source.name
    if (source.parent / "config.json").exists():
        (tmp_path / "config.json").write_bytes((source.parent / "config.json").read_bytes())
    options = {"num_heads": 2} if "torch" in path else {"image_size": (32, 32)}
    for _ in range(10 * AMOUNT):
        target.write_bytes(damaged(data, rng))
        load(target if "safetensors" not in path else tmp_path, **options if "ours" not in path else {})


@pytest.mark.parametrize("depth", [100, 100_000])
@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_nesting_without_end_is_refused(form, depth, sources, tmp_path):
    if form == "json":
        (tmp_path / "model.safetensors").write_bytes((sources / "ours" / "model.safetensors").read_bytes())
        (tmp_path / "config.json").write_text('{"a":' * depth + "1" + "}" * depth)
        assert load(tmp_path) is not None
    else:
        (tmp_path / "w").write_bytes(b"\x81\xa1a" * depth + b"\x01")
        assert load(tmp_path / "w") is not None


def test_a_pipe_or_a_device_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(WeightsError, match="a pipe, a device or a socket"):
            vivit.from_pretrained(path)
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError):
        vivit.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ({}, "no weight_map"),
        ({"weight_map": []}, "no weight_map"),
        ({"weight_map": {"a": 3}}, "no weight_map"),
        ({"weight_map": {"a": "../ours/model.safetensors"}}, "is no name of a file in its folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "is no name of a file in its folder"),
        ({"weight_map": {"a": "."}}, "is no name of a file in its folder"),
        ({"weight_map": {"a": "a.safetensors"}}, "a.safetensors holds .*, and .* says nothing"),
    ],
)
def test_an_index_names_files_of_its_folder_and_their_tensors(index, match, sources, tmp_path):
    (tmp_path / "a.safetensors").write_bytes((sources / "ours" / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_bytes((sources / "ours" / "config.json").read_bytes())
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=match):
        vivit.from_pretrained(tmp_path)


def test_a_tensor_in_two_files_of_an_index_is_refused_and_a_right_index_is_read(sources, tmp_path):
    tensors = safetensors.torch.load_file(sources / "ours" / "model.safetensors")
    (tmp_path / "config.json").write_bytes((sources / "ours" / "config.json").read_bytes())
    names = sorted(tensors)
    for i in range(2):
        safetensors.torch.save_file({name: tensors[name] for name in names[i::2]}, tmp_path / f"{i}.safetensors")
    index = {"weight_map": {name: f"{i % 2}.safetensors" for i, name in enumerate(names)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    model = vivit.from_pretrained(tmp_path)
    assert all(torch.equal(x, tensors[name]) for name, x in model.state_dict().items())
    safetensors.torch.save_file(
        {names[0]: tensors[names[0]] + 1, names[1]: tensors[names[1]]}, tmp_path / "1.safetensors"
    )
    with pytest.raises(WeightsError, match=rf"1.safetensors holds {names[0]}, and .* says 0.safetensors"):
        vivit.from_pretrained(tmp_path)


@pytest.mark.parametrize("suffix", ["npz", "pth"])
def test_an_archive_that_unpacks_to_far_more_is_refused_before_it_is(suffix, tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**28,)})
    name = "embedding/kernel.npy" if suffix == "npz" else "archive/data.pkl"
    with (
        zipfile.ZipFile(tmp_path / "w", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w", force_zip64=True) as file,
    ):
        file.write(header.getvalue())
        for _ in range(300):
            file.write(bytes(2**20))
    with pytest.raises(WeightsError, match="that unpack to"):
        vivit.from_pretrained(tmp_path / "w")


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (torch.tensor(1e300, dtype=torch.float64), r"mlp.fc1.bias holds NaN or Inf \(as float32\)"),
        (torch.tensor(1, dtype=torch.int8), "mlp.fc1.bias holds int8 numbers"),
        (torch.tensor(1j), "mlp.fc1.bias holds complex64 numbers"),
    ],
)
def test_numbers_that_are_no_float32_are_refused_by_the_name_of_the_tensor(value, match, sources, tmp_path):
    (tmp_path / "config.json").write_bytes((sources / "ours" / "config.json").read_bytes())
    tensors = safetensors.torch.load_file(sources / "ours" / "model.safetensors")
    name = "encoder.spatial.blocks.0.mlp.fc1.bias"
    tensors[name] = value.expand(tensors[name].shape).contiguous()
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=match):
        vivit.from_pretrained(tmp_path)


def test_tensors_that_are_not_stored_in_full_are_refused(tmp_path):
    state = {"patch_embed.proj.weight": torch.zeros(1).expand(2**20, 3, 256, 256), "pos_embed": torch.zeros(1, 5, 8)}
    torch.save(state, tmp_path / "w")
    with pytest.raises(WeightsError, match="patch_embed.proj.weight is sparse, quantised or not stored in full"):
        vivit.from_pretrained(tmp_path / "w")
    torch.save(state | {"patch_embed.proj.weight": torch.eye(3).to_sparse()}, tmp_path / "w")
    with pytest.raises(WeightsError):
        vivit.from_pretrained(tmp_path / "w")


def test_a_flax_file_of_strange_arrays_is_refused(tmp_path):
    for shape, dtype in (((10**9, 10**9), "float32"), ((2,), "object"), ((1,), "nonsense"), ((-1,), "float32"), (3, 4)):
        array = msgpack.ExtType(1, msgpack.packb((shape, dtype, bytes(4))))
        (tmp_path / "w").write_bytes(msgpack.packb({"params": {"embedding": {"kernel": array}}}))
        assert load(tmp_path / "w") is not None
