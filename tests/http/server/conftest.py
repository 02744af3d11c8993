"""Doors on the gateway's own event loop, and on the standard library's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.http.server.frontdoor import HASTY, LOOPS, Door, Opener, open_door


@pytest.fixture(params=LOOPS)
def opener(request: pytest.FixtureRequest) -> Opener:
    """Opens doors on the gateway's own event loop, and on the standard library's."""
    return partial(open_door, request.param)


@pytest.fixture(scope="module", params=LOOPS)
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    """One that echoes."""
    with open_door(request.param) as opened:
        yield opened


@pytest.fixture(scope="module", params=LOOPS)
def hasty(request: pytest.FixtureRequest) -> Iterator[Door]:
    """One that echoes, with little patience for a request."""
    with open_door(request.param, limits=HASTY) as opened:
        yield opened
