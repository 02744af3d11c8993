"""Names are looked up in threads of their own."""

from __future__ import annotations

import threading
import time

import pytest

from gateway.http.client.lookups import LookupThreads


def lookup_threads() -> int:
    return sum(thread.name.startswith("name-look-up") for thread in threading.enumerate())


async def test_a_name_is_looked_up_each_address_once_and_the_threads_end() -> None:
    before, threads = lookup_threads(), LookupThreads()
    try:
        addresses = await threads.look_up("127.0.0.1")
        assert addresses == ("127.0.0.1",)
        assert lookup_threads() > before
    finally:
        threads.close()
    until = time.monotonic() + 10.0
    while lookup_threads() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert lookup_threads() == before


async def test_what_can_be_no_name_raises() -> None:
    threads = LookupThreads()
    try:
        with pytest.raises((OSError, UnicodeError)):
            await threads.look_up("a" * 300)
    finally:
        threads.close()
