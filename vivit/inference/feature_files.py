"""Write the features of videos to files: one per video, all or nothing, with a JSON file that describes the rows."""

from __future__ import annotations

import glob
import json
import math
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from ..data.datasets.find_videos import VIDEO_SUFFIXES
from ..data.reading import show_reading
from ..data.remote import filesystem_of, is_url
from ..data.sample import Sample
from ..errors import DataError, VideoError, VivitError
from ..files import atomic_write
from ..model.token_reduction import TokenReducedViViT
from ..model.vivit import ViViT
from ..text import printable
from .features import READOUTS, Features, Level, compute_features, count_rows_per_window, plan_features, row_shape
from .formats.common import import_pyarrow, to_json
from .resume import PartialRows
from .sliding import choose_batch

VERSION = 2  # of the computation; higher when the same weights and video give other numbers or times
TABLE, FAILURES = "features.json", "failures.csv"
DTYPES = {"float16": "<f2", "float32": "<f4"}
Format = Literal["npy", "npz", "parquet"]
Chunks = Iterator[np.ndarray]


@dataclass(frozen=True)
class FeatureOptions:
    """What to compute, and how to write it."""

    level: Level = "clip"
    hop: float | None = None
    dtype: Literal["float16", "float32"] = "float32"
    format: Format = "npy"
    precision: str = "auto"
    batch: int | None = None


