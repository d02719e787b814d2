"""Format the tables that `vivit eval` prints."""

from __future__ import annotations

import math
from itertools import zip_longest
from typing import TYPE_CHECKING

from ..config import EvalConfig
from ..text import format_table, listing, printable, shorten_texts
from .metrics import most_confused, worst_classes

if TYPE_CHECKING:
    from .evaluation import Evaluation


def format_subset(name: str, found: dict[str, dict[str, float | None]]) -> str:
    """Format the accuracy on an official subset of the test videos, for every label set."""
    shares = [(n, x["multi_view"], x["videos"]) for n, x in found.items()]
    shown = ", ".join(f"{n} {'-' if share is None else f'{share:.1%}'} of {videos}" for n, share, videos in shares)
    return f"{name:12}multi-view top-1: {shown}"


def format_evaluation(result: Evaluation) -> str:
    """Format single view and multi view side by side, and what they were measured on."""
    counts = f"{len(result.samples)} videos, {len(result.missing)} missing"
    if result.not_finite:
        counts += f", {len(result.not_finite)} with logits that are not finite, wrong in every number"
    lines = [f"{counts}, list {result.list_hash}; {describe_protocol(result.protocol)}"]
    columns = {"top-1": "top1", "top-5": "top5", "mean class": "mean_class", "ECE": "calibration_error"}
    if is_balanced(result):
        del columns["mean class"]  # is top-1
    both = result.metrics["single_view"], result.metrics["multi_view"]
    rows = [["", *columns, *columns]]
    for name in both[0]:
        shares = [found[name].get(key, math.nan) for found in both for key in columns.values()]
        rows.append([name, *("-" if math.isnan(share) else f"{share:.1%}" for share in shares)])
    heading, *numbers = format_table(rows, min_widths=(10, 6)).splitlines()
    multi_view = sum(max(len(title), 6) + 2 for title in columns)  # the width of each half
    lines += [f"{'single view':>{len(heading) - multi_view}}{'multi view':>{multi_view}}", heading, *numbers]
    if result.missing:
        lines.append(listing("missing", [*map(printable, result.missing.values())], most=10))
    if result.not_finite:
        lines.append(listing("logits not finite", [printable(sample.path) for sample in result.not_finite], most=10))
    return "\n".join(lines)


def describe_protocol(protocol: EvalConfig) -> str:
    """Describe a protocol in words."""
    words = [f"{protocol.temporal_views} x {protocol.spatial_views} views"]
    words += ["frames shuffled"] if protocol.shuffle_frames else []
    words += [f"{protocol.merge_tokens} tokens merged per layer"] if protocol.merge_tokens else []
    words += [f"static tubelets dropped (up to {protocol.drop_static:g})"] if protocol.drop_static is not None else []
    return ", ".join(words)


def is_balanced(result: Evaluation) -> bool:
    """Whether every class of a label set that occurs, occurs as often as the others."""
    counts = [column.bincount() for column in result.labels.unbind(dim=1)]
    return all(len(n[n > 0].unique()) <= 1 for n in counts)


def format_errors(result: Evaluation, most: int = 5) -> str:
    """Format the worst classes and the most frequent confusions of each label set; multi view, "" without errors."""
    blocks = []
    for label_set, names in result.classes.items():
        counts, videos = result.confusion(label_set), result.videos_of_classes(label_set)
        worst, confused = worst_classes(counts, most, videos), most_confused(counts, most)
        shown = [*dict.fromkeys([*worst, *(i for *pair, _ in confused for i in pair)])]
        short = dict(zip(shown, shorten_texts([printable(names[i]) for i in shown], 24)))
        left = [f"{short[i]:24}  {counts[i, i] / videos[i]:6.1%} of {videos[i]}" for i in worst]
        right = [f"{n:4} x  {short[i]} -> {short[j]}" for i, j, n in confused]
        if worst:
            heading = f"{label_set}: worst classes", "   taken for another"
            rows = [heading, *zip_longest(left, right, fillvalue="")]
            blocks.append(format_table(rows, align="<", min_widths=(40,)))
    return "\n\n".join(blocks)
