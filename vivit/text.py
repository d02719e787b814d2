"""Make names from outside safe to print; shorten lists."""

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


def listing(title: str, problems: Sequence[str], most: int = 20) -> str:
    """Format a message with one problem per line, the first `most` of them."""
    return "\n  ".join([f"{title} ({len(problems)}):", *map(printable, shorten_list(problems, most))])
