"""Subtitles and label tracks, one video per file: SubRip, WebVTT, Audacity"""

from __future__ import annotations

import re
from typing import IO

from ...text import printable
from .common import FormatOptions, Videos, seconds

WORD_JOINER = "\u2060"  # invisible, and no part of any markup


def write_srt(file: IO[str], videos: Videos, options: FormatOptions) -> None:
    """Write SubRip subtitles. They have no escapes: an invisible word joiner breaks what would be markup."""
    for number, (start, end, text) in enumerate(cues(videos), start=1):
        text = re.sub(r"<(?=[/\w])|\{(?=\\)|--(?=>)", lambda match: match[0] + WORD_JOINER, text)
        file.write(f"{number}\n{clock(start, ',')} --> {clock(end, ',')}\n{text}\n\n")


def write_vtt(file: IO[str], videos: Videos, options: FormatOptions) -> None:
    """Write WebVTT subtitles; &, < and > are escaped, so that no text is markup or an arrow.

    Players take a brace and a backslash for commands, although WebVTT has none: an invisible word joiner breaks them.
    """
    file.write("WEBVTT\n\n")
    for start, end, text in cues(videos):
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        text = text.replace("{\\", f"{{{WORD_JOINER}\\")
        file.write(f"{clock(start, '.')} --> {clock(end, '.')}\n{text}\n\n")


def write_audacity(file: IO[str], videos: Videos, options: FormatOptions) -> None:
    """Write the label track of Audacity: start, end and label, separated by tabs."""
    for _, found in videos:
        for one in found:
            file.write(f"{seconds(one.start):.6f}\t{seconds(one.end):.6f}\t{one_line(one.label)}\n")


def cues(videos: Videos) -> list[tuple[int, int, str]]:
    """Return (start, end, text) of subtitles, times in milliseconds; each is shown for one at least."""
    several = len({one.label_set for _, found in videos for one in found}) > 1
    rows = []
    for _, found in videos:
        for one in found:
            start = round(1000 * seconds(one.start))
            prefix = f"{one_line(one.label_set)}: " if several else ""
            text = f"{prefix}{one_line(one.label)} ({one.score:.0%})"
            rows.append((start, max(round(1000 * one.end), start + 1), text))
    return rows


def clock(milliseconds: int, point: str) -> str:
    """Format as 01:02:03,456."""
    rest, milliseconds = divmod(milliseconds, 1000)
    return f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}{point}{milliseconds:03}"


def one_line(text: str) -> str:
    """Replace line breaks and tabs by spaces, and show other control characters as escapes."""
    return printable(" ".join(text.split()))
