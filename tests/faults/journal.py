"""A journal of writes to the database's files, and the files that a power cut at any point of it leaves."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

_HEAD = struct.Struct("<IIQQQ32s")
_MAGIC = 0x51554555
WRITE, TRUNCATE, SYNC, UNLINK = 1, 2, 3, 4
_SECTOR = 512  # bytes that a disk writes completely or not at all


@dataclass(frozen=True)
class Record:
    """`place` is its start in the journal. `seen` (of a sync) is what came before it began."""

    place: int
    kind: int
    name: str
    offset: int
    data: bytes
    seen: int


def read(path: Path) -> list[Record]:
    return list(_records(path.read_bytes()))


def _records(text: bytes) -> Iterator[Record]:
    place = 0
    while place + _HEAD.size <= len(text):
        magic, kind, offset, length, seen, name = _HEAD.unpack_from(text, place)
        assert magic == _MAGIC, f"the journal is broken at {place}"
        start = place + _HEAD.size
        data = text[start : start + length] if kind == WRITE else b""
        yield Record(place, kind, name.rstrip(b"\0").decode(), offset, data, seen)
        place = start + len(data)


def last_sync(path: Path) -> int:
    """The place of the last sync; -1 before the first."""
    return max((record.place for record in read(path) if record.kind == SYNC), default=-1)


def cut(
    records: list[Record],
    place: int,
    luck: random.Random,
    *,
    syncs: bool = True,
    survival: Optional[float] = None,
) -> dict[str, bytes]:
    """The files after a power cut at this place of the journal.

    Synced data survives. Each other sector survives or not, in any order; `survival` is their share, random by
    default. `syncs` False simulates a database that never syncs (`synchronous=OFF`).
    """
    past = [record for record in records if record.place < place]
    covered: dict[str, int] = {}
    for record in past:
        if record.kind == SYNC and syncs:
            covered[record.name] = max(covered.get(record.name, 0), record.seen)
    if survival is None:
        survival = luck.choice((0.0, 0.5, 0.95))
    files: dict[str, bytearray] = {}
    for record in past:
        safe = record.place < covered.get(record.name, 0)
        if record.kind == UNLINK:
            files.pop(record.name, None)
        elif record.kind == TRUNCATE and (safe or luck.random() < survival):
            file = files.setdefault(record.name, bytearray())
            file[record.offset :] = bytes(max(0, record.offset - len(file)))
        elif record.kind == WRITE:
            _write(files.setdefault(record.name, bytearray()), record, 1.0 if safe else survival, luck)
    return {name: bytes(file) for name, file in files.items()}


def _write(file: bytearray, record: Record, survival: float, luck: random.Random) -> None:
    for start in range(0, len(record.data), _SECTOR):
        if survival < 1.0 and luck.random() >= survival:
            continue
        piece, at = record.data[start : start + _SECTOR], record.offset + start
        if len(file) < at:
            file.extend(bytes(at - len(file)))
        file[at : at + len(piece)] = piece
