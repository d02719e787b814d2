"""Videos in tar files are the videos that were packed: the same stream, the same loss, from a disk or a URL."""

import json
import tarfile

import pytest
import torch

from tests.engine.tiny import losses, quick, tiny_config, write_table
from vivit.config import AugmentConfig, DataConfig, ModelConfig, replace
from vivit.data.dataset import EvalDataset, TrainDataset, open_sample
from vivit.data.datasets.registry import official_classes, read_samples
from vivit.data.loader import train_loader
from vivit.data.sample_table import class_names, list_hash
from vivit.data.shards import pack
from vivit.data.tools.check import check
from vivit.engine.train import train
from vivit.errors import DataError, VideoError

MODEL = ModelConfig(num_frames=4, image_size=(16, 16), tubelet_size=(2, 8, 8))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("files"), train=8, val=4, broken=1)


@pytest.fixture(scope="module")
def packed(table, tmp_path_factory):
    """The readable videos of the table in tar files of no more than 8 KiB."""
    dest = tmp_path_factory.mktemp("packed")
    report = check(str(table), workers=1)
    samples = {split: read_samples("folder", str(table), split) for split in ("train", "val")}
    number = {str(table.parent / facts.path): i for i, facts in enumerate(report.files)}
    how = {"base": str(table.parent), "files": report.files, "samples": samples, "number": number}
    names = pack(dest, **how, classes={"light": ("dark", "bright"), "colour": ("red", "green")}, shard_mib=8 / 1024)
    assert len([name for name in names if name.startswith("train-")]) > 1
    return dest


def test_a_clip_of_a_shard_needs_no_root_and_is_not_waited_for(packed, caplog):
    samples = read_samples("shards", str(packed), "train")
    how = {"model": MODEL, "data": DataConfig(storage_timeout=0.2), "augment": AugmentConfig(), "seed": 0}
    item = TrainDataset(samples, torch.zeros(len(samples), 1, dtype=torch.int64), **how)[0, 0]
    assert (item.problem, caplog.text) == (None, "")


def of_files(table, split):
    return read_samples("folder", str(table), split).readable()[0]


def test_the_list_is_the_same_and_its_hash(table, packed):
    for split in ("train", "val"):
        files, shards = of_files(table, split), read_samples("shards", str(packed), split)
        assert [s.labels for s in shards] == [s.labels for s in files]
        assert list_hash(shards, ordered=True) == list_hash(files, ordered=True)
        assert class_names(shards) == class_names(files)
    classes = official_classes("shards", str(packed))
    assert list(classes.items()) == [("light", ("dark", "bright")), ("colour", ("red", "green"))]


@pytest.mark.parametrize("place", ["disk", "file://", "memory://"])
def test_shards_give_the_same_batches_as_files_with_any_number_of_workers(table, packed, place):
    root = str(packed)
    if place == "file://":
        root = f"file://{packed}"
    if place == "memory://":
        fsspec = pytest.importorskip("fsspec")
        root = "memory://bucket/packed"
        for file in packed.iterdir():
            fsspec.filesystem("memory").pipe_file(f"/bucket/packed/{file.name}", file.read_bytes())

    def batches(samples, root, workers):
        labels = torch.arange(len(samples))[:, None]
        how = {"model": MODEL, "data": DataConfig(workers=workers, root=root), "augment": AugmentConfig(), "seed": 3}
        return list(train_loader(TrainDataset(samples, labels, **how), batch_size=3, first_step=1, steps=6))

    expected = batches(of_files(table, "train"), str(table), 0)
    for workers in (0, 2):
        for a, b in zip(expected, batches(read_samples("shards", root, "train"), root, workers), strict=True):
            assert (a.indices, b.problems) == (b.indices, {})
            assert a.video.equal(b.video)


def test_shards_give_the_same_loss_as_files(table, packed, tmp_path):
    classes = class_names(read_samples("folder", str(table), "train"))
    files = quick(tiny_config(table, tmp_path / "files"))
    files = replace(files, model=replace(files.model, classes=classes), data=replace(files.data, max_unreadable=0))
    shards = replace(files, data=replace(files.data, dataset="shards", root=str(packed)), run=str(tmp_path / "shards"))
    train(files)
    train(shards)
    assert losses(files.run) == losses(shards.run) != []


