"""The files of a recording: private, bounded, shared by several writers, and whole on a full disk."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import resource
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gateway.recording import files as files_module
from gateway.recording.files import RecordFiles
from gateway.recording.pseudonyms import Key
from tests.recording.records import GIVEN_UP, OTHER_KEY, RUN, lines_of


def line(number: int, size: int = 100, run: str = RUN) -> bytes:
    text = f'{{"v":1,"run":"{run}","n":{number},"x":"'
    return (text + "x" * (size - len(text) - 3) + '"}\n').encode()


def numbers_in(*paths: Path) -> list[int]:
    return [json.loads(line)["n"] for line in lines_of(*paths)]


def test_files_are_private_whatever_the_umask_and_their_mode_was(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    path.touch(0o644)
    before = os.umask(0)
    try:
        files = RecordFiles(str(path), 1000, 3, RUN)
        for number in range(15):
            files.append([line(number)])
    finally:
        os.umask(before)
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {
        "hooks.jsonl": 0o600,
        "hooks.jsonl.1": 0o600,
    }


def test_no_file_grows_past_its_size_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    files = RecordFiles(str(path), 1001, 3, RUN)
    deleted = 0
    for number in range(0, 100, 4):
        written, error, gone = files.append([line(n) for n in range(number, number + 4)])
        assert (written, error) == (4, None)
        deleted += gone
    newest = path.with_suffix(f".jsonl.{last_number(tmp_path)}")
    assert len(list(tmp_path.iterdir())) == 3
    assert all(file.stat().st_size <= 1001 for file in tmp_path.iterdir())
    kept = numbers_in(path.with_suffix(f".jsonl.{last_number(tmp_path) - 1}"), newest, path)
    assert kept == list(range(100 - len(kept), 100))
    assert len(kept) >= 20
    assert deleted == 100 - len(kept)


def last_number(directory: Path) -> int:
    return max(int(file.suffix[1:]) for file in directory.iterdir() if file.suffix != ".jsonl")


def test_each_file_is_renamed_once_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each made room for the next, two workers with hundreds of files lost a third of the hooks under load."""
    renamed: list[str] = []

    def rename(old: str, new: str, rename: Any = os.rename) -> None:
        renamed.append(new)
        rename(old, new)

    monkeypatch.setattr(os, "rename", rename)
    files = RecordFiles(str(tmp_path / "hooks.jsonl"), 501, 1000, RUN)
    for number in range(0, 400, 4):
        files.append([line(n) for n in range(number, number + 4)])
    assert len(renamed) == len(set(renamed)) == len(list(tmp_path.iterdir())) - 1
    assert sorted(numbers_in(*tmp_path.iterdir())) == list(range(400))


def test_the_numbers_of_files_begin_again_once_there_is_none_left(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    path.with_suffix(".jsonl.9999998").write_bytes(line(1))
    path.with_suffix(".jsonl.20261130").write_bytes(line(0))  # another's: a date
    RecordFiles(str(path), 501, 30, RUN).append([line(number) for number in range(2, 14)])
    assert sorted(numbers_in(*tmp_path.iterdir())) == list(range(14))
    assert sorted(file.name for file in tmp_path.iterdir() if file != path) == [
        f"hooks.jsonl.{number}" for number in (1, 2, 20261130, 3)
    ]
    RecordFiles(str(path), 501, 2, RUN).append([line(number) for number in range(14, 18)])
    assert sorted(file.name for file in tmp_path.iterdir() if file != path) == ["hooks.jsonl.20261130", "hooks.jsonl.4"]


def test_lines_of_a_huge_file_that_goes_are_counted_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "_COUNTED", 1000)
    monkeypatch.setattr(files_module, "_PIECE", 500)
    files = RecordFiles(str(tmp_path / "hooks.jsonl"), 10_001, 1, RUN)
    assert files.append([line(number) for number in range(101)]).deleted == 100


