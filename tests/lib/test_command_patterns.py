"""The pattern of a command, and that a search for it finds the command."""

from __future__ import annotations

import pytest

from webapp.lib.command_patterns import SHAPE_LIMIT, command_shape, words_of

SHAPES = [
    ("/opt/shop/bin/report.sh --day 17 /srv/out/17.csv", "report.sh --day N PATH", "report.sh --day"),
    ("python3 /srv/app/report.py --to=/a/b", "python3 report.py --to=PATH", "report.py --to="),
    ("send-invoice 20311", "send-invoice N", "send-invoice"),
    ("resize-photo products/871.jpg", "resize-photo PATH", "resize-photo"),
    ("cd /srv/x && ./run.sh 3", "cd PATH && run.sh N", "run.sh"),
    ("s3cmd put  batch20261124", "s3cmd put batchN", "s3cmd put batch"),
    ("TOKEN=9f8e7d6c5b4a /usr/bin/push", "TOKEN=ID push", "TOKEN="),
    ("echo one |  /usr/bin/wc -l", "echo one | wc -l", "echo one"),
    ("true", "true", "true"),
    ("", "", ""),
]


@pytest.mark.parametrize(("command", "shape", "words"), SHAPES)
def test_a_command_pattern_keeps_the_program_and_masks_what_varies(command: str, shape: str, words: str) -> None:
    assert command_shape(command) == shape
    assert words_of(shape) == words
    assert words in " ".join(command.split())


def test_a_pattern_is_short_for_a_command_of_any_length() -> None:
    shape = command_shape("print " + "word " * 20_000)
    assert len(shape) == SHAPE_LIMIT
    assert words_of(shape) in "print " + "word " * 20_000
