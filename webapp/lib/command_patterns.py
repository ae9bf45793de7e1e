"""The pattern of a command, for people: parts that differ between runs are masked, names of programs are kept.

Failure groups use the coarser `text.mask`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from webapp.lib.text import ID, shorten

SHAPE_LIMIT = 120  # characters of a pattern
COMMAND_PREFIX = 400  # characters of a command that are used

# A word with a path. Of a program's path the name is kept.
_PATH_WORD = re.compile(r"(?<![^\s'\"=(;&|])(?:[A-Za-z]:|[~.]{1,2}|[\w.@-]+)?(?:[/\\][^\s:'\"/\\]+)+[/\\]?")
_PROGRAM = re.compile(r"\.(?:py|sh|bash|rb|js|mjs|ts|pl|php|jar|ps1|bat|cmd|exe)$", re.IGNORECASE)
_BEGINS_COMMAND = re.compile(r"(?:^|[|&;(])\s*(?:\w+=\S*\s+)*$")
_NUMBER_IN_COMMAND = re.compile(r"(?<![A-Za-z])\d+|(?<=[A-Za-z])\d{2,}")  # python3 and s3cmd are names
_LEFT_OUT = re.compile(r"(?<![A-Z])(?:ID|PATH|N)(?![A-Z])|[…|&;:()'\"\\\\]")
_SPACE = re.compile(r"\s+")


@lru_cache(maxsize=4096)
def command_shape(command: str) -> str:
    """A command on one line, with ID, PATH and N for the parts that differ.

    '/opt/shop/bin/report.sh --day 17 /srv/out/17.csv' is 'report.sh --day N PATH'.
    """
    text = _PATH_WORD.sub(_path_word, command[:COMMAND_PREFIX])
    for pattern, name in ((ID, "ID"), (_NUMBER_IN_COMMAND, "N"), (_SPACE, " ")):
        text = pattern.sub(name, text)
    return shorten(text.strip(), SHAPE_LIMIT)


def _path_word(found: re.Match[str]) -> str:
    name = re.split(r"[/\\]", found.group().rstrip("/\\"))[-1]
    is_program = _PROGRAM.search(name) or _BEGINS_COMMAND.search(found.string[: found.start()])
    return name if is_program else "PATH"


def words_of(shape: str) -> str:
    """The longest part of a pattern that its commands contain literally, for a search."""
    runs: list[str] = []
    for piece in _LEFT_OUT.split(shape):
        runs.append("")
        for word in piece.split():
            if _PROGRAM.search(word):
                runs.append("")  # its folder may be missing in the pattern
            runs[-1] = f"{runs[-1]} {word}".strip()
    return max(runs, key=len, default="")
