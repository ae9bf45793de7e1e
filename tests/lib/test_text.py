"""Text from commands and users: escaping for terminals and pages, masking, and short forms."""

from __future__ import annotations

from typing import Optional

import pytest

from webapp.lib import text

MISLEADING = ["\x00", "\x1b", "\x7f", "\x9b", "\r", "\u202e", "\u061c", "\u2066", "\u200b", "\ufeff", "\ud800"]


@pytest.mark.parametrize("char", MISLEADING)
def test_control_and_bidi_characters_are_escaped_in_terminals_and_pages(char: str) -> None:
    for shown in (text.escape_controls, text.escape_lines, text.show_controls):
        assert char not in shown(f"a{char}b")
        assert shown(f"a{char}b").encode()


def test_newlines_stay_in_multi_line_text() -> None:
    assert text.escape_controls("a\tb\nc") == r"a\tb\nc"
    assert text.escape_lines("a\tb\nc\x1b") == "a\\tb\nc\\x1b"
    assert text.show_controls("a\tb\nc\x1b\x7f\x00\u202e") == "a\tb\nc\u241b\u2421\ufffd\u2039U+202E\u203a"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a\r\nb\r\n", "a\nb\n"),
        ("a\rb", "a\nb"),
        ("a\r", "a\n"),
        ("a\r\r\nb", "a\nb"),
        ("\ufeffa\r\n\ufeffb", "a\n\ufeffb"),
        ("a\nb\n", "a\nb\n"),
        (r"printf 'a\r\n'", r"printf 'a\r\n'"),
    ],
)
def test_every_line_end_becomes_a_line_feed(given: str, kept: str) -> None:
    assert text.unix_lines(given) == kept


def test_emoji_joiners_stay() -> None:
    family = "\U0001f468\u200d\U0001f469"
    assert text.escape_controls(family) == text.show_controls(family) == family


def test_a_terminal_receives_only_colours_and_lines() -> None:
    looks = "\x1b[1;31mred\x1b[0m\tx\r\n"
    assert text.escape_for_terminal(looks) == looks
    assert text.escape_for_terminal("\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\u202e") == (
        r"\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\u202e"
    )


@pytest.mark.parametrize(
    ("given", "stored", "controls"),
    [("a\nb", True, True), ("a\0", False, True), ("\udcff", False, True), ("na\u200cme \U0001f600", True, False)],
)
def test_text_that_a_database_cannot_store_is_detected(given: str, stored: bool, controls: bool) -> None:
    assert text.can_be_stored(given) is stored
    assert text.has_controls(given) is controls


@pytest.mark.parametrize(
    ("output", "plain"),
    [
        (b"\x1b[31mred\x1b[0m alert", "red alert"),
        (b"\x1b]0;title\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ \x1b(Bend", "link end"),
        ("\x9b31mred\x9d0;title\x9c on".encode(), "red on"),
        (b"a\x00b\xff\nc", "ab\N{REPLACEMENT CHARACTER}\nc"),
    ],
)
def test_terminal_controls_are_removed_from_output(output: bytes, plain: str) -> None:
    assert text.plain_text(output) == plain


@pytest.mark.parametrize(
    ("limit", "tail"), [(100, "one\ntwo three\n"), (12, "two three\n"), (10, "two three\n"), (5, "hree\n")]
)
def test_a_tail_starts_with_a_whole_line_if_there_is_one(limit: int, tail: str) -> None:
    assert text.plain_tail(b"one\ntwo\tthree\n", limit) == tail


@pytest.mark.parametrize(
    ("one", "masked"),
    [
        ("cannot open /tmp/a/b.txt: gone", "cannot open PATH: gone"),
        ("line 12:  404", "line N: N"),
        ("request 9f8e7d6c5b4a failed at 0xFF", "request ID failed at ID"),
        ("user 123e4567-e89b-12d3-a456-426614174000", "user ID"),
        (r"C:\srv\x.log is full", "PATH is full"),
        ("the facade decade of 10 beads", "the facade decade of N beads"),
    ],
)
def test_numbers_paths_and_ids_are_masked_and_words_stay(one: str, masked: str) -> None:
    assert text.mask(one) == masked


@pytest.mark.parametrize(
    ("given", "limit", "line"),
    [
        ("", 300, ""),
        ("echo a \\\n   --b\n\n  echo c \r\n", 300, "echo a ↵ --b ↵ echo c"),
        ("dir C:\\", 300, "dir C:\\"),
        ("x" * 301, 300, "x" * 299 + "…"),
        ("x" * 301, None, "x" * 301),
    ],
)
def test_several_lines_are_shown_as_one(given: str, limit: Optional[int], line: str) -> None:
    assert text.one_line(given, limit) == line


def test_amounts_and_lists_are_shown_in_words() -> None:
    assert [text.plural(number, "job") for number in (0, 1, 2413)] == ["0 jobs", "1 job", "2,413 jobs"]
    assert text.plural(2, "job is", "jobs are") == "2 jobs are"
    assert [text.listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    sizes = [None, 0, 1023, 1536, 20 * 2**20, 3 * 2**40]
    assert [text.size(one) for one in sizes] == ["\u2013", "0 B", "1023 B", "1.5 KiB", "20.0 MiB", "3072.0 GiB"]
