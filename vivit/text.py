"""Make names from outside safe to print; shorten lists; format tables."""

import os
import unicodedata
from collections.abc import Sequence

BIDI_CONTROLS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they reorder the text around them
SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    r"""Escape what would act on a terminal instead of being shown: ESC becomes \x1b, a newline \n.

    Control characters (C0, C1, DEL), line and paragraph separators and bidirectional controls become visible escapes,
    and so do surrogates: the bytes of a file name that is not UTF-8 become \xNN. Any other text is returned as it is.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    code = ord(character)
    if unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") and character not in BIDI_CONTROLS:
        return character
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as os.fsdecode gives it
        code -= 0xDC00
    return SHORT_ESCAPES.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def shorten_list(items: Sequence[str], most: int = 20, *, indent: str = "") -> list[str]:
    """Return the first `most` items, and a last one that says how many more there are; each after `indent`."""
    more = [f"… and {len(items) - most} more"] if len(items) > most else []
    return [indent + item for item in (*items[:most], *more)]


def shorten_texts(texts: Sequence[str], longest: int) -> list[str]:
    """Cut long texts at the end, at the start or down to what differs, where texts that differ still do, or nowhere."""
    start = len(os.path.commonprefix(texts))
    for part in (slice(longest - 1), slice(1 - longest, None), slice(start, start + longest - 2)):
        short = [text if len(text) <= longest else _cut(text, part) for text in texts]
        if len({*short}) == len({*texts}):
            return short
    return [*texts]


def _cut(text: str, part: slice) -> str:
    """Return a part of a text, with a mark where something is left out."""
    start, end, _ = part.indices(len(text))
    return "…" * (start > 0) + text[part] + "…" * (end < len(text))


def listing(title: str, problems: Sequence[str], most: int = 20) -> str:
    """Format a message with one problem per line, the first `most` of them."""
    return "\n  ".join([f"{title} ({len(problems)}):", *map(printable, shorten_list(problems, most))])


def format_table(rows: Sequence[Sequence[str]], *, align: str = "<>", min_widths: Sequence[int] = (0,)) -> str:
    """Pad the cells of every column to its width, two spaces between columns, one row per line.

    Args:
        rows: Cells, made printable here; the heading, if any, is the first row. A row may have fewer cells than others.
        align: "<" (left) or ">" (right) for each column; the last one holds for all further columns.
        min_widths: Least width of each column in characters; the last one holds for all further columns.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    columns = range(max(map(len, cells), default=0))
    sides = [align[min(i, len(align) - 1)] for i in columns]
    widths = [
        max(min_widths[min(i, len(min_widths) - 1)], *(len(row[i]) for row in cells if i < len(row))) for i in columns
    ]
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths)).rstrip() for row in cells
    )


def format_markdown(rows: Sequence[Sequence[str]], *, align: str = "<>") -> str:
    """Format a Markdown table, the heading in the first row; `align` as in `format_table`."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    rules = ["---" if align[min(i, len(align) - 1)] == "<" else "---:" for i in range(len(rows[0]))]
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]])
