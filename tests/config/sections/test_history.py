"""The history's keys, their bounds, and its secret."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import pytest

from gateway.config import Config, loads
from gateway.policy.history import Bodies, HistorySettings
from tests.config.texts import problems_of

STORE = "store: {url: 'sqlite:/tmp/store.db'}\n"

REJECTED = [
    ("history:\n", "2:1: history: must be a mapping"),
    ("history: on\n", "2:1: history: must be a mapping"),
    ("history: {keep: 30}\n", "2:11: history.keep: must be a duration such as 3s or 250ms, not 30"),
    ("history: {keep: 30s}\n", '2:11: history.keep: must be between 1m and 3650d, not "30s"'),
    ("history: {keep_allowed: off}\n", '2:11: history.keep_allowed: must be a duration such as 3s or 250ms, not "off"'),
    ("history: {max_size: 1KiB}\n", '2:11: history.max_size: must be between 1MiB and 1024GiB, not "1KiB"'),
    ("history: {bodies: some}\n", '2:11: history.bodies: must be off, failures or all, not "some"'),
    ("history: {key: 12345678901234567}\n", "2:11: history.key: must be text (in quotes if it looks like a number)"),
    ("history: {key: short}\n", "2:11: history.key: must have at least 16 characters: with a key that can be guessed, every number can be found; make one with: openssl rand -hex 32"),
    ("history: {key: null}\n", "2:11: history.key: must be text (in quotes if it looks like a number)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    assert problems_of(STORE + text) == [message]


def history_of(text: str) -> HistorySettings:
    history = loads(STORE + text).config.history
    assert history is not None
    return history


def test_its_defaults_are_those_of_the_policy() -> None:
    assert history_of("history: {}") == HistorySettings()
    assert Config().history is None


def test_every_key_is_read() -> None:
    history = history_of(
        "history: {keep: 90d, keep_allowed: 12h, max_size: 5GiB, bodies: failures, key: 0123456789abcdef}"
    )
    assert history[:4] == (90 * 86400, 12 * 3600, 5 * 2**30, Bodies.FAILURES)
    assert history.key is not None
    assert history.key.get_secret_value() == "0123456789abcdef"


def test_nothing_is_kept_for_longer_than_all_is() -> None:
    assert history_of("history: {keep: 6h}")[:2] == (6 * 3600, 6 * 3600)
