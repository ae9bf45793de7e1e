r"""Text from commands and people: control characters, terminal escapes, texts that are alike, short forms.

A terminal or a log gets control characters as escapes such as `\x1b`, a page gets something to see for each. Output
with colours becomes HTML in `console/ansi.py`; HTML itself is escaped by Jinja.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Optional

_CONTROLS = "\x00-\x1f\x7f-\x9f"
_SURROGATES = "\ud800-\udfff"  # half of a pair: no encoding carries it
# Marks that turn the direction of a text or take no room in it. Not the zero-width joiner, which holds an emoji
# together.
_MARKS = "\u061c\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
_CONTROL = re.compile(f"[{_CONTROLS}{_SURROGATES}]")
_MISLEADING = re.compile(f"[{_CONTROLS}{_SURROGATES}{_MARKS}]")
_CANNOT_BE_STORED = re.compile(f"[\0{_SURROGATES}]")
# What a terminal may obey: colours, a tab, the end and the beginning of a line.
_HARMLESS = re.compile("(\x1b\\[[0-9;:]*m|[\t\n\r])")
# In this order: CSI sequences, strings (OSC, DCS, SOS, PM, APC) up to their end, other escapes.
ESCAPE = re.compile(
    "(?:\x1b\\[|\x9b)(?P<csi>[0-?]*)[ -/]*(?P<final>[@-~]?)"
    "|(?:\x1b[\\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c|(?=\x1b)|\\Z)"
    "|\x1b[ -/]*[0-~]?"
)

ID = re.compile(
    r"0x[0-9a-f]+|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b(?=[a-f]*\d)[0-9a-f]{8,}\b", re.IGNORECASE
)
_MASKS = (
    (ID, "ID"),
    (re.compile(r"(?:[A-Za-z]:)?(?:[/\\][^\s:'\"/\\]+)+[/\\]?"), "PATH"),
    (re.compile(r"\d+"), "N"),
    (re.compile(r"\s+"), " "),
)


# --- control characters ----------------------------------------------------------------------------------------------


def can_be_stored(text: str) -> bool:
    """Whether every database takes the text: it has no NUL and no half of a surrogate pair."""
    return not _CANNOT_BE_STORED.search(text)


def has_controls(text: str) -> bool:
    """Whether the text has a control character, or half of a surrogate pair."""
    return bool(_CONTROL.search(text))


def escape_controls(text: str) -> str:
    r"""The text on one line, with `\x1b` for an escape, `\n` for a newline and `\u202e` for a bidi override."""
    return _MISLEADING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def escape_lines(text: str) -> str:
    """The same, but newlines stay."""
    return "\n".join(map(escape_controls, text.split("\n")))


def escape_for_terminal(text: str) -> str:
    """Output with its colours. Links, titles and whatever else a terminal would obey become escapes."""
    return "".join(part if place % 2 else escape_controls(part) for place, part in enumerate(_HARMLESS.split(text)))


def show_controls(text: object) -> str:
    """The text for a page: a control character as its picture, a mark as its number. Tabs and newlines stay."""
    return _MISLEADING.sub(_picture, str(text))


def _picture(match: re.Match[str]) -> str:
    char = match[0]
    code = ord(char)
    if char in "\t\n":
        return char
    if code == 0:
        return "\ufffd"
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"\u2039U+{code:04X}\u203a"


# --- output of commands ----------------------------------------------------------------------------------------------


def plain_text(output: bytes) -> str:
    """What a command wrote, without terminal escapes and unprintable characters. Newlines stay."""
    text = ESCAPE.sub("", output.decode(errors="replace"))
    return "".join(char for char in text if char == "\n" or char.isprintable())


def plain_tail(output: bytes, limit: int) -> str:
    """The last `limit` bytes as plain text: whole lines where there are any."""
    kept = output[-limit:]
    if len(output) > limit and b"\n" in kept[:-1]:
        kept = kept[kept.index(b"\n") + 1 :]
    return plain_text(kept.expandtabs(1))


def mask(text: str) -> str:
    """'Cannot open PATH: line N': the same for texts that differ in numbers, paths, ids and space only."""
    for pattern, name in _MASKS:
        text = pattern.sub(name, text)
    return text.strip()


# --- short forms -----------------------------------------------------------------------------------------------------


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters; a longer text ends with '…'."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def one_line(text: str, limit: Optional[int] = 300) -> str:
    """A text of several lines as one, '↵' between them; without indentation, blank lines and line continuations.

    At most `limit` characters; None: all of it.
    """
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    lines[:-1] = [line.rstrip("\\").rstrip() for line in lines[:-1]]
    joined = " ↵ ".join(lines)
    return shorten(joined, limit) if limit else joined


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'"""
    return " and ".join([", ".join(names[:-1]), *names[-1:]] if len(names) > 1 else names)


def plural(number: int, one: str, many: Optional[str] = None) -> str:
    """'1 job', '2,413 jobs'"""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(number: Optional[float]) -> str:
    """Bytes as '512 B', '12.3 KiB', '1.5 MiB'; a dash for None."""
    if number is None:
        return "\N{EN DASH}"
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
