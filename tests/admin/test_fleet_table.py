"""Who is behind in a fleet, by version and by configuration."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.admin.fleet_table import Replica, mark_behind, newest_revision


def replica(name: str, revision: str = "r", version: str = "1.0.0", **more: Any) -> Replica:
    fields: dict[str, Any] = {
        "admin": "192.0.2.1:9180", "since": 1.0, "phase": "ready", "drained": False, "store": None, "state": True,
    }  # fmt: skip
    return Replica(id=name, name=name, version=version, revision=revision, **{**fields, **more})


def behind(*replicas: Replica) -> dict[str, list[str]]:
    mark_behind(replicas)
    return {each.name: each.behind for each in replicas}


def test_nobody_is_behind_where_all_are_alike() -> None:
    assert behind(replica("a"), replica("b")) == {"a": [], "b": []}
    assert behind() == {}


def test_the_configuration_of_the_last_reload_is_the_new_one_though_most_have_another() -> None:
    forgotten = [replica("a", "old"), replica("b", "old", reloaded=5.0)]
    assert behind(*forgotten, replica("c", "new", reloaded=9.0)) == {"a": ["revision"], "b": ["revision"], "c": []}


def test_a_gateway_that_starts_with_an_old_file_makes_it_no_newer() -> None:
    assert newest_revision([replica("a", "new", reloaded=5.0), replica("b", "old", since=9.0)]) == "new"


@pytest.mark.parametrize(("revisions", "newest"), [("xxy", "x"), ("xyy", "y"), ("xy", "y"), ("yx", "x")])
def test_without_reloads_what_most_have_is_the_new_one_else_what_the_last_start_brought(
    revisions: str, newest: str
) -> None:
    replicas = [replica(str(number), revision, since=float(number)) for number, revision in enumerate(revisions)]
    assert newest_revision(replicas) == newest


@pytest.mark.parametrize(
    ("older", "newer"), [("1.9.0", "1.10.0"), ("1.0.0rc1", "1.0.0"), ("0.9", "1.0"), ("1.0.0", "1.0.1"), ("1", "2+a")]
)
def test_an_older_version_is_behind(older: str, newer: str) -> None:
    assert behind(replica("a", version=older), replica("b", version=newer)) == {"a": ["version"], "b": []}
    assert behind(replica("a", version=newer), replica("b", version=older)) == {"a": [], "b": ["version"]}


def test_what_a_build_is_called_makes_no_version_older() -> None:
    assert behind(replica("a", version="1.0.0+x"), replica("b", version="1.0.0")) == {"a": [], "b": []}


def test_one_that_is_lost_makes_nobody_be_behind() -> None:
    gone = replica("gone", "newer", version="9.0.0", reloaded=99.0, lost=1.0)
    assert behind(replica("a"), gone) == {"a": [], "gone": []}
