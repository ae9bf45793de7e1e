"""Conditions that find a text in a column in any case, by one rule on both databases.

Two characters are the same letter if they differ only in case: `ü` and `Ü`, `ς` and `Σ`. An ASCII letter is only the
same as its other ASCII form. Not `lower()` or ILIKE: SQLite's know ASCII only, those of PostgreSQL depend on the locale
of its database. The letters are written into the pattern instead, which both databases match alike.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement

from webapp.db.engines import is_sqlite

_CASED_BELOW = 0x1F000  # no letter from here on has two cases
_LIKE = re.compile(r"([/%_])")
_GLOB = re.compile(r"[*?\[]")


def contains(column: Any, word: str) -> ColumnElement[bool]:
    """Whether the column contains the word, in any case."""
    return _matches(column, word, "%")


def starts_with(column: Any, word: str) -> ColumnElement[bool]:
    """Whether the column starts with the word, in any case."""
    return _matches(column, word, "")


def _matches(column: Any, word: str, before: str) -> ColumnElement[bool]:
    found: ColumnElement[bool]
    if not any(len(forms(char)) > 1 for char in word if not char.isascii()):
        # LIKE is several times faster. SQLite's ignores the case of ASCII letters, as ILIKE does with the collation C.
        pattern = before + _LIKE.sub(r"/\1", word) + "%"
        found = column.like(pattern, escape="/") if is_sqlite() else column.collate("C").ilike(pattern, escape="/")
    elif is_sqlite():
        found = column.op("GLOB", is_comparison=True)("*" * bool(before) + "".join(map(_glob, word)) + "*")
    else:
        found = column.collate("C").op("~", is_comparison=True)("^" * (not before) + "".join(map(_regex, word)))
    return found


def forms(char: str) -> str:
    """All characters that are the same letter as this one, itself included."""
    if char.isascii():
        return char.lower() + char.upper() if char.isalpha() else char
    return _letters().get(_fold(char), char)


@cache
def _letters() -> dict[str, str]:
    """The letters beyond ASCII that have several forms. Made at the first search that needs it, in 20 ms."""
    found: dict[str, str] = {}
    for char in map(chr, range(0x80, _CASED_BELOW)):
        folded = _fold(char)
        found[folded] = found.get(folded, "") + char
    return {folded: chars for folded, chars in found.items() if len(chars) > 1}


def _fold(char: str) -> str:
    """One character beyond ASCII that stands for all forms of a letter: without those of several characters (ß, SS)."""
    folded = char.casefold()
    if len(folded) > 1:
        folded = char.lower()
    return char if len(folded) > 1 or folded.isascii() else folded


def _glob(char: str) -> str:
    """A character in a pattern of GLOB, in which the case counts."""
    same = forms(char)
    return f"[{same}]" if len(same) > 1 or _GLOB.match(char) else char


def _regex(char: str) -> str:
    r"""A character in a regular expression. There `\` before a character that is no letter or digit is this one."""
    same = forms(char)
    return f"[{same}]" if len(same) > 1 else char if char.isalnum() or not char.isascii() else f"\\{char}"
