"""A table of samples is the list of them, in little memory and time."""

import gc
import json
import multiprocessing
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vivit.data.manifest import FileInfo, _load, find_in_manifest, parse_manifest, take_fingerprints, write_manifest
from vivit.data.packet_index import PacketIndex
from vivit.data.sample import Sample
from vivit.data.sample_table import SampleTable, class_names, encode_labels, list_hash
from vivit.errors import DataError

ROWS = 100_000


def some_samples(n=50, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Sample(
            f"/data/clips/{int(rng.integers(20))}-ü.mp4",
            {"verb": f"v{int(rng.integers(5))}", "noun": f"n{int(rng.integers(9))}"},
            *((None, None) if i % 3 else (float(rng.uniform(0, 5)), 5.0 + i)),
            where=f"list.csv:{i}",
            fps=59.94 if i % 2 else None,
        )
        for i in range(n)
    ]


def test_a_table_gives_back_the_samples_it_was_made_of():
    samples = some_samples()
    table = SampleTable.of(samples)
    assert table == samples
    assert [*table] == samples
    assert list(table[3:20:4]) == samples[3:20:4]
    assert table[-1] == samples[-1]
    assert list(table.take(np.array([4, 2, 2]))) == [samples[4], samples[2], samples[2]]
    assert len(SampleTable.of([])) == 0
    with pytest.raises(IndexError):
        table[50]


def test_what_is_known_of_a_file_comes_back_too():
    samples = [Sample(f"{i}.tar#x", index=PacketIndex(i, 7, f"[{i}]"), offset=512 * i) for i in (3, 1, 3)]
    assert [(s.index, s.offset) for s in SampleTable.of(samples)] == [(s.index, s.offset) for s in samples]


def test_groups_come_back_and_count_for_no_comparison_and_no_hash():
    plain = some_samples()
    samples = [replace(s, group=f"g{i % 4}-ü" if i % 4 else "") for i, s in enumerate(plain)]
    table = SampleTable.of(samples)
    groups = [s.group for s in samples]
    assert [s.group for s in table] == groups
    assert [s.group for s in table[3:20:4]] == groups[3:20:4]
    assert [s.group for s in table.take(np.array([4, 2, 2]))] == [groups[4], groups[2], groups[2]]
    assert [s.group for s in table.with_labels(["noun"])] == groups
    assert table == plain
    assert list_hash(table, ordered=True) == list_hash(plain, ordered=True)
    assert SampleTable.of(plain).columns.groups is None


def test_classes_and_their_numbers_are_those_of_a_loop():
    samples = some_samples()
    classes = {name: tuple(sorted({s.labels[name] for s in samples})) for name in ("verb", "noun")}
    assert class_names(samples) == classes
    truth = [[names.index(s.labels[name]) for name, names in classes.items()] for s in samples]
    assert encode_labels(samples, classes).tolist() == truth
    turned = {"noun": ("extra", *reversed(classes["noun"]))}
    assert encode_labels(samples, turned).tolist() == [[turned["noun"].index(s.labels["noun"])] for s in samples]
    part = SampleTable.of(samples)[:3]
    assert class_names(part) == class_names(samples[:3])


def test_every_label_without_a_class_is_listed_with_its_place():
    samples = [Sample("a", {"x": "1"}, where="t:1"), Sample("b", {"x": "2"}, where="t:2"), Sample("c", where="t:3")]
    expected = "t:1: x '1' is not among the 2 classes.*\n.*t:2: x '2' is .*\n.*t:3: no x"
    with pytest.raises(DataError, match=expected):
        encode_labels(samples, {"x": ("one", "two")})


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A table with a manifest of ROWS files that are not there: nine tenths to train, the rest to validate."""
    root = tmp_path_factory.mktemp("large")
    (root / "labels.csv").write_text("")
    facts = FileInfo(
        "videos/0.mp4", 7, 17 * 10**17, 10.0, 340, 256, 25.0, 250, packets="[256,340,8e-05,0.04,0,[0,512,249],[0]]"
    )
    path, train = root / "manifest.labels.jsonl", ROWS * 9 // 10
    samples = {"train": [Sample(facts.path, {"label": "0"})], "val": [Sample(facts.path, {"label": "0"})]}
    how = {"dataset": "folder", "classes": {}, "missing": {}, "number": {facts.path: 0}}
    how["stamps"] = take_fingerprints("folder", str(root / "labels.csv"), [facts.path])
    write_manifest(path, files=[facts], samples=samples, **how)
    header, file, *rows = path.read_text().splitlines()
    with path.open("w") as out:
        out.write(header.replace('"files":1', f'"files":{ROWS}').replace('"samples":2', f'"samples":{ROWS}') + "\n")
        out.writelines(file.replace("0.mp4", f"class {i % 400}/id-{i:011d}.mp4", 1) + "\n" for i in range(ROWS))
        for i in range(ROWS):
            out.write(rows[i >= train].replace("[0", f"[{i}").replace('"0"', f'"class {i % 400}"') + "\n")
    return root / "labels.csv"


def test_rows_load_and_are_hashed_in_the_time_of_reading_their_json(large):
    begin = time.process_time()
    with large.with_name("manifest.labels.jsonl").open() as file:
        for line in file:
            json.loads(line)
    start = time.process_time()
    samples, _ = find_in_manifest("folder", str(large), "train")
    loaded = time.process_time()
    classes = class_names(samples)
    labels = encode_labels(samples, classes)
    list_hash(samples, ordered=True)
    done = time.process_time()
    plain = start - begin
    print(f"\njson {plain:.2f} s, load {loaded - start:.2f} s, classes, labels and hash {done - loaded:.2f} s")
    assert len(samples) == ROWS * 9 // 10
    assert labels.shape == (len(samples), 1)
    assert loaded - start < 4 * plain
    assert done - loaded < 3 * plain
    assert samples[7].path == str(large.parent / "videos/class 7/id-00000000007.mp4")


def test_the_garbage_collector_does_not_run_between_rows(large):
    """It walks over all that a process holds, so rows took twice as long to load in a large process."""
    _load.cache_clear()
    gc.collect()
    before = [g["collections"] for g in gc.get_stats()]
    find_in_manifest("folder", str(large), "train")
    assert sum(g["collections"] for g in gc.get_stats()) - sum(before) < 10
    assert gc.isenabled()
    with pytest.raises(DataError, match="not a manifest"):
        parse_manifest(large.with_name("manifest.labels.jsonl").read_text()[:-9], base="", name="m")
    assert gc.isenabled()


def private_kib() -> int:
    """Memory of this process that no other shares."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(n) for n in re.findall(r"^Private_\w+: +(\d+) kB", text, flags=re.MULTILINE))


def touch_all(samples, queue):
    gc.disable()  # it would write to every object there is
    before = private_kib()
    for i in range(len(samples)):
        assert samples[i].path
    queue.put(private_kib() - before)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="tells memory by /proc")
def test_a_worker_that_has_seen_all_samples_holds_no_copy_of_them(large):
    samples, _ = find_in_manifest("folder", str(large), "train")
    samples = samples[1:]
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    worker = context.Process(target=touch_all, args=(samples, queue))
    worker.start()
    grown = queue.get()
    worker.join()
    print(f"\nthe worker has grown by {grown} KiB")
    assert grown < 20 * 1024
