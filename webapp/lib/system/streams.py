"""Standard output and error of this process: open, and able to write every character.

A terminal or a file may have an encoding without some characters (`list > file` on Windows). Then Python raises an
error in the middle of a table. Here such characters get substitutes.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Optional, Union

NAME = "queuectl"  # of the error handler, and of the codec for ASCII
_KEPT = ("ignore", "replace", "xmlcharrefreplace", "namereplace")  # chosen by PYTHONIOENCODING
_SUBSTITUTES = {"…": "...", "–": "-", "—": "-", "·": "-", "↵": "|", "→": "->", "‘": "'", "’": "'", "“": '"', "”": '"'}  # noqa: RUF001


def set_up() -> None:
    """Open the null device for each closed stream (`>&-`), so that no other file gets its number.

    Characters that stdout or stderr cannot encode are written with substitutes from now on.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open until exit
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            errors = stream.errors if stream.errors in _KEPT else NAME
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=NAME if ascii_only else None, errors=errors)


def _substitute(error: UnicodeError) -> tuple[Union[str, bytes], int]:
    r"""An error handler of `codecs`: similar characters for punctuation, `\u2705` for other characters."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    escaped = (one.encode("ascii", "backslashreplace").decode() for one in characters)
    return "".join(_SUBSTITUTES.get(one, text) for one, text in zip(characters, escaped)), error.end


def _find_codec(name: str) -> Optional[codecs.CodecInfo]:
    """ASCII by another name: click takes a stream of ASCII for a mistake and writes UTF-8 instead."""
    if name != NAME:
        return None
    base = codecs.lookup("ascii")
    coders = base.streamreader, base.streamwriter, base.incrementalencoder, base.incrementaldecoder
    return codecs.CodecInfo(base.encode, base.decode, *coders, NAME)


codecs.register_error(NAME, _substitute)
codecs.register(_find_codec)
