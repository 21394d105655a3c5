"""Files that appear whole or not at all: what kills leave, who may write, what full disks say."""

from __future__ import annotations

import os
import resource
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from file_helpers import FORKS, names_in, own, own_file, run, write_half, write_often

from cgn_augment.errors import CheckpointError, FileError, UsageError
from cgn_augment.files import (
    append,
    download,
    leftovers,
    owning,
    owning_file,
    remove_leftovers,
    replacing,
    temporary_file,
)
from cgn_augment.generators.tensors import save_pickle, save_tensors

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

# Leftovers


def test_what_a_killed_process_left_goes_when_the_next_one_writes_there(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    foreign = ["._checkpoint.pt", ".checkpoint.personal.pt", ".checkpoint.tmp-mine.pt", "a.tmp-0"]
    for name in foreign:
        (tmp_path / name).write_text("mine")
    for _ in range(2):
        assert run(write_half, path) == -signal.SIGKILL
    assert len(leftovers(tmp_path)) == 1  # the second one removed that of the first
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert names_in(tmp_path) == sorted([*foreign, "checkpoint.pt"])


def test_what_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
        remove_leftovers(tmp_path)
        assert leftovers(tmp_path) == [temporary]
    assert names_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("name", ["a" * 251 + ".png", "é" * 125 + ".png", "line\nbreak.png"])
def test_whatever_name_a_file_may_have_it_is_written_and_swept(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert run(write_half, path) == -signal.SIGKILL
    assert len(leftovers(tmp_path)) == 1
    remove_leftovers(tmp_path)
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert names_in(tmp_path) == [name]


def test_processes_that_write_and_sweep_at_once_lose_nothing(tmp_path: Path) -> None:
    processes = [FORKS.Process(target=write_often, args=(tmp_path / f"{i}.txt",)) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert names_in(tmp_path) == ["0.txt", "1.txt", "2.txt"]


def test_a_pipe_or_a_link_under_the_name_of_a_leftover_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    os.mkfifo(tmp_path / ".a.tmp-00000000")
    (tmp_path / ".a.tmp-00000001").symlink_to(tmp_path / "precious")
    before = names_in(tmp_path)
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == before


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_permissions_that_the_users_umask_leaves(
    umask: int, mode: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode
    with temporary_file(tmp_path, "spool", mode=0o600) as spool:
        assert stat.S_IMODE(spool.stat().st_mode) == 0o600


def test_a_folder_that_is_missing_is_named_and_not_the_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "a.txt"
    with pytest.raises(FileNotFoundError) as told, replacing(path):
        pass
    assert told.value.filename == str(path)


# Full disks


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file can grow beyond 4096 bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_text(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("x" * 10**5)


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.txt": write_text,
    "a.jsonl": lambda path: append(path, "x" * 10**5),
    "a.pt": lambda path: save_pickle({"a": torch.zeros(10**5)}, path),
    "a.safetensors": lambda path: save_tensors({"a": torch.zeros(10**5)}, path, {}, {}, "it"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_of_and_keeps_the_old_file(
    name: str, little_room: None, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text("old")
    with pytest.raises(FileError, match=r"cannot be written \(File too large\): make room") as told:
        WRITERS[name](path)
    assert str(path) in str(told.value)
    assert len(str(told.value).splitlines()) == 1
    assert path.read_text() == "old"
    assert names_in(tmp_path) == [name]


# Folders of one process


def test_a_folder_is_owned_by_one_process_and_free_when_that_has_ended(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    assert run(own, folder, True) == -signal.SIGKILL
    with owning(folder), owning(folder):
        pass
    process = FORKS.Process(target=own, args=(tmp_path / "other", False))
    process.start()
    while not (tmp_path / "other" / "owned").exists():
        time.sleep(0.01)
    with (
        pytest.raises(UsageError, match=r"another process is writing to .*other: wait"),
        owning(tmp_path / "other"),
    ):
        pass
    process.kill()
    process.join()
    with owning(tmp_path / "other"):
        assert run(own, tmp_path / "other", True) == 1


def test_a_file_of_a_shared_folder_is_owned_by_one_process_and_free_when_that_is_killed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs" / "seed0.pt"
    process = FORKS.Process(target=own_file, args=(path,))
    process.start()
    while not path.exists():
        time.sleep(0.01)
    with (
        pytest.raises(UsageError, match=r"another process is writing .*seed0\.pt"),
        owning_file(path),
    ):
        pass
    with owning_file(path.with_name("seed1.pt")):
        pass
    process.kill()
    process.join()
    with owning_file(path), owning_file(path):
        assert run(own_file, path) == 1
    assert names_in(path.parent) == ["seed0.pt"]


def test_a_server_that_announces_no_number_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = MagicMock()
    answer.__enter__.return_value.headers = {"Content-Length": "many"}
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda *_, **__: answer)
    with pytest.raises(CheckpointError, match=r"weights could not be downloaded .*'many'"):
        download("http://localhost/a.bin", "weights", tmp_path / "a.bin", progress=False)
    assert names_in(tmp_path) == []
