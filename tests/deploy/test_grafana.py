"""The Grafana dashboard, as far as it can be checked without Grafana; test_prometheus.py asks its expressions."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any, Final

import pytest
import yaml

from gateway.model.verdicts import Source, Verdict
from tests.deploy.expressions import BUILT_IN, DASHBOARD, dashboard
from tests.support.gateways import ROOT

PROVISIONING: Final = ROOT / "deploy" / "grafana" / "provisioning"
BOARD: Final = dashboard()
PANELS: Final[list[dict[str, Any]]] = BOARD["panels"]
DRAWN: Final = [panel for panel in PANELS if panel["type"] != "row"]
VARIABLES: Final[dict[str, dict[str, Any]]] = {var["name"]: var for var in BOARD["templating"]["list"]}
KNOWN_TYPES: Final = {"stat", "timeseries", "table", "heatmap", "state-timeline", "bargauge"}
COLUMNS: Final = 24

by_title = pytest.mark.parametrize("panel", DRAWN, ids=[panel["title"] for panel in DRAWN])


def referenced(value: object) -> set[str]:
    names = {name for pair in re.findall(r"\$(?:(\w+)|\{(\w+)[^}]*\})", json.dumps(value)) for name in pair if name}
    return names - BUILT_IN.keys() - {"__all"}


def test_every_panel_has_a_number_of_its_own() -> None:
    numbers = [panel["id"] for panel in PANELS]
    assert len(numbers) == len(set(numbers))


def test_no_two_panels_lie_on_each_other_and_none_outside() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["w"] > 0
        assert place["h"] > 0
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= COLUMNS
        cells = itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
        for cell in cells:
            assert cell not in taken, f"{panel['title']} lies on {taken.get(cell)}"
            taken[cell] = panel["title"]


def test_it_has_the_rows_that_an_operator_goes_through_from_top_to_bottom() -> None:
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert rows == [
        "Hooks now",
        "Rejections by reason",
        "Latency against budget",
        "Upstream targets",
        "Protocol",
        "Spool and history",
        "Fleet",
        "The gateway itself",
    ]
    tops = [panel["gridPos"]["y"] for panel in PANELS]
    assert tops == sorted(tops)


def test_every_variable_that_is_referenced_is_defined_and_every_one_defined_is_used() -> None:
    used = referenced(PANELS) | referenced(BOARD["annotations"]) | referenced(BOARD["templating"])
    assert used == VARIABLES.keys()
    assert {"app", "upstream", "instance"} <= VARIABLES.keys()


def test_a_variable_asks_only_for_those_before_it() -> None:
    before: set[str] = set()
    for name, variable in VARIABLES.items():
        assert referenced(variable) <= before
        before.add(name)


def test_many_apps_are_not_spelt_out_in_an_expression() -> None:
    assert all(VARIABLES[name]["allValue"] == ".*" for name in ("app", "upstream"))


@by_title
def test_a_panel_says_what_it_shows_and_asks_the_chosen_prometheus(panel: dict[str, Any]) -> None:
    assert panel["type"] in KNOWN_TYPES
    assert panel["title"]
    assert panel["description"].endswith(".")
    for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
        assert source == {"type": "prometheus", "uid": "${datasource}"}
    letters = [target["refId"] for target in panel["targets"]]
    assert letters
    assert len(letters) == len(set(letters))


@by_title
def test_a_legend_names_labels_that_its_series_have(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            groups = re.findall(r"\bby \(([^)]*)\)", target["expr"])
            grouped = any(label in re.split(r",\s*", group) for group in groups)
            recorded = re.search(rf"\bjob_(?:\w+_)?{label}(?:_\w+)?:", target["expr"])
            assert grouped or recorded or (label == "instance" and not groups), target["expr"]


@by_title
def test_a_panel_offers_a_choice_that_its_expression_follows(panel: dict[str, Any]) -> None:
    """A panel that no choice of app, upstream, instance or job changes would show another thing than it seems to."""
    for target in panel["targets"]:
        if "ALERTS" not in target["expr"]:
            assert referenced(target["expr"]) & {"app", "upstream", "instance", "job"}


@by_title
def test_colours_by_name_are_of_names_that_occur(panel: dict[str, Any]) -> None:
    renamed = {
        name
        for change in panel.get("transformations", ())
        for name in change["options"].get("renameByName", {}).values()
    }
    known = renamed | {
        *"ok denied timeout unreachable overload bad_answer error_status success failure".split(),
        *(f"{verdict} by {source}" for verdict in Verdict for source in Source),
    }
    for override in panel["fieldConfig"]["overrides"]:
        assert override["matcher"]["id"] == "byName"
        assert override["matcher"]["options"] in known


def test_the_file_is_as_grafana_exports_it_so_that_changes_can_be_read() -> None:
    assert DASHBOARD.read_text("utf-8") == json.dumps(BOARD, indent=2, ensure_ascii=False) + "\n"
    assert BOARD["uid"] == "wcs-gateway"
    assert BOARD["schemaVersion"] >= 38  # Grafana 10
    assert "id" not in BOARD  # it is the database's, and Grafana gives one


def test_what_is_provisioned_is_there() -> None:
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "wcs-gateway.yml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"].startswith("/")
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["type"] == VARIABLES["datasource"]["query"] == "prometheus"
    assert source["isDefault"]
    scraping = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scraping["scrape_interval"]


def test_what_becomes_of_calls_is_told_without_a_candidate_s_copies() -> None:
    """They reach its targets as the upstream ``shadow:NAME``; ejected or failing, it costs no call."""
    sums = {
        target["expr"]
        for panel in DRAWN
        for target in panel["targets"]
        if re.search(r"gateway_(?:target_ejected|upstream_attempts_total)\b", target["expr"])
        and not re.search(r"by \([^)]*upstream", target["expr"].split("(max by", maxsplit=1)[0])
    }
    assert len(sums) == 2
    assert [expression for expression in sums if 'upstream!~"shadow:.*"' not in expression] == []
