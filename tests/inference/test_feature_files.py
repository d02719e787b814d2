"""Files of features: what other readers find in them, and what is computed again after a stop or a change."""

import json

import numpy as np
import pyarrow.parquet
import pytest

from vivit.data.sample import Sample
from vivit.errors import FolderInUse, VideoError
from vivit.inference import feature_files
from vivit.inference.feature_files import FeatureFile, FeatureOptions, write_features, write_table
from vivit.inference.features import features
from vivit.inference.resume import PartialRows
from vivit.weights.save import hash_weights

from ..data.videos import counter_frames, write_video
from ..model import tiny

LEVELS = [("clip", "factorised_encoder"), ("position", "factorised_encoder"), ("token", "factorised_encoder")]
LEVELS += [("token", "spatiotemporal")]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", counter_frames(90))


def write(model, folder, video, level="clip", **options):
    made = FeatureOptions(level=level, **options)
    file = FeatureFile(folder, "a", Sample(str(video), labels={"label": "x"}), made.format)
    return file, write_features(model, file, made, weights=hash_weights(model))


@pytest.mark.parametrize(("level", "encoder"), LEVELS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_other_readers_find_the_numbers_of_the_python_function(level, encoder, dtype, video, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_files.PartialRows.chunks, "__defaults__", (100,))  # bytes: many pieces
    model = tiny.model(encoder)
    expected = features(model, video, level=level)
    values = expected.values.astype(dtype)
    for format in ("npy", "npz", "parquet"):
        file, about = write(model, tmp_path / format, video, level, dtype=dtype, format=format)
        assert about["shape"] == list(values.shape)
        assert json.loads(file.about.read_text())["seconds"] == expected.seconds.tolist()
        assert not file.partial.exists()
    array = np.load(tmp_path / "npy" / "a.npy")
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, values)
    with np.load(tmp_path / "npz" / "a.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["feats"], values)
        for name in ("seconds", "start", "end"):
            np.testing.assert_array_equal(arrays[name], getattr(expected, name))
    table = pyarrow.parquet.read_table(tmp_path / "parquet" / "parquet")  # the folder is a set
    assert table.column_names == ["path", "seconds", "feature"]
    assert set(table["path"].to_pylist()) == {str(video)}
    np.testing.assert_array_equal(table["seconds"].to_numpy(), expected.seconds)
    found = np.stack(table["feature"].to_numpy()).reshape(values.shape)
    np.testing.assert_array_equal(found, values)


def test_a_reader_of_actionformer_gets_the_array_and_the_time_of_every_row(video, tmp_path):
    """What its dataset class does with a features folder and a JSON file: id → file, fps, duration; (T, D) → (D, T)."""
    model = tiny.model()
    _, about = write(model, tmp_path, video, "position")
    assert write_table(tmp_path) == 1
    database = json.loads((tmp_path / "features.json").read_text())["database"]
    for name, row in database.items():
        assert row["subset"].lower() == "features"
        feats = np.load(tmp_path / (name + ".npy")).astype(np.float32).transpose()
        assert feats.shape == (16, 23)
        segment = np.array([0.08, 0.72], np.float32)  # the centers of rows 0 and 4
        grid = (segment * row["fps"] - 0.5 * row["num_frames"]) / row["feat_stride"]
        np.testing.assert_allclose(grid, [0, 4], atol=1e-6)
        assert (row["duration"], row["annotations"]) == (3.6, [])
    assert {type(about["feat_stride"]), type(about["num_frames"])} == {int}
    centers = (np.arange(22) * about["feat_stride"] + 0.5 * about["num_frames"]) / about["fps"]
    np.testing.assert_allclose(about["seconds"][:22], centers, atol=1e-9)


@pytest.mark.parametrize(("level", "encoder"), LEVELS)
def test_a_stop_at_any_row_leaves_the_same_file_after_the_next_call(level, encoder, video, tmp_path, monkeypatch):
    model = tiny.model(encoder)
    at_once, _ = write(model, tmp_path / "at_once", video, level, hop=0.2 if level == "clip" else None)
    append, stops = PartialRows.append, iter([0, 1, 3, 2, 10**6])
    left = 0

    def stopping(self, row):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        append(self, row)

    monkeypatch.setattr(PartialRows, "append", stopping)
    calls, about = 0, None
    while about is None:
        left, calls = next(stops), calls + 1
        try:
            file, about = write(model, tmp_path / "parts", video, level, hop=0.2 if level == "clip" else None)
        except KeyboardInterrupt:
            assert not (tmp_path / "parts" / "a.npy").exists()
    assert calls == 5
    assert file.values.read_bytes() == at_once.values.read_bytes()
    assert file.about.read_bytes() == at_once.about.read_bytes()
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["a.json", "a.npy"]


def test_finished_features_are_computed_again_only_if_something_changed(video, tmp_path):
    model = tiny.model()
    file, about = write(model, tmp_path, video)
    assert about is not None
    assert write(model, tmp_path, video)[1] is None
    for change in ({"hop": 0.2}, {"dtype": "float16"}, {"level": "position"}, {"precision": "bfloat16"}, {"batch": 2}):
        assert write(model, tmp_path, video, **change)[1] is not None
    assert write(tiny.model(), tmp_path, video)[1] is not None
    file.values.write_bytes(b"cut off")
    assert write(model, tmp_path, video)[1] is not None
    file.about.write_text("{}")
    assert write(model, tmp_path, video)[1] is not None


def test_a_kill_between_the_two_files_never_leaves_features_with_the_description_of_others(
    video, tmp_path, monkeypatch
):
    model = tiny.model()
    file, _ = write(model, tmp_path, video)
    monkeypatch.setattr(feature_files, "to_json", lambda *args, **kwargs: 1 / 0)  # after the array, before the JSON
    with pytest.raises(ZeroDivisionError):
        write(model, tmp_path, video, dtype="float16")
    assert np.load(file.values).dtype == np.float16
    assert not file.about.exists()
    monkeypatch.undo()
    assert write(model, tmp_path, video)[1]["dtype"] == "float32"


def test_a_video_that_another_process_computes_is_left_alone(video, tmp_path):
    model = tiny.model()
    with PartialRows(tmp_path / "a.partial", "other", 3), pytest.raises(FolderInUse, match="in use by another process"):
        write(model, tmp_path, video)
    assert write(model, tmp_path, video)[1] is not None


def test_a_damaged_file_leaves_nothing_and_one_damaged_later_its_rows(tmp_path):
    model = tiny.model()
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match="cannot be read as a video"):
        write(model, tmp_path / "out", tmp_path / "a.mp4")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(VideoError, match="cannot be opened"):
        write(model, tmp_path / "out", tmp_path / "none.mp4")


def test_the_table_skips_other_json_files(video, tmp_path):
    write(tiny.model(), tmp_path, video)
    (tmp_path / "other.json").write_text("[]")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "broken.json").write_text("{")
    assert write_table(tmp_path) == 1
    row = json.loads((tmp_path / "features.json").read_text())["database"]["a"]
    assert row["labels"] == {"label": "x"}
