"""The watch: on unless it is off, with each of its keys by itself."""

from __future__ import annotations

import pytest

from gateway.config import loads
from gateway.config.sections.watch import WatchSettings
from tests.config.texts import problems_of


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("{}", WatchSettings(2.0, False)),
        ("{settle: 500ms}", WatchSettings(0.5, False)),
        ("{settle: 0s, allow_mass_removal: true}", WatchSettings(0.0, True)),
        ("off", None),
    ],
)
def test_a_watch_is_off_or_has_what_is_written(written: str, meant: WatchSettings | None) -> None:
    assert loads(f"server: {{watch: {written}}}\n").config.server.watch == meant


def test_without_a_word_the_file_is_watched() -> None:
    assert loads("apps: {}\n").config.server.watch == WatchSettings()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("on", '1:10: server.watch: must be a mapping, or off, not "on"'),
        ("{settle: 11m}", '1:18: server.watch.settle: must be between 0s and 10m, not "11m"'),
        ("{allow_mass_removal: 1}", "1:18: server.watch.allow_mass_removal: must be true or false, not 1"),
    ],
)
def test_another_value_is_a_problem(written: str, message: str) -> None:
    assert problems_of(f"server: {{watch: {written}}}\n") == [message]
