"""What reaches a terminal."""

import os

import pytest

from vivit.text import format_markdown, format_table, printable, shorten_list, shorten_texts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat 走る café e\u0301 👩‍👩‍👧 ‏عربي", "cat 走る café e\u0301 👩‍👩‍👧 ‏عربي"),
        ("\x1b]0;title\x07red\x1b[31m", "\\x1b]0;title\\x07red\\x1b[31m"),
        ("a\nb\rc\td\x7f", "a\\nb\\rc\\td\\x7f"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202egpj.exe\u2066x\u2069", "a\\u202egpj.exe\\u2066x\\u2069"),
        ("a\u2028b", "a\\u2028b"),
        (os.fsdecode(b"caf\xe9 \xff\xfe.mp4"), "caf\\xe9 \\xff\\xfe.mp4"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_would_act_on_a_terminal_is_shown_instead(text, shown):
    assert printable(text) == shown
    printable(text).encode("utf-8")


def test_no_control_character_of_latin_1_survives():
    shown = printable("".join(map(chr, range(256))))
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)


def test_a_long_list_is_shortened_and_says_by_how_much():
    assert shorten_list(["a", "b"], most=2) == ["a", "b"]
    assert shorten_list(["a", "b", "c"], most=1) == ["a", "… and 2 more"]
    assert shorten_list(["a", "b", "c"], most=1, indent="  ") == ["  a", "  … and 2 more"]


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        (["0.1", "0.02"], ["0.1", "0.02"]),
        (
            ["experiments/video_classification/clean/labels.csv", "experiments/video_classification/noisy/labels.csv"],
            ["…cation/clean/labels.csv", "…cation/noisy/labels.csv"],
        ),
        (["/disk1/a/long/way/to/labels.csv", "syn/labels.csv"], ["/disk1/a/long/way/to/la…", "syn/labels.csv"]),
        (
            ["/disk1/a/long/way/to/labels.csv", "/disk2/a/long/way/to/labels.csv"],
            ["/disk1/a/long/way/to/la…", "/disk2/a/long/way/to/la…"],
        ),
        (
            [f"{'a' * 40}/{x}/{'b' * 40}" for x in ("one", "two")],
            [f"…{x}/{'b' * 18}…" for x in ("one", "two")],
        ),
        (["a" * 30 + "b", "a" * 30 + "b"], ["a" * 23 + "…"] * 2),
        ([f"{x * 40}1{x * 40}" for x in "ab"] + ["b" * 81], None),  # only the whole texts differ
    ],
)
def test_long_texts_are_cut_where_they_stay_different(texts, shown):
    assert shorten_texts(texts, 24) == (texts if shown is None else shown)
    assert shown is None or max(map(len, shown)) <= 24


def test_the_columns_of_a_table_end_where_the_widest_cell_does():
    rows = [["", "A", "B"], ["name\n", "1.0 %", "-"], ["x"], ["a longer name", "2", "three"]]
    assert format_table(rows).splitlines() == [
        "                   A      B",
        "name\\n         1.0 %      -",
        "x",
        "a longer name      2  three",
    ]
    assert format_table(rows[1:2], align="<", min_widths=(8, 6, 0)) == "name\\n    1.0 %   -"
    assert format_table([]) == ""


def test_a_markdown_table_has_its_rule_below_the_heading():
    rows = [["a", "b", "c"], ["1", "2", ""]]
    assert format_markdown(rows).splitlines() == ["| a | b | c |", "|---|---:|---:|", "| 1 | 2 |  |"]
    assert format_markdown(rows, align="<><").splitlines()[1] == "|---|---:|---|"
