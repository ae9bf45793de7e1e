"""Files for the owner of a folder, and the reason why another user cannot open them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.users import NO_MANAGER, as_user, folder_of, needs_root, uid_of
from webapp.config import CHECKOUT
from webapp.lib.system import private_files
from webapp.lib.system.private_files import create_private, denial, make_folder, open_private


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_of(NO_MANAGER) as found:
        yield found


def reason(*paths: Path) -> str:
    return as_user(NO_MANAGER, lambda: str(denial(paths)))


def test_a_private_file_is_created_once_and_then_opened(tmp_path: Path) -> None:
    file = tmp_path / "queue.lock"
    first = open_private(file, os.O_RDWR)
    os.write(first, b"x")
    second = open_private(file, os.O_RDWR)
    assert (os.read(second, 9), file.stat().st_mode & 0o777) == (b"x", 0o600)
    os.close(first)
    os.close(second)
    with pytest.raises(FileExistsError):
        create_private(file)


@needs_root
def test_a_file_created_by_root_belongs_to_the_owner_of_the_folder(folder: Path) -> None:
    os.close(open_private(folder / "queue.lock", os.O_RDWR))
    make_folder(folder / "homes" / "queue")
    made = [folder / "queue.lock", folder / "homes", folder / "homes" / "queue"]
    assert {path.stat().st_uid for path in made} == {uid_of(NO_MANAGER)}
    assert [path.stat().st_mode & 0o777 for path in made][::2] == [0o600, 0o700]


@needs_root
def test_root_changes_no_owner_through_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shadow").touch()
    (folder / "queue.lock").symlink_to(tmp_path / "shadow")
    (folder / "queue.use").symlink_to(tmp_path / "missing")
    os.close(open_private(folder / "queue.lock", os.O_RDWR))
    assert (tmp_path / "shadow").stat().st_uid == 0
    with pytest.raises(OSError, match=r"queue\.use"):
        open_private(folder / "queue.use", os.O_RDWR)
    assert not (tmp_path / "missing").exists()


@needs_root
def test_files_of_another_user_are_reported_with_owner_mode_and_remedy(folder: Path) -> None:
    files = [folder / "queue.db", folder / "queue.lock"]
    for file in files:
        file.touch(0o600)
    assert reason(folder, *files) == (
        f"{files[0]} belongs to root (mode 0600), and this process runs as {NO_MANAGER}. "
        f"Run as root: `chown {NO_MANAGER}: {files[0]} {files[1]}`"
    )
    os.chown(files[0], uid_of(NO_MANAGER), 0)
    assert f"chown {NO_MANAGER}: {files[1]}`" in reason(*files)


@needs_root
@pytest.mark.parametrize(
    ("owner", "mode", "remedy"),
    [(NO_MANAGER, 0o500, "Run `chmod 700 {}`"), ("daemon", 0o700, "Run this command as daemon, or use another folder")],
)
def test_an_unusable_folder_is_reported_with_its_owner(folder: Path, owner: str, mode: int, remedy: str) -> None:
    (folder / "queue.db").touch()
    os.chown(folder, uid_of(owner), 0)
    folder.chmod(mode)
    expected = f"{folder} belongs to {owner} (mode {mode:04o}), and this process runs as {NO_MANAGER}. "
    assert reason(folder, folder / "queue.db") == expected + remedy.format(folder)
    assert reason(folder / "queue.new") == expected + remedy.format(folder)


@needs_root
def test_an_own_file_with_another_mode_needs_chmod(folder: Path) -> None:
    file = folder / "queue.db"
    file.touch()
    os.chown(file, uid_of(NO_MANAGER), 0)
    file.chmod(0o400)
    assert reason(file).endswith(f"Run `chmod 600 {file}`")


@needs_root
def test_a_usable_file_has_no_error(folder: Path) -> None:
    (folder / "queue.db").touch()
    os.chown(folder / "queue.db", uid_of(NO_MANAGER), 0)
    assert reason(folder, folder / "queue.db", folder / "queue.lock") == "None"
    assert denial([folder, Path("/proc/version")]) is None  # root may do everything


@needs_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_root_in_a_container_without_capabilities_gets_the_reason_too(folder: Path) -> None:
    imports = "from pathlib import Path; from webapp.lib.system.private_files import denial"
    script = f"{imports}; print(denial([Path('{folder}')]))"
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT)
    assert f"{folder} belongs to {NO_MANAGER} (mode 0700), and this process runs as root. " in done.stdout, done.stderr


def test_a_user_without_a_name_is_shown_as_a_number() -> None:
    assert private_files._name(3_999_999) == "3999999"
