"""Values for screens and labels: as the file has them where a reference brings them in."""

from __future__ import annotations

import pytest

from gateway.config import display_urls, display_value, loads


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY_HOST", "hidden.example")


def test_a_value_is_shown_unless_a_reference_brings_it_in() -> None:
    loaded = loads("record: {path: '/tmp/${env:DISPLAY_HOST}'}\ntracing: {endpoint: 'http://c:4318'}\n")
    assert loaded.config.record is not None
    assert loaded.config.tracing is not None
    assert display_value(loaded.config.record.path, loaded.masked, "record", "path") == "/tmp/${env:DISPLAY_HOST}"
    endpoint = loaded.config.tracing.endpoint
    assert display_value(endpoint, loaded.masked, "tracing", "endpoint") == "http://c:4318"


def test_a_value_that_the_file_does_not_have_is_not_shown() -> None:
    assert display_value("secret", {"record": "off"}, "record", "path") == "…"


def test_urls_are_those_of_the_file_for_one_target_and_for_several() -> None:
    masked = loads(
        "upstreams:\n"
        "  one: {url: 'http://${env:DISPLAY_HOST}/x'}\n"
        "  two: {targets: [{url: http://a}, {url: 'http://${env:DISPLAY_HOST}'}]}\n"
    ).masked
    assert list(display_urls(masked, "one", 1)) == ["http://${env:DISPLAY_HOST}/x"]
    assert list(display_urls(masked, "two", 2)) == ["http://a", "http://${env:DISPLAY_HOST}"]


def test_urls_that_cannot_be_matched_to_targets_are_not_shown() -> None:
    assert list(display_urls({"upstreams": {"u": {"url": "http://h"}}}, "u", 2)) == ["…", "…"]
    assert list(display_urls({}, "u", 1)) == ["…"]
