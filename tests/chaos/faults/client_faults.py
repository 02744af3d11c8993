"""Strangers at the hook port, crowds at the admin port."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator
from typing import Final

from tests.chaos.facts import STRANGER_NET
from tests.chaos.faults.registry import PROBE_WITHIN, fault
from tests.chaos.stage import Stage, connections

# --- strangers ---

_HEAD: Final = b"POST /rest/my_api/OnCallEvent HTTP/1.1\r\nHost: gw\r\n"
_HOOK: Final = b'{"appKey":"untouched","callId":"stranger-1"}'
_STRANGE: Final = {
    "idle": b"",
    "half a head": _HEAD,
    "half a body": _HEAD + b"Content-Length: 3600\r\n\r\n{" + b" " * 1000,
    "a hook": _HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(_HOOK), _HOOK),
    "half a TLS hello": bytes.fromhex("16030100c8010000c40303") + bytes(40),
    "TLS garbage": bytes.fromhex("1603010020") + bytes(range(32)),
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "noise": bytes(number * 7 % 256 for number in range(300)),
}


@fault("strangers")
async def a_few(stage: Stage, dice: random.Random) -> None:
    """Some connections from addresses that may not send hooks, each with something else."""
    await _strangers(stage, dice, dice.randrange(10, 60), 4)


@fault("strangers")
async def a_crowd(stage: Stage, dice: random.Random) -> None:
    """More connections than clients are granted altogether, from many addresses."""
    await _strangers(stage, dice, dice.randrange(200, 300), 40)


@fault("strangers")
async def one_insists(stage: Stage, dice: random.Random) -> None:
    """One address with as many connections as it can get, each closed at once and made again."""
    source = f"{STRANGER_NET}{dice.randrange(2, 250)}"
    for _ in range(4):
        async with _connected(stage.hooks, 60, source) as socks:
            for sock in socks:
                _say(sock, _STRANGE[dice.choice(list(_STRANGE))])
        await asyncio.sleep(0.1)


async def _strangers(stage: Stage, dice: random.Random, count: int, addresses: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for number in range(addresses):
            source = f"{STRANGER_NET}{2 + number}"
            socks = await stack.enter_async_context(_connected(stage.hooks, count // addresses, source))
            for sock in socks:
                _say(sock, _STRANGE[dice.choice(list(_STRANGE))])
        await asyncio.sleep(dice.uniform(1.0, 3.0))


@contextlib.asynccontextmanager
async def _connected(port: int, count: int, source: str) -> AsyncIterator[list[socket.socket]]:
    opened = connections("127.0.0.1", port, count, source)
    socks = await asyncio.to_thread(opened.__enter__)
    try:
        yield socks
    finally:
        opened.__exit__(None, None, None)


def _say(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        sock.send(data)


# --- the admin port ---


async def _crowd(stage: Stage, dice: random.Random, count: int, said: bytes) -> None:
    """Hold the admin port's connections, and see that probes and operators get through."""
    async with _connected(stage.admin, count, "127.0.0.1") as socks:
        for sock in socks:
            _say(sock, said)
        until = time.monotonic() + dice.uniform(1.0, 3.0)
        while time.monotonic() < until:
            for path in ("/-/healthy", "/-/ready", "/metrics"):
                answer = await stage.ask(path, timeout=PROBE_WITHIN)
                if answer is None or answer.status_code not in (200, 503):
                    word = stage.last_refusal if answer is None else answer.status_code
                    stage.wrong("probe", f"{path} got {word} beside {len(socks)} other connections")
            await asyncio.sleep(0.2)


@fault("admin")
async def idle_crowd(stage: Stage, dice: random.Random) -> None:
    """More connections than the admin port has places, saying nothing."""
    await _crowd(stage, dice, dice.randrange(64, 160), b"")


@fault("admin")
async def half_requests(stage: Stage, dice: random.Random) -> None:
    """The same, each with half a request."""
    await _crowd(stage, dice, dice.randrange(64, 100), b"GET /metrics HTTP/1.1\r\nHost: loc")


@fault("admin")
async def consoles(stage: Stage, dice: random.Random) -> None:
    """The same, each a console that watches."""
    await _crowd(stage, dice, dice.randrange(64, 80), b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")


@fault("admin")
async def posts_without_body(stage: Stage, dice: random.Random) -> None:
    """Requests whose body does not come."""
    await _crowd(stage, dice, 30, b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
