"""What `vivit data check` found: the kinds of problems, and the report it prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...text import format_table, printable, shorten_list
from ..manifest import FileInfo
from ..sample import Classes

MAX_LINES = 10  # of one kind, on the terminal
FEW_CLASSES = 50  # up to this many are shown one by one

PROBLEMS = {
    "annotations": "labels that cannot be used",
    "unreadable": "files without a frame that decodes; training leaves them out",
    "damaged": "files of which only a part can be used",
    "mislabelled": "labels that are not among the classes",
    "outside": "segments in which their video shows nothing: after its end, or before its first frame",
    "leak": "the same video in more than one split",
    "duplicated": "the same video more than once in a split",
    "manifest": "the manifest could not be written",
}
WARNINGS = {
    "missing": "in the official list, but not there; common, and left out",
    "classes": "classes that cannot be learned or measured well",
    "passed over": "files that are not videos of the dataset",
    "not kept": "no manifest: the next check and training read everything again",
}


@dataclass(frozen=True)
class Report:
    """What a check found: counts per split and class, warnings and problems."""

    videos: dict[str, int] = field(default_factory=dict)
    """By split."""
    counts: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)
    """Split → label set → class → videos."""
    classes: Classes = field(default_factory=dict)
    columns: str = ""
    """For a table: which columns are labels and why."""
    files: Sequence[FileInfo] = ()
    opened: int = 0
    """How many files were opened; the others have not changed since the manifest was written."""
    found: dict[str, list[str]] = field(default_factory=dict)
    """What is wrong, by kind, see `PROBLEMS` and `WARNINGS`."""
    short: list[str] = field(default_factory=list)
    """Videos shorter than a clip, shortest first. Not a problem: a clip of them loops from the beginning."""
    clip: str = ""
    manifest: Path | None = None
    """Where the manifest was written."""

    @property
    def problems(self) -> list[str]:
        """What must be fixed."""
        return [line for kind in PROBLEMS for line in self.found.get(kind, ())]

    @property
    def warnings(self) -> list[str]:
        """What is worth knowing but need not be fixed."""
        return [line for kind in WARNINGS for line in self.found.get(kind, ())]

    @property
    def seconds(self) -> float:
        return sum(info.duration for info in self.files)

    def __str__(self) -> str:
        lines = [f"{n} videos in {split}" for split, n in self.videos.items()]
        lines += [self.columns] if self.columns else []
        for label_set, names in self.classes.items():
            lines += ["", *self._table(label_set, names)]
        lines += ["", *self._files()]
        if self.short:
            lines += ["", f"{len(self.short)} shorter than {self.clip}: a clip of them loops from the beginning"]
            lines += shorten_list(self.short, 3, indent="  ")
        for title, kinds, several in (("warnings", WARNINGS, self.warnings), ("problems", PROBLEMS, self.problems)):
            if several or kinds is PROBLEMS:
                lines += ["", f"{len(several)} {title}"]
            for kind, what in kinds.items():
                if self.found.get(kind):
                    lines += [
                        f"{kind} ({len(self.found[kind])}): {what}",
                        *shorten_list(self.found[kind], MAX_LINES, indent="  "),
                    ]
        if self.manifest:
            lines += ["", f"written to {self.manifest}"]
        return "\n".join(map(printable, lines))

    def _table(self, label_set: str, names: Sequence[str]) -> list[str]:
        """Return a table of videos per class; of many classes, only those with the most and the fewest."""
        rows = [(name, [sets[label_set][name] for sets in self.counts.values()]) for name in names]
        note = ""
        if len(rows) > FEW_CLASSES:
            rows.sort(key=lambda row: -row[1][0])
            absent = sum(not numbers[0] for _, numbers in rows)
            first = next(iter(self.counts))
            note = f"   ({len(rows)} classes, the most and least frequent; {absent} have no video in {first})"
            rows = [*rows[:MAX_LINES], ("…", []), *rows[-MAX_LINES:]]
        cells = [[f"  {name}", *map(str, numbers)] for name, numbers in rows]
        heading, *lines = format_table([[label_set, *self.counts], *cells], min_widths=(22, 8)).splitlines()
        return [heading + note, *lines]

    def _files(self) -> list[str]:
        usable = [f for f in self.files if f.num_frames]
        size = sum(f.bytes or 0 for f in self.files)
        as_before = len(self.files) - self.opened
        lines = [
            f"{len(self.files)} files, {size / 2**20:.1f} MiB, {self.seconds / 60:.1f} minutes"
            f" ({self.opened} opened now" + (f", {as_before} unchanged since the last check)" if as_before else ")")
        ]
        if usable:
            for name, values in {
                "size": Counter(f"{f.width}x{f.height}" for f in usable),
                "rate": Counter(f"{f.fps:.4g}/s" for f in usable),
            }.items():
                most = ", ".join(f"{value} {n}" for value, n in values.most_common(4))
                lines.append(f"  {name}: {most}" + (f" and {len(values) - 4} others" if len(values) > 4 else ""))
            counts = sorted(f.num_frames for f in usable)
            lines.append(f"  frames: {counts[0]} to {counts[-1]}, half have at least {counts[len(counts) // 2]}")
        return lines
