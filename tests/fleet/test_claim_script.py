"""The script of claims, held against a model: at any moment one process has a hook, and no verdict is another's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.claim_script import CLAIM, CLAIMS, DECIDED, END, MINE, TAKEN
from tests.support.redis import RedisServer, ask, redis_server

KEY = "wcs:claim:x"
PROCESSES = ("p", "q", "r")


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A server, and on it the channel of each process."""
    with redis_server() as running, socket.create_connection(("127.0.0.1", running.port)) as listening:
        ask(listening, "SUBSCRIBE", *(f"wcs:verdicts:{process}" for process in PROCESSES))
        yield running


class Model:
    """What the script should do, in a few words of Python."""

    def __init__(self) -> None:
        self.owner: str | None = None
        self.verdict: bytes | None = None
        self.kept = False
        self.waiters: set[str] = set()
        self.alive: set[str] = set()

    def claim(self, token: str, process: str) -> Any:
        if self.owner is not None:
            if self.verdict is not None:
                if self.kept or process in self.waiters:
                    return DECIDED, self.verdict
                self._clear()
            elif self.owner.partition(".")[0] != process and self.owner.partition(":")[0] in self.alive:
                self.waiters.add(process)
                return (TAKEN,)
            self.waiters.discard(process)
        self.owner = token
        return (MINE,)

    def end(self, token: str, verdict: bytes, *, kept: bool) -> int:
        if self.owner != token:
            return 0
        told = len(self.waiters)
        if verdict:
            self.verdict, self.kept = verdict, self.kept or kept
        else:
            self._clear()
        return told

    def _clear(self) -> None:
        self.owner, self.verdict, self.kept = None, None, False
        self.waiters.clear()


def run(redis: RedisServer, *arguments: str | int | bytes) -> Any:
    """What the script returns."""
    return redis.command("EVAL", CLAIMS.text, 1, KEY, *arguments)


steps = st.one_of(
    st.tuples(st.just(CLAIM), st.sampled_from(PROCESSES)),
    st.tuples(st.just(END), st.integers(0, 9), st.sampled_from([b"", b"yes", b"no"]), st.booleans()),
    st.tuples(st.just("dies"), st.sampled_from(PROCESSES)),
    st.tuples(st.just("lives"), st.sampled_from(PROCESSES)),
)


@given(st.lists(steps, max_size=30))
def test_the_script_does_what_the_model_says(redis: RedisServer, actions: list[tuple[Any, ...]]) -> None:
    redis.command("FLUSHALL")
    model, tokens = Model(), ["p.1:0"]
    for kind, *words in actions:
        if kind == CLAIM:
            (process,) = words
            tokens.append(token := f"{process}.1:{len(tokens)}")
            found = run(redis, CLAIM, token, process, 60_000, "wcs:alive:", "wcs:verdicts:")
            assert tuple(found[:2]) == model.claim(token, process)
            assert found[0] != DECIDED or bool(found[2]) is model.kept
        elif kind == END:
            number, verdict, kept = words
            token = tokens[number % len(tokens)]
            told = run(redis, END, token, verdict, 60_000, "1" if kept else "", "wcs:verdicts:", b"V")
            assert told == model.end(token, verdict, kept=kept)
        else:
            heartbeat = f"{words[0]}.1"
            redis.command("DEL" if kind == "dies" else "INCR", f"wcs:alive:{heartbeat}")
            (model.alive.discard if kind == "dies" else model.alive.add)(heartbeat)
    assert redis.command("EXISTS", KEY) == (model.owner is not None)


def test_one_that_asks_again_has_the_hook_of_an_owner_that_hears_nothing_any_more(redis: RedisServer) -> None:
    redis.command("FLUSHALL")
    redis.command("SET", "wcs:alive:gone.1", "")
    run(redis, CLAIM, "gone.1:1", "gone", 5_000, "wcs:alive:", "wcs:verdicts:")
    asks = (CLAIM, "p.1:1", "p", 5_000, "wcs:alive:", "wcs:verdicts:")
    assert run(redis, *asks) == [TAKEN]  # it may have begun a moment ago
    assert run(redis, CLAIM, "q.1:1", "q", 5_000, "wcs:alive:", "wcs:verdicts:") == [TAKEN]
    assert run(redis, *asks) == [MINE]


def test_a_claim_ends_by_itself(redis: RedisServer) -> None:
    redis.command("FLUSHALL")
    run(redis, CLAIM, "p.1:1", "p", 5_000, "wcs:alive:", "wcs:verdicts:")
    assert 0 < redis.command("PTTL", KEY) <= 5_000
    run(redis, END, "p.1:1", b"yes", 90_000, "1", "wcs:verdicts:", b"V")
    assert 5_000 < redis.command("PTTL", KEY) <= 90_000
