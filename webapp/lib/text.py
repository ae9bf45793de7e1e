r"""Text from commands and people: control characters, terminal escapes, masking, short forms.

Terminals and logs get control characters as escapes such as `\x1b`; pages get a visible character for each.
`console/display/ansi.py` turns coloured output into HTML; Jinja escapes HTML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Optional

_CONTROLS = "\x00-\x1f\x7f-\x9f"
_SURROGATES = "\ud800-\udfff"  # half of a pair, which cannot be encoded
# Marks that change the direction of text or have no width. Not the zero-width joiner, which some emoji need.
_MARKS = "\u061c\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
_LINE_END = re.compile("\r+\n|\r")
BYTE_ORDER_MARK = "\ufeff"
_CONTROL = re.compile(f"[{_CONTROLS}{_SURROGATES}]")
_MISLEADING = re.compile(f"[{_CONTROLS}{_SURROGATES}{_MARKS}]")
_CANNOT_BE_STORED = re.compile(f"[\0{_SURROGATES}]")
# What a terminal may interpret: colours, tabs, newlines, carriage returns.
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


def unix_lines(text: str) -> str:
    """The text with LF line ends, for CRLF and for a lone CR, and without a byte order mark at its start.

    The same as a browser's form does. A shell would read the CR as a part of a word.
    """
    text = text.removeprefix(BYTE_ORDER_MARK)
    return _LINE_END.sub("\n", text) if "\r" in text else text


def can_be_stored(text: str) -> bool:
    """Whether all databases can store the text: it has no NUL and no half of a surrogate pair."""
    return not _CANNOT_BE_STORED.search(text)


def storable(text: str) -> str:
    """The text without what databases cannot store. For a search, which then finds nothing by it."""
    return _CANNOT_BE_STORED.sub("", text)


def has_controls(text: str) -> bool:
    """Whether the text has a control character or half of a surrogate pair."""
    return bool(_CONTROL.search(text))


def escape_controls(text: str) -> str:
    r"""The text on one line, with `\x1b` for an escape, `\n` for a newline and `\u202e` for a bidi override."""
    return _MISLEADING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def escape_lines(text: str) -> str:
    """Like `escape_controls`, but keeps newlines."""
    return "\n".join(map(escape_controls, text.split("\n")))


def escape_for_terminal(text: str) -> str:
    """Output with colours. Links, titles and other terminal commands become escapes."""
    return "".join(part if place % 2 else escape_controls(part) for place, part in enumerate(_HARMLESS.split(text)))


def show_controls(text: object) -> str:
    """The text for a page: control characters as pictures, marks as numbers. Keeps tabs and newlines."""
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


def plain_text(output: bytes) -> str:
    """Output without terminal escapes and unprintable characters. Keeps newlines."""
    text = ESCAPE.sub("", output.decode(errors="replace"))
    return "".join(char for char in text if char == "\n" or char.isprintable())


def plain_tail(output: bytes, limit: int) -> str:
    """The last `limit` bytes as plain text, in whole lines if possible."""
    kept = output[-limit:]
    if len(output) > limit and b"\n" in kept[:-1]:
        kept = kept[kept.index(b"\n") + 1 :]
    return plain_text(kept.expandtabs(1))


def mask(text: str) -> str:
    """'Cannot open PATH: line N': equal for texts that differ only in numbers, paths, ids and white space."""
    for pattern, name in _MASKS:
        text = pattern.sub(name, text)
    return text.strip()


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters; a longer text ends with '…'."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def one_line(text: str, limit: Optional[int] = 300) -> str:
    """Several lines as one, joined by '↵', without indentation, blank lines and line continuations.

    At most `limit` characters; None: no limit.
    """
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    lines[:-1] = [line.rstrip("\\").rstrip() for line in lines[:-1]]
    joined = " ↵ ".join(lines)
    return shorten(joined, limit) if limit else joined


def capitalize(message: str) -> str:
    """Capitalize a message that the command line shows after a field's name or after 'Error:'."""
    return message[:1].upper() + message[1:]


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
