"""The load report: the status of every tensor of the file and of the model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

Status = Literal["loaded", "inflated", "interpolated", "initialised", "ignored"]
STATUSES: tuple[Status, ...] = ("loaded", "inflated", "interpolated", "initialised", "ignored")


@dataclass(frozen=True)
class Row:
    """Tensors that belong together: a fused projection has three sources, a copied tensor has two targets."""

    status: Status
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True)
class LoadReport:
    """`str(report)` lists every tensor; `report.summary` is one line."""

    source: str
    """The file, folder or hub id of the weights."""
    format: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """Settings that come from the file or were corrected."""

    @property
    def summary(self) -> str:
        """One line: 'Hugging Face vivit from PATH: 200 loaded, 2 ignored'."""
        counts = Counter[Status]()
        for row in self.rows:
            counts[row.status] += len(row.targets) or len(row.sources)
        parts = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
        return f"{self.format} from {self.source}: {parts}"

    def names(self, status: Status) -> list[str]:
        """Return the tensors of the model with one status; for 'ignored', those of the file."""
        return [name for row in self.rows if row.status == status for name in row.targets or row.sources]

    def __str__(self) -> str:
        lines = [self.summary, *(f"  {note}" for note in self.notes)]
        for status in STATUSES:
            for row in self.rows:
                if row.status == status:
                    arrow = " -> ".join(", ".join(side) for side in (row.sources, row.targets) if side)
                    lines.append(f"  {status:12} {arrow}{f'  ({row.reason})' if row.reason else ''}")
        return "\n".join(lines)


def merge_rows(rows: list[Row]) -> tuple[Row, ...]:
    """Merge rows that share a source, so that every tensor is in one row."""
    groups: list[Row] = []
    place: dict[str, int] = {}
    for row in rows:
        at = next((place[s] for s in row.sources if s in place), len(groups))
        if at == len(groups):
            groups.append(row)
        else:
            first = groups[at]
            groups[at] = Row(
                status=max(first.status, row.status, key=lambda s: STATUSES.index(s) if s != "ignored" else -1),
                sources=tuple(dict.fromkeys(first.sources + row.sources)),
                targets=first.targets + row.targets,
                reason="; ".join(dict.fromkeys(filter(None, (first.reason, row.reason)))),
            )
        place |= dict.fromkeys(row.sources, at)
    return tuple(groups)
