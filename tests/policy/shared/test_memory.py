"""Who lives, whose entries are whose, and locks that nobody waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from gateway.policy.shared.memory import BREAKER_NAMES, LIMIT_NAMES, SILENCE_LIMIT, Memory, create_memory
from gateway.policy.shared.names import leave_entry, take_entry
from tests.policy.shared.workers import workers

_HOLDER = """
import sys, time
from gateway.policy.shared import Memory
memory = Memory(int(sys.argv[1]), 2, 1)
assert memory.lock(77)
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_is_not_waited_for_while_its_owner_is_stopped_and_ends_with_it() -> None:
    fd = create_memory(2)
    memory = Memory(fd, 2, 0)
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(fd)], stdout=subprocess.PIPE, pass_fds=(fd,))
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGSTOP)
        began = time.process_time()
        assert not memory.lock(77)
        assert time.process_time() - began < 0.5
        assert memory.lock(78), "another byte is another lock"
        memory.unlock(78)
    finally:
        holder.kill()
        holder.communicate()
    assert memory.lock(77)
    memory.unlock(77)
    os.close(fd)


def test_a_worker_is_alive_while_it_says_so_and_its_successor_is_another() -> None:
    with workers(2) as running:
        one, other = running.memories
        assert one.is_alive(other.owner)
        running.stopped.add(1)
        running.advance(SILENCE_LIMIT * 0.9)
        assert one.is_alive(other.owner)
        running.advance(SILENCE_LIMIT * 0.2)
        assert not one.is_alive(other.owner)
        running.stopped.clear()
        running.beat()
        assert one.is_alive(other.owner)
        successor = running.replace(1)
        assert one.is_alive(successor.owner)
        assert not one.is_alive(other.owner)
        assert not one.is_alive(0)
        assert len({one.owner, other.owner, successor.owner}) == 3


def test_a_name_is_one_entry_for_all_until_nobody_uses_it() -> None:
    with workers(2) as running:
        one, other = running.memories
        for names in (LIMIT_NAMES, BREAKER_NAMES):
            entries = {name: take_entry(one, names, name) for name in map(str, range(500))}
            assert None not in entries.values()
            assert len(set(entries.values())) == 500
            assert {name: take_entry(other, names, name) for name in entries} == entries
            at = names.entries + (entries["7"] or 0) * names.words + 1
            one.words[at] = 99
            leave_entry(one, names, entries["7"] or 0)
            assert take_entry(one, names, "7") == entries["7"]
            assert one.words[at] == 99, "the other worker had it meanwhile"
            leave_entry(one, names, entries["7"] or 0)
            running.replace(1)
            assert take_entry(one, names, "7") == entries["7"]
            assert one.words[at] == 0
            other = running.memories[1]


def test_names_that_nobody_uses_any_more_make_room() -> None:
    with workers(1) as running:
        (one,) = running.memories
        for round_ in range(8):
            entries = [take_entry(one, BREAKER_NAMES, f"{round_} {number}") for number in range(2000)]
            assert None not in entries
            for entry in entries:
                leave_entry(one, BREAKER_NAMES, entry or 0)


def test_where_there_is_no_room_a_name_gets_no_entry() -> None:
    with workers(1) as running:
        (one,) = running.memories
        entries = [take_entry(one, BREAKER_NAMES, str(number)) for number in range(BREAKER_NAMES.capacity + 100)]
        taken = [entry for entry in entries if entry is not None]
        assert len(taken) < len(entries)
        assert len(set(taken)) == len(taken)
