"""Commands with a shebang line: which interpreter runs them, errors, and that no file stays behind."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from tests.worker.conftest import Fleet, Queue
from worker.runner.scripts import Scripts, shebang_of

Start = Callable[..., Fleet]
FILE = "/scripts/1-1"


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("#!/bin/bash\necho", ["/bin/bash"]),
        ("#!/bin/bash", ["/bin/bash"]),
        ("#! \t/bin/bash -e -u \necho", ["/bin/bash", "-e -u"]),
        ("#!/usr/bin/env -S bash -e\necho", ["/usr/bin/env", "-S bash -e"]),
        ("#!/usr/bin/perl -w\r\nprint 1;\r\n", ["/usr/bin/perl", "-w"]),
        ("#!/bin/bash\r\n", ["/bin/bash"]),
        ("\n \t\n\r\n#!/bin/bash\necho", ["/bin/bash"]),
        (f"#!/{'x' * 5000} y\n", [f"/{'x' * 5000}", "y"]),  # longer than the kernel reads
        ("echo #!/bin/bash", None),
        ("echo\n#!/bin/bash", None),
        (" #!/bin/bash\n", None),
        ("# !/bin/bash\n", None),
        ("#!bash\n", None),
        ("#! an important note\n", None),
        ("#!\n/bin/bash", None),
        ("##!/bin/bash", None),
    ],
)
def test_only_a_first_line_with_an_interpreter_path_is_a_shebang_line(command: str, argv: Optional[list[str]]) -> None:
    shebang = shebang_of(command)
    assert (None if shebang is None else shebang.argv(FILE)) == (None if argv is None else [*argv, FILE])


def test_the_script_begins_with_its_shebang_line() -> None:
    shebang = shebang_of("\n\n#! /usr/bin/perl  -w \r\nprint 1;\n")
    assert shebang is not None
    assert shebang.script == "#!/usr/bin/perl -w\nprint 1;\n"


def test_a_script_is_private_with_any_umask(tmp_path: Path) -> None:
    scripts, before = Scripts(tmp_path / "scripts"), os.umask(0)
    try:
        file = Path(scripts.write("1-1", "#!/bin/sh\necho ü\n"))
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent, file.parent.parent)] == [0o700] * 3
    assert file.read_bytes() == "#!/bin/sh\necho ü\n".encode()
    scripts.close()
    assert list((tmp_path / "scripts").iterdir()) == []


def test_a_removed_folder_is_recreated(tmp_path: Path) -> None:
    scripts = Scripts(tmp_path / "scripts")
    first = Path(scripts.write("1-1", "#!/bin/sh"))
    first.unlink()
    first.parent.rmdir()
    assert Path(scripts.write("2-1", "#!/bin/sh")).exists()


def test_files_of_other_workers_stay(tmp_path: Path) -> None:
    running, dead = Scripts(tmp_path / "scripts"), Scripts(tmp_path / "scripts")
    used, left = (Path(one.write("1-1", "#!/bin/sh")) for one in (running, dead))
    os.close(dead._lock)  # as its end does
    Scripts(tmp_path / "scripts")
    assert (used.exists(), left.parent.exists()) == (True, False)


def test_an_interpreter_that_cannot_run_is_a_failure_that_names_it(queue: Queue, fleet: Start, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    fleet()
    for line, error in (
        ("#!/no/such/interpreter -x", "interpreter /no/such/interpreter does not exist"),
        ("#!/etc", "interpreter /etc is not a file"),
        (f"#!{plain}", f"the worker has no permission to run interpreter {plain}"),
        ("#!/usr/bin/env no-such-interpreter", "exit code 127 (command not found)"),
    ):
        job = queue.reaches(queue.enqueue(f"{line}\necho unreached", max_retries=0), "dead")
        assert (job.last_error or "").startswith(error)
        assert job.error_key  # so it is in a group of dead letters


def test_a_script_is_deleted_with_its_job_even_if_the_worker_is_killed(
    queue: Queue, fleet: Start, tmp_path: Path, pid_in: Callable[[Path], int], eventually: Callable[..., Any]
) -> None:
    fleet()
    scripts = queue.config.home / "scripts"
    job_id = queue.enqueue(f"#!/bin/sh\n[ $QUEUECTL_ATTEMPT = 2 ] || {{ echo $$ > {tmp_path}/pid; sleep 3600; }}")
    pid_in(tmp_path / "pid")
    [folder] = scripts.iterdir()
    os.kill(queue.workers()[0].pid, signal.SIGKILL)
    queue.reaches(job_id, "completed")
    assert eventually(lambda: not folder.exists())
    assert [list(own.iterdir()) for own in scripts.iterdir()] in ([], [[]])
