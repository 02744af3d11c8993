"""What the tests of the fleet share: a server for a module, and links to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.redis import RedisServer, redis_server


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A server for all tests of a module; each begins with it empty."""
    with redis_server() as server:
        yield server


@pytest.fixture
def server(redis: RedisServer) -> RedisServer:
    redis.command("FLUSHALL")
    return redis
