"""Look at a data set once, before training does: every label and every video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from .decode import VideoError
from .frames import open_video
from .sample import Sample, class_names, encode_labels, left_out, official_classes, read


@dataclass(frozen=True)
class Report:
    """Counts per split and class, and every file that cannot be used."""

    videos: dict[str, int] = field(default_factory=dict)
    """By split."""
    counts: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)
    """Split → label set → class → videos."""
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{n} videos in {split}" for split, n in self.videos.items()]
        label_sets = {name: None for sets in self.counts.values() for name in sets}
        for label_set in label_sets:
            lines.append(f"\n{label_set:24}" + "".join(f"{split:>10}" for split in self.counts))
            names = sorted({c for sets in self.counts.values() for c in sets[label_set]})
            for name in names:
                lines.append(f"  {name:22}" + "".join(f"{s[label_set][name]:>10}" for s in self.counts.values()))
        lines.append(f"\n{self.seconds / 60:.1f} minutes of video, {len(self.problems)} problems")
        return "\n".join([*lines, *(f"  {p}" for p in self.problems)])


def check(
    root: str,
    /,
    dataset: str = "folder",
    splits: tuple[str, ...] = ("train", "val"),
    workers: int = 2,
) -> Report:
    """Read every label and open every video of a data set.

    Args:
        root: A folder with one subfolder per class, or a .csv or .jsonl file.
        dataset: The reader of the annotations.
        splits: The splits to look at.
        workers: Processes that open videos.
    """
    samples = {split: read(dataset, root, split) for split in splits}
    classes = official_classes(dataset, root) or class_names(samples[splits[0]])
    for rows in samples.values():
        encode_labels(rows, classes)
    counts = {
        split: {name: Counter(s.labels[name] for s in rows) for name in classes} for split, rows in samples.items()
    }
    unique: dict[str, Sample] = {s.path: s for rows in samples.values() for s in rows}
    with ProcessPoolExecutor(max_workers=max(workers, 1)) as pool:
        looks: Sequence[tuple[float, str | None]] = list(pool.map(_look, unique.values(), chunksize=8))
    problems = [f"{split}, {line}" for split in splits for line in left_out(dataset, root, split)]
    problems += [problem for _, problem in looks if problem]
    return Report(
        {split: len(rows) for split, rows in samples.items()}, counts, sum(seconds for seconds, _ in looks), problems
    )


def _look(sample: Sample) -> tuple[float, str | None]:
    """(seconds, what is wrong) of a video."""
    try:
        video = open_video(sample.path, fps=sample.fps)
        video.frames([0, video.num_frames - 1])
    except VideoError as error:
        return 0.0, str(error)
    return video.duration, f"{sample.path}: {video.problem}" if video.problem else None
