"""What a command wrote as plain text, and what makes two texts alike: numbers, paths and ids do not count."""

from __future__ import annotations

import re

# Colours, titles and links: left out whole, or their letters would stay behind when the control characters go.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~]?)")

AN_ID = re.compile(
    r"0x[0-9a-f]+|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b(?=[a-f]*\d)[0-9a-f]{8,}\b", re.IGNORECASE
)
_MASKS = (
    (AN_ID, "ID"),
    (re.compile(r"(?:[A-Za-z]:)?(?:[/\\][^\s:'\"/\\]+)+[/\\]?"), "PATH"),
    (re.compile(r"\d+"), "N"),
    (re.compile(r"\s+"), " "),
)


def without_escapes(output: bytes) -> str:
    """The text of what a command wrote, without what steers a terminal; its other control characters stay."""
    return _ESCAPE.sub("", output.decode(errors="replace"))


def last_lines(output: bytes, limit: int) -> str:
    """The last `limit` bytes as plain text: whole lines where there are any, nothing unprintable."""
    kept = output[-limit:]
    if len(output) > limit and b"\n" in kept[:-1]:
        kept = kept[kept.index(b"\n") + 1 :]
    return "".join(char for char in without_escapes(kept).expandtabs(1) if char == "\n" or char.isprintable())


def mask(text: str) -> str:
    """'Cannot open PATH: line N': the same for texts that differ in numbers, paths, ids and space alone."""
    for pattern, name in _MASKS:
        text = pattern.sub(name, text)
    return text.strip()