@dataclass(frozen=True)
class FeatureFile:
    """Where the features of one sample are written: NAME.npy with NAME.json, or parquet/NAME.parquet with NAME.json."""

    folder: Path
    name: str
    sample: Sample
    format: Format

    @property
    def values(self) -> Path:
        """The features."""
        folder = self.folder / "parquet" if self.format == "parquet" else self.folder
        return folder / f"{self.name}.{self.format}"

    @property
    def about(self) -> Path:
        """The JSON file that describes them; it is written last."""
        return self.folder / f"{self.name}.json"

    @property
    def partial(self) -> Path:
        """The rows so far, locked by the process that computes them."""
        return self.folder / f"{self.name}.partial"

    def is_finished(self, made_from: str) -> bool:
        """Say whether the features were written completely, and from this."""
        try:
            about = json.loads(self.about.read_bytes())
            return about["made_from"] == json.loads(made_from) and self.values.stat().st_size == about["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            return False


def name_outputs(samples: Sequence[Sample], paths: Sequence[str]) -> list[str]:
    """Return the names of the files of samples: their `paths` without the suffix of video files, and their segment.

    Videos that would get the same name keep their suffix. Raises ValueError for names that remain equal.
    """
    short = [without_suffix(path) for path in paths]
    count = Counter((name, sample.start, sample.end) for name, sample in zip(short, samples))
    table = Path(TABLE).stem
    names: dict[str, Sample] = {}
    for name, path, sample in zip(short, paths, samples):
        clashes = count[name, sample.start, sample.end] > 1 or name == table
        name = (path if clashes else name) + segment_suffix(sample)
        if names.setdefault(name, sample) is not sample:
            raise ValueError(
                f"{names[name].path} and {sample.path} would both become {name}; give the folder that holds both, or "
                "another --out for each"
            )
    return [*names]


def without_suffix(name: str) -> str:
    """Return the name of a video without the suffix of video files."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in VIDEO_SUFFIXES else name


def segment_suffix(sample: Sample) -> str:
    """Return "_12.5-17" for the segment from 12.5 s to 17 s, "" for a whole video."""
    if sample.start is None and sample.end is None:
        return ""
    start = f"{sample.start or 0:.6f}".rstrip("0").rstrip(".")
    return f"_{start}-{'end' if sample.end is None else f'{sample.end:.6f}'.rstrip('0').rstrip('.')}"


def file_facts(sample: Sample) -> tuple[str, int, int | str]:
    """Return path, bytes and date in nanoseconds of a file, or of bytes in a tar file; for a URL its state as a hash.

    Raises VideoError.
    """
    path = sample.path if is_url(sample.path) else os.path.abspath(sample.path)
    if sample.offset is not None and sample.index is not None:
        return path, sample.index.size, sample.index.mtime_ns
    try:
        if is_url(path):
            filesystem, place = filesystem_of(path)
            return path, filesystem.size(place), filesystem.ukey(place)
        facts = os.stat(path)
    except OSError as error:
        raise VideoError(sample.path, f"cannot be opened ({error.strerror or error})") from error
    return path, facts.st_size, facts.st_mtime_ns


def describe_source(model: ViViT | TokenReducedViViT, sample: Sample, options: FeatureOptions, *, weights: str) -> str:
    """Return as JSON what the features of a sample depend on; `weights` is the hash of the weights.

    Raises VideoError for a file that is not there.
    """
    path, size, mtime_ns = file_facts(sample)
    depends = {
        "version": VERSION,
        "path": path,
        "size": size,
        "mtime_ns": mtime_ns,
        "segment": [sample.start, sample.end],
        "images_per_second": sample.fps,
        "weights": weights,
        "model": repr(model.config),
        "reduction": [getattr(model, name, None) for name in ("merge_tokens", "drop_static")],
        **asdict(options),
        "batch": choose_batch(model, options.batch, READOUTS[options.level]),
        "device": next(model.parameters()).device.type,
    }
    return json.dumps(depends, sort_keys=True)


def write_features(
    model: ViViT | TokenReducedViViT,
    file: FeatureFile,
    options: FeatureOptions,
    *,
    weights: str,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Any] | None:
    """Compute and write the features of one sample; return what its JSON file says, or None if it is finished already.

    Rows are kept in NAME.partial as they are computed, so that the same call resumes after a kill, and memory does not
    grow with the length of the video. `progress` takes the share that is done. Raises FolderInUse while another process
    computes the same sample, VideoError for an unreadable file, WeightsError for numbers that are not finite, and
    DataError for numbers that float16 cannot hold.
    """
    made_from = describe_source(model, file.sample, options, weights=weights)
    if file.is_finished(made_from):
        return None
    shape, per_window = row_shape(model, options.level), count_rows_per_window(model, options.level)
    with PartialRows(file.partial, made_from, per_window * math.prod(shape), DTYPES[options.dtype]) as kept:
        if file.is_finished(made_from):  # by the process that had the lock
            kept.remove()
            return None
        try:
            plan = plan_features(model, file.sample, level=options.level, hop=options.hop)
            number = len(plan.plan.rows)
            computed = compute_features(model, plan, first=kept.count, precision=options.precision, batch=options.batch)
            for window, values in computed:
                kept.append(as_dtype(values, options.dtype, file.sample.path).ravel())
                progress((window + 1) / number)
        except VivitError:
            if not kept.count:
                kept.remove()
            raise
        rows = plan.features(np.empty((len(plan), 0)))
        about = describe_rows(rows, file, options, shape=shape, weights=weights, config=model.config)
        save(file, cut(kept, len(plan), shape), about, made_from)
        kept.remove()
    return about


def as_dtype(values: np.ndarray, dtype: str, path: str) -> np.ndarray:
    """Return the values in a dtype. Raises DataError where float16 cannot hold them."""
    with np.errstate(over="ignore"):
        found = values.astype(dtype)
    if not np.isfinite(found).all():
        raise DataError(f"{path}: a feature is {np.abs(values).max():.6g}, above the range of {dtype}; take float32")
    return found


def cut(kept: PartialRows, number: int, shape: tuple[int, ...]) -> Chunks:
    """Yield the first `number` rows (n, *shape) in pieces; what follows them is padding."""
    for windows in kept.chunks():
        rows = windows.reshape(-1, *shape)[:number]
        number -= len(rows)
        yield rows


def describe_rows(
    rows: Features, file: FeatureFile, options: FeatureOptions, *, shape: tuple[int, ...], weights: str, config: Any
) -> dict[str, Any]:
    """Return what the JSON file says: what the rows are, when each is, and what they were computed from."""
    sample = file.sample
    return {
        "path": rows.path,
        "file": file.values.relative_to(file.folder).as_posix(),
        "level": rows.level,
        "shape": [len(rows), *shape],
        "dtype": options.dtype,
        "fps": rows.fps,
        "duration": rows.duration,
        "feat_stride": whole(rows.feat_stride),
        "num_frames": whole(rows.num_frames),
        "grid": list(config.grid),
        "segment": None if sample.start is None and sample.end is None else [sample.start, sample.end],
        "labels": sample.labels,
        "weights": weights,
        "precision": options.precision,
        "seconds": rows.seconds.tolist(),
        "start": rows.start.tolist(),
        "end": rows.end.tolist(),
        "padded": np.flatnonzero(rows.padded).tolist(),
    }


def whole(number: float) -> float | int:
    """Return an integer where the number is one; readers count frames in integers."""
    return int(number) if number == int(number) else number


def save(file: FeatureFile, chunks: Chunks, about: dict[str, Any], made_from: str) -> None:
    """Write the features and then what describes them, each all or nothing, and delete what a kill left of either.

    Old ones are deleted before new ones come, so that a description is always that of its features.
    """
    for path in (file.values, file.about):
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            left.unlink()
    write = {"npy": write_npy, "npz": write_npz, "parquet": write_parquet}[file.format]
    with suppress(FileNotFoundError):
        file.about.unlink()
    with atomic_write(file.values, "wb") as out:
        write(out, chunks, about)
    described = about | {"bytes": file.values.stat().st_size, "made_from": json.loads(made_from)}
    with atomic_write(file.about) as out:
        out.write(to_json(described) + "\n")


def write_npy(file: IO[bytes], chunks: Chunks, about: dict[str, Any]) -> None:
    """Write one array (n, D) or (n, s, D)."""
    header = {"descr": DTYPES[about["dtype"]], "fortran_order": False, "shape": tuple(about["shape"])}
    np.lib.format.write_array_header_1_0(file, header)
    for rows in chunks:
        file.write(rows.tobytes())


def write_npz(file: IO[bytes], chunks: Chunks, about: dict[str, Any]) -> None:
    """Write the array `feats`, as OpenTAD names it, and `seconds`, `start` and `end` of its rows."""
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open(zipfile.ZipInfo("feats.npy"), "w", force_zip64=True) as member:
            write_npy(member, chunks, about)
        for name in ("seconds", "start", "end"):
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, np.asarray(about[name]))


def write_parquet(file: IO[bytes], chunks: Chunks, about: dict[str, Any]) -> None:
    """Write the columns path, seconds and feature, a list of D or s · D numbers."""
    pyarrow, parquet = import_pyarrow()
    size = math.prod(about["shape"][1:])
    path = os.fsencode(about["path"]).decode("utf-8", "replace")
    feature = pyarrow.list_(pyarrow.from_numpy_dtype(np.dtype(about["dtype"])), size)
    fields = [("path", pyarrow.string()), ("seconds", pyarrow.float64()), ("feature", feature)]
    done = 0
    with parquet.ParquetWriter(file, pyarrow.schema(fields)) as writer:
        for rows in chunks:
            values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), size)
            seconds = pyarrow.array(about["seconds"][done : done + len(rows)])
            columns = [pyarrow.array([path] * len(rows)), seconds, values]
            writer.write_table(pyarrow.Table.from_arrays(columns, [name for name, _ in fields]))
            done += len(rows)


def write_table(folder: Path) -> int:
    """Write features.json, the table of all features in a folder in the form of ActivityNet; return their number.

    A reader of ActionFormer or OpenTAD takes fps and duration of a video from it; `annotations` are empty.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.json"))
    database: dict[str, dict[str, Any]] = {}
    shown = ("path", "file", "fps", "duration", "feat_stride", "num_frames", "shape", "level", "segment", "labels")
    for name in show_reading([name for name in names if name != TABLE], f"descriptions in {printable(str(folder))}"):
        try:
            about = json.loads((folder / name).read_bytes())
            row = {key: about[key] for key in shown}
        except (OSError, ValueError, KeyError, TypeError):  # not one of ours, or written anew at this moment
            continue
        database[name.removesuffix(".json")] = {"subset": "features", **row, "annotations": []}
    with atomic_write(folder / TABLE) as file:
        file.write(to_json({"database": database}, indent=1) + "\n")
    return len(database)