def test_the_layout_is_that_of_webdataset(table, packed):
    truth = {s.path.rpartition("/")[2]: s for split in ("train", "val") for s in of_files(table, split)}
    seen = []
    for path in sorted(packed.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for video, labels in zip(members[::2], members[1::2], strict=True):
                assert video.name.rpartition(".")[0] == labels.name.rpartition(".")[0]
                sample = truth[video.name.rpartition("/")[2]]
                with open(sample.path, "rb") as file:
                    assert tar.extractfile(video).read() == file.read()
                [row] = json.load(tar.extractfile(labels))["samples"]
                assert (row["labels"], row["split"]) == (sample.labels, path.name.split("-")[0])
                seen.append(sample.path)
    assert sorted(seen) == sorted(s.path for s in truth.values())


def test_a_tar_file_that_is_gone_or_cut_is_an_error_that_names_the_video(packed, tmp_path):
    (tmp_path / "index.jsonl").write_bytes((packed / "index.jsonl").read_bytes())
    samples = read_samples("shards", str(tmp_path), "val")
    name = samples[0].path
    assert ".tar#videos/" in name
    with pytest.raises(VideoError, match=r"val-000000.tar#videos/.*mp4: cannot be read"):
        open_sample(samples[0])
    (tmp_path / "val-000000.tar").write_bytes((packed / "val-000000.tar").read_bytes()[:700])
    with pytest.raises(VideoError, match=r"ends after 188 of \d+ bytes"):
        open_sample(samples[0])
    videos = EvalDataset(samples, torch.zeros(len(samples), 1), model=MODEL, protocol=tiny_config("", "").eval)
    assert name in videos[0].problem


def test_a_root_without_an_index_or_a_split_is_an_error_that_says_what_is_there(packed, tmp_path):
    with pytest.raises(DataError, match="no .*index.jsonl; data.root of the dataset 'shards' is a folder or URL"):
        read_samples("shards", str(tmp_path), "train")
    with pytest.raises(DataError, match="no split 'test'; there are train, val"):
        read_samples("shards", str(packed), "test")


def test_a_url_without_fsspec_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    with pytest.raises(ImportError, match=r"pip install 'vivit\[cloud\]'"):
        read_samples("shards", "s3://bucket/folder", "train")


def edited(packed, dest, change):
    """A copy of the index whose lines, parsed, went through `change`."""
    rows = [json.loads(line) for line in (packed / "index.jsonl").read_text().splitlines()]
    rows = change(rows) or rows
    dest.mkdir(exist_ok=True)
    (dest / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(dest)


def cell(name, value):
    """Set one column of the first file."""

    def change(rows):
        rows[1][rows[0]["file_columns"].index(name)] = value

    return change


BROKEN = {
    "absolute": cell("path", "/etc/passwd.tar#a.mp4"),
    "parent": cell("path", "x/../../secret.tar#a.mp4"),
    "parent with backslashes": cell("path", "..\\secret.tar#a.mp4"),
    "another place": cell("path", "s3://bucket/a.tar#a.mp4"),
    "no tar": cell("path", "a.mp4"),
    "no name": cell("path", 7),
    "before the file": cell("offset", -512),
    "no offset": cell("offset", None),
    "offset in words": cell("offset", "here"),
    "beyond 64 bits": cell("offset", 2**70),
    "no size": cell("bytes", 0),
    "size in words": cell("bytes", "many"),
    "sample of no file": lambda rows: rows[-1].__setitem__(0, 10**6),
    "sample of a negative file": lambda rows: rows[-1].__setitem__(0, -1),
    "sample of no split": lambda rows: rows[-1].__setitem__(1, "nowhere"),
    "splits in words": lambda rows: rows[0].__setitem__("splits", "train val"),
    "classes in words": lambda rows: rows[0].__setitem__("classes", {"light": "dark"}),
    "no classes": lambda rows: rows[0].__setitem__("classes", None),
    "half of it": lambda rows: rows[: len(rows) // 2],
    "a list": lambda rows: [[1, 2]],
    "nothing": lambda rows: [None],
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_index_that_cannot_be_right_is_an_error_that_names_it(case, packed, tmp_path):
    root = edited(packed, tmp_path / "packed", BROKEN[case])
    with pytest.raises(DataError, match="packed/index.jsonl"):
        read_samples("shards", root, "train")


@pytest.mark.parametrize("content", [b"\xff\xfe\0", b"[" * 100_000, b"", b"{}\n"])
def test_an_index_that_is_none_is_an_error_that_names_it(content, tmp_path):
    (tmp_path / "index.jsonl").write_bytes(content)
    with pytest.raises(DataError, match="index.jsonl"):
        read_samples("shards", str(tmp_path), "train")


def test_a_size_beyond_the_tar_file_is_an_error_and_asks_for_no_memory(packed, tmp_path):
    root = edited(packed, tmp_path / "packed", cell("bytes", 2**50))
    (tmp_path / "packed/train-000000.tar").write_bytes((packed / "train-000000.tar").read_bytes())
    with pytest.raises(VideoError, match=r"train-000000.tar#.* ends after \d+ of 1125899906842624 bytes"):
        open_sample(read_samples("shards", root, "train")[0])
