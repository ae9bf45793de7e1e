"""Reads `.env` files by the rules of python-dotenv, and changes one value in them. Standard library only.

A line assigns one value: `NAME=value`. `export` may stand before the name, and spaces around the `=`. A comment starts
with a `#` at the start of the line or after a space. A value in quotes may contain spaces, `#` and line breaks; a
backslash escapes quotes and backslashes, and `\\n` in double quotes is a line break. `${NAME}` and `${NAME:-default}`
are replaced by an earlier value of the file or by the environment's. The last value of a name counts.

Other lines are skipped. A value with an unclosed quote is kept as it is, so the check of the setting can refuse it.
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False  # like `typing.TYPE_CHECKING`, without its slow import
if TYPE_CHECKING:
    from collections.abc import Mapping

_ASSIGNMENT = re.compile(
    r"""^[^\S\n]* (?:export[^\S\n]+)? '?(?P<name>[^=\#\s']+)'? [^\S\n]*=[^\S\n]*
        (?: '(?P<single>(?:\\.|[^'\\])*)' | "(?P<double>(?:\\.|[^"\\])*)" | (?P<plain>[^\n]*?) )
        [^\S\n]* (?:(?<=\s)\#[^\n]*)? $""",
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_REFERENCE = re.compile(r"\$\{([^}:]*)(?::-([^}]*))?\}")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def load(path: str) -> dict[str, str]:
    """The values of a file; none if it does not exist. Raises OSError if it cannot be read."""
    return parse(_read(path))


def parse(text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for found in _ASSIGNMENT.finditer(text):
        values[found["name"]] = _resolve(_value(found), {**os.environ, **values})
    return values


def assign(path: str, name: str, value: str, owner: str) -> None:
    """Set one value and keep the rest of the file. Afterwards only its owner can read it.

    If root does that, a new file belongs to the owner of the file or folder `owner`; a file that exists keeps its own.
    """
    import tempfile
    from pathlib import Path

    from webapp.lib.system.private_files import give

    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    line = f"{name}='{escaped}'"
    text = _read(path)
    if name in parse(text):
        text = _ASSIGNMENT.sub(lambda found: line if found["name"] == name else found[0], text)
    else:
        text += ("" if text.endswith("\n") or not text else "\n") + line + "\n"
    folder = os.path.dirname(os.path.abspath(path))
    with tempfile.NamedTemporaryFile("wb", prefix=".env-", dir=folder, delete=False) as new:
        try:
            new.write(text.encode("utf-8", "surrogateescape"))
            give(new.fileno(), Path(path if os.path.exists(path) else owner))
            new.close()
            os.replace(new.name, path)
        except BaseException:
            os.unlink(new.name)
            raise


def _read(path: str) -> str:
    if not os.path.isfile(path):
        return ""
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        return file.read()


def _value(found: re.Match[str]) -> str:
    if found["single"] is not None:
        return re.sub(r"\\([\\'])", r"\1", found["single"])
    if found["double"] is not None:
        return re.sub(r"""\\([\\'"abfnrtv])""", lambda one: _ESCAPES.get(one[1], one[1]), found["double"])
    return str(found["plain"])


def _resolve(value: str, known: Mapping[str, str]) -> str:
    return _REFERENCE.sub(lambda one: known.get(one[1], one[2] or ""), value)
