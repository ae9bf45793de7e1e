"""Patterns from people: the same as `re` for what is supported, and never slow."""

from __future__ import annotations

import random
import re

import pytest

from webapp.lib import safe_pattern
from webapp.lib.safe_pattern import MAX_LENGTH, Pattern, PatternError

LONG = "a" * 4000 + "!"


def test_it_finds_what_re_finds() -> None:
    luck, compared = random.Random(5), 0
    parts = (*"abc", ".", "[ab]", "[^a]", r"\d", r"\.", "(", ")", "|", "*", "+?", "?", "{2}", "{1,}", "{0,2}", "(?:")
    for _ in range(4000):
        text = luck.choice(["", "^"]) + "".join(luck.choices(parts, k=luck.randint(1, 7))) + luck.choice(["", "$"])
        try:
            ours = Pattern(text)
        except PatternError:
            continue
        theirs = re.compile(text.replace("[^a]", r"[^a\n]"), re.MULTILINE)
        for _ in range(4):
            line = "".join(luck.choices("ab.c1\n", k=luck.randint(0, 6)))
            compared += 1
            assert ours.finds(line) == bool(theirs.search(line)), (text, line)
    assert compared > 1000


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("HTTP 5\\d\\d", "last: HTTP 503 from db", True),
        ("(?i)Connection Refused", "CONNECTION refused", True),
        ("Refused", "refused", False),
        ("^Killed$", "one\nKilled\ntwo", True),
        ("^Killed$", "one Killed", False),
        ("[]a-c]x", "]x", True),
        ("[+--]", ",", True),
        ("a\\|b", "a|b", True),
        ("\u00e4+$", "\u00e4\u00e4", True),
    ],
)
def test_it_finds_words_in_output(pattern: str, text: str, found: bool) -> None:
    assert Pattern(pattern).finds(text) == found


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "a?" * 60 + "a" * 60, "(.*)(.*)(.*)(.*)x", "([a-z]+)*:"])
def test_a_pattern_on_which_re_would_hang_takes_one_step_for_each_character(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, step = [], Pattern._step

    def counted(self: Pattern, states: frozenset[int], character: str) -> frozenset[int]:
        steps.append(character)
        return step(self, states, character)

    monkeypatch.setattr(Pattern, "_step", counted)
    Pattern(pattern).finds(LONG)
    assert len(steps) <= len(LONG) + 1


def test_what_is_remembered_of_a_text_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_pattern, "_REMEMBERED", 500)
    pattern = Pattern("a[ab]{50}!")
    assert not pattern.finds("".join(random.Random(1).choices("ab", k=300)))
    assert sum(map(len, pattern._steps.values())) < 600


def test_states_with_the_same_test_ask_it_once_for_a_character() -> None:
    pattern = Pattern("a[ab]{50}!")
    assert (pattern.size > 50, len(pattern._readers)) == (True, 3)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "is empty"),
        ("(a", r"has a \( without its \), at character 3"),
        ("a)", r"has a \) without its \("),
        ("[a", r"has a \[ without its \]"),
        ("*a", r"has nothing before \* to repeat"),
        ("a**", "repeats a repetition"),
        ("a{5,2}", "invalid repeat count"),
        ("a{x}", "does not begin a repeat count"),
        ("(?=a)", r"uses \(\?, which is not supported"),
        ("(a)\\1", r"uses \\1, which is not supported"),
        ("a\\", "ends with a backslash"),
        ("[z-a]", "is not valid: bad character range"),
        ("(" * 30, "more than 20 groups"),
        ("(a{100}){100}", "repeats too much"),
        ("a" * (MAX_LENGTH + 1), "at most 200 are allowed"),
    ],
)
def test_a_wrong_pattern_is_refused_with_what_is_wrong(pattern: str, message: str) -> None:
    with pytest.raises(PatternError, match=message):
        Pattern(pattern)
