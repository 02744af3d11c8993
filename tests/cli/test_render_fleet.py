"""The gateways of a fleet as text: the words, and nothing that could control a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from gateway.cli import render_fleet


def replica(**more: Any) -> dict[str, Any]:
    return {
        "id": "1", "name": "a", "here": False, "version": "1.0.0", "revision": "abc", "admin": "192.0.2.1:9180",
        "since": "2026-01-01T00:00:00.000Z", "phase": "ready", "drained": False, "store": True, "state": True,
        "reloaded": None, "behind": [], "error": None, "lost": None, **more,
    }  # fmt: skip


def shown(*renderables: Any) -> str:
    console = Console(width=200, markup=False, highlight=False)
    with console.capture() as capture:
        for each in renderables:
            console.print(each)
    return capture.get()


def test_each_state_of_a_gateway_has_its_word() -> None:
    text = shown(
        render_fleet.replicas_table(
            [
                replica(here=True),
                replica(name="b", drained=True, store=None, behind=["version", "revision"]),
                replica(name="c", error="no answer within 2 s", state=None, store=None),
                replica(name="d", error="lost: no sign of life for 9 s", lost="2026-01-01T00:00:00.000Z"),
                replica(name="e", phase="draining", store=False, state=False),
            ]
        )
    )
    first, *rows = [line.split() for line in text.splitlines()]
    assert first == ["gateway", "version", "revision", "since", "phase", "store", "state", "behind"]
    assert rows[0][:4] == ["a", "(this", "one)", "1.0.0"]
    assert rows[0][-3:] == ["ready", "up", "up"]
    assert rows[1][-5:] == ["drained", "none", "up", "version,", "revision"]
    assert rows[2][-4:] == ["no", "answer", "–", "–"]
    assert rows[3][5] == "lost"
    assert rows[4][-3:] == ["draining", "down", "down"]


def test_who_is_missing_is_counted_and_named() -> None:
    replicas = [replica(), replica(name="b\x1b[2J", error="no answer\nwithin 2 s")]
    assert shown(render_fleet.headline(replicas)) == "fleet of 2 gateways, 1 without an answer\n"
    (line,) = render_fleet.missing(replicas)
    assert line.startswith("gateway b")
    assert line.isprintable()
    assert shown(render_fleet.headline([replica()])) == "fleet of 1 gateway\n"


def test_each_kind_of_order_in_words() -> None:
    said = {"time": "2026-01-01T00:00:00.000Z", "by": "a"}
    orders = [
        {"order": "eject", "upstream": "php", "target": "192.0.2.9:80", "app": None, **said},
        {"order": "pause", "upstream": "php", "target": None, "app": None, **said},
        {"order": "pause", "upstream": None, "target": None, "app": "shop", **said},
        {"order": "pause", "upstream": None, "target": None, "app": None, **said},
    ]
    lines = shown(*render_fleet.order_lines(orders, 7)).splitlines()
    assert [line.partition(" by an operator since ")[0] for line in lines] == [
        "php: 192.0.2.9:80 is ejected", "redelivery to php is paused", "redelivery of shop is paused",
        "all redelivery is paused", "and 7 more orders",
    ]  # fmt: skip
    assert lines[0].endswith(", ordered at a")


def test_what_is_not_known_is_a_dash() -> None:
    statuses = [{**replica(), "status": None}, {**replica(name="b"), "status": {"hooks": {"per_second": 2.0}}}]
    rows = [line.split() for line in shown(render_fleet.statuses_table(statuses)).splitlines()[1:]]
    assert rows == [["a", "–", "–", "–", "–"], ["b", "2.0", "–", "–", "–"]]
    assert render_fleet.not_up_at({"not_up_at": ["b", "c"], "replicas": 3}) == "at 2 of 3: b, c"
    assert render_fleet.not_up_at({}) == ""
