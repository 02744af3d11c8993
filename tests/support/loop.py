"""What keeps the developer's loop short: profiles of hypothesis, and the mark ``process``.

A plugin of pytest's that ``conftest.py`` loads. The Makefile says which target runs what.
"""

from __future__ import annotations

import functools
import gc
import inspect
import multiprocessing
import multiprocessing.context
import os
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final
from unittest import mock

import httpx
import pytest
from hypothesis import HealthCheck, settings
from playwright.sync_api import sync_playwright

from gateway.server.children import Child

EXAMPLES: Final = {"dev": 5, "ci": 100, "thorough": 1000}
"""By profile: how many examples a property is tried with. HYPOTHESIS_PROFILE or --hypothesis-profile chooses."""
STARTS: Final = frozenset(
    {
        Child,
        multiprocessing.get_context,
        os.fork,
        os.forkpty,
        os.posix_spawn,
        subprocess.Popen,
        subprocess.check_call,
        subprocess.check_output,
        subprocess.run,
        sync_playwright,
    }
)
"""What a test starts a process or a browser with."""
_TESTS: Final = str(Path(__file__).parents[1]) + os.sep
_EVENTS: Final = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec"})

for name, examples in EXAMPLES.items():
    settings.register_profile(
        name,
        deadline=None,
        max_examples=examples,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],  # says more of what else the machine does than of the test
        derandomize=os.environ.get("CI") == "true",  # where the same commit has the same result each time
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

# --- certificates of the world's authorities ---


@functools.cache
def _context(file: str | None, directory: str | None, **options: Any) -> ssl.SSLContext:
    """By what httpx takes from the environment and from its caller; nobody changes it later."""
    return httpx.create_ssl_context(**options)


def _kept_context(**options: Any) -> ssl.SSLContext:
    return _context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"), **options)


# Each new client of httpx reads them again, which takes 25 ms, and nearly all clients here speak no TLS.
mock.patch("httpx._transports.default.create_ssl_context", _kept_context).start()

# --- the mark ---


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a property ``thorough``; and ``process`` a test that names what starts one, or has a fixture that does."""
    assert isinstance(item, pytest.Function)
    fixtures = [each.func for found in item._fixtureinfo.name2fixturedefs.values() for each in found[-1:]]
    params = list(item.callspec.params.values()) if hasattr(item, "callspec") else []
    if getattr(item.obj, "is_hypothesis_test", False):
        item.add_marker("thorough")
    if any(map(_starts_process, [item.function, *fixtures])) or any(map(_leads_to_process, params)):
        item.add_marker("process")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with most tests that start processes first: what is long begins early, what is short fills the end."""
    weights = Counter(item.path for item in items if item.get_closest_marker("process"))
    items.sort(key=lambda item: -weights[item.path])


def _leads_to_process(thing: Any) -> bool:
    try:
        if thing in STARTS:
            return True
    except TypeError:  # not hashable
        return False
    return callable(thing) and _starts_process(thing)


@functools.cache
def _starts_process(thing: Any) -> bool:
    """Whether a function or class of the tests names, in its own code or in what that names, one of STARTS."""
    seen: set[int] = set()

    def found(thing: Any) -> bool:
        thing = inspect.unwrap(thing) if callable(thing) else thing
        if id(thing) in seen:
            return False
        seen.add(id(thing))
        if isinstance(thing, type):
            return _of_tests(thing) and any(map(found, (*vars(thing).values(), *thing.__bases__)))
        if isinstance(thing, property | staticmethod | classmethod):
            return any(found(each) for each in (getattr(thing, "fget", None), getattr(thing, "__func__", None)) if each)
        if not inspect.isfunction(thing) or not _of_tests(thing):
            return False
        return any(named in STARTS or found(named) for named in _named_by(thing))

    return found(thing)


@functools.cache
def _named_by(function: FunctionType) -> tuple[Any, ...]:
    """Once for all tests that lead to it."""
    return tuple(_named(function.__code__, function.__globals__))


def _of_tests(thing: Any) -> bool:
    module = sys.modules.get(thing.__module__)
    return (getattr(module, "__file__", None) or "").startswith(_TESTS)


def _named(code: CodeType, names: dict[str, Any]) -> Iterator[Any]:
    """The functions, classes and other callables that the code names, directly or as attributes of a module."""
    for name in code.co_names:
        thing = names.get(name)
        if isinstance(thing, ModuleType):
            yield from (getattr(thing, each) for each in code.co_names if callable(getattr(thing, each, None)))
        elif callable(thing):
            yield thing
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _named(constant, names)


# --- the guard that proves the mark ---


class _Guard:
    """Makes it an error that a test without the mark ``process`` starts one."""

    def __init__(self) -> None:
        self.item: pytest.Item | None = None

    def __call__(self, event: str, _: tuple[Any, ...]) -> None:
        if self.item is not None and event in _EVENTS:  # at the end of the process there is neither
            raise AssertionError(f"{self.item.nodeid} starts a process ({event}): mark it pytest.mark.process")


_guard: Final = _Guard()
sys.addaudithook(_guard)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    _guard.item = None if item.get_closest_marker("process") else item
    try:
        return (yield)
    finally:
        _guard.item = None


def pytest_collection_finish() -> None:
    """Spare the cycle collector the thousands of tests, which stay: it would look through them again and again."""
    gc.collect()
    gc.freeze()