def test_with_one_file_the_recording_begins_anew_when_it_is_full(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    files = RecordFiles(str(path), 501, 1, RUN)
    files.append([line(number) for number in range(12)])
    assert [file.name for file in tmp_path.iterdir()] == ["hooks.jsonl"]
    assert numbers_in(path) == [10, 11]


def test_a_line_larger_than_a_file_is_given_up_alone(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    files = RecordFiles(str(path), 1000, 2, RUN)
    assert files.append([line(1), line(2, 5000), line(3)]).written == 2
    assert numbers_in(tmp_path / "hooks.jsonl.1", path) == [1, 3] or numbers_in(path) == [1, 3]


def test_a_restart_begins_a_new_file_for_its_pseudonyms_are_others(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    RecordFiles(str(path), 1000, 3, OTHER_KEY.run).append([line(1, run=OTHER_KEY.run)])
    one, other = (RecordFiles(str(path), 1000, 3, RUN) for _ in range(2))
    one.append([line(2)])
    other.append([line(3)])
    assert numbers_in(tmp_path / "hooks.jsonl.1") == [1]
    assert numbers_in(path) == [2, 3]


def test_many_restarts_lose_nothing_that_there_is_room_for(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    for number in range(20):
        run = Key(bytes([number]) * 32).run
        RecordFiles(str(path), 10_000, 2, run).append([line(number, run=run)])
    assert len(list(tmp_path.iterdir())) == 20
    assert sorted(numbers_in(*tmp_path.iterdir())) == list(range(20))


def test_two_gateways_on_one_path_do_not_turn_it_over_without_end(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    one = RecordFiles(str(path), 100_000, 3, RUN)
    other = RecordFiles(str(path), 100_000, 3, OTHER_KEY.run)
    for number in range(50):
        one.append([line(number)])
        other.append([line(number, run=OTHER_KEY.run)])
    assert len(list(tmp_path.iterdir())) <= 3
    assert sum(Counter(numbers_in(*tmp_path.iterdir())).values()) == 100


def test_a_torn_line_of_a_writer_that_died_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    path.write_bytes(line(1) + line(2)[:50])
    RecordFiles(str(path), 10_000, 3, RUN).append([line(3)])
    assert lines_of(path)[2] == line(3)


def test_a_file_that_is_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    files = RecordFiles(str(path), 10_000, 3, RUN)
    files.append([line(1)])
    path.rename(tmp_path / "moved")
    files.append([line(2)])
    assert numbers_in(path) == [2]


@pytest.mark.parametrize("kind", ["directory", "symlink", "pipe", "device", "missing"])
def test_what_is_no_file_of_ours_is_not_written_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "hooks.jsonl"
    if kind == "directory":
        path.mkdir()
    elif kind == "symlink":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/full")
    else:
        path = tmp_path / "missing" / "hooks.jsonl"
    mode = path.lstat().st_mode if path.exists() else None
    done = RecordFiles(str(path), 1000, 3, RUN).append([line(1)])
    assert done.written == 0
    assert done.error is not None
    assert not (tmp_path / "elsewhere").exists()
    assert (path.lstat().st_mode if path.exists() else None) == mode


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("content", [b"server: {listen: 127.0.0.1:8080}\n", b'{"a":1}\n', b"\0" * 100])
def test_adversarial_a_file_that_is_no_recording_is_left_as_it_is(tmp_path: Path, content: bytes, files: int) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_bytes(content)
    path.chmod(0o644)
    done = RecordFiles(str(path), 1000, files, RUN).append([line(1)])
    assert done.written == 0
    assert "something else" in str(done.error)
    assert [(file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) for file in tmp_path.iterdir()] == [(content, 0o644)]


def test_a_file_of_which_only_a_beginning_was_written_is_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    path.write_bytes(b'{"v')
    assert RecordFiles(str(path), 1000, 3, RUN).append([line(1)]) == (1, None, 0)


def test_a_file_that_cannot_be_put_aside_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(old: str, new: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = tmp_path / "hooks.jsonl"
    files = RecordFiles(str(path), 1000, 2, RUN)
    files.append([line(n) for n in range(9)])
    with monkeypatch.context() as denied:
        denied.setattr(os, "rename", rename)
        full = files.append([line(9)])
    assert full.written == 0
    assert "cannot be put aside" in str(full.error)
    assert files.append([line(10)]) == (1, None, 0)


def test_a_symbolic_link_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    path.symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in str(RecordFiles(str(path), 1000, 3, RUN).append([line(1)]).error)


def test_adversarial_a_file_that_another_process_keeps_locked_is_given_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "_PATIENCE", 0.05)
    path = tmp_path / "hooks.jsonl"
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        files = RecordFiles(str(path), 1000, 3, RUN)
        assert files.append([line(1)]).error is not None
    assert files.append([line(2)]) == (1, None, 0)
    assert numbers_in(path) == [2]


def _write_many(path: str, first: int, count: int, begin: Any) -> None:
    files = RecordFiles(path, 20_000, 200, RUN)
    begin.wait(GIVEN_UP)
    for number in range(first, first + count, 5):
        assert files.append([line(n, 100 + n % 400) for n in range(number, number + 5)]) == (5, None, 0)


def test_several_processes_share_the_files_without_a_line_torn_or_lost(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    context = multiprocessing.get_context("spawn")
    begin = context.Barrier(3)
    writers = [context.Process(target=_write_many, args=(str(path), n * 1000, 1000, begin)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(GIVEN_UP * 2)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    paths = sorted(tmp_path.iterdir())
    assert len(paths) > 10
    assert all(file.stat().st_size <= 20_000 for file in paths)
    assert sorted(numbers_in(*paths)) == list(range(3000))


def _write_on_a_full_disk(path: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1050, resource.RLIM_INFINITY))
    files = RecordFiles(path, 10_000, 3, RUN)
    full = files.append([line(n) for n in range(15)])
    assert full.written == 0
    assert full.error is not None
    for number in range(12):
        files.append([line(number)])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert files.append([line(99)]) == (1, None, 0)


def test_a_full_disk_leaves_whole_lines_and_is_written_again_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "hooks.jsonl"
    writer = multiprocessing.get_context("spawn").Process(target=_write_on_a_full_disk, args=(str(path),))
    writer.start()
    writer.join(GIVEN_UP)
    assert writer.exitcode == 0
    assert numbers_in(path) == [*range(10), 99]
