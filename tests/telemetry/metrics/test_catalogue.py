"""The table of metrics: one row a family, and an attribute of ``Metrics`` for each row."""

from __future__ import annotations

import re
from typing import get_type_hints

import pytest

from gateway.telemetry.metrics import Metrics
from gateway.telemetry.metrics.catalogue import CATALOGUE, Kind, Spec
from gateway.telemetry.metrics.cells import Counter, Gauge, Histogram, Value

FAMILIES = {Kind.COUNTER: Counter, Kind.GAUGE: Gauge, Kind.HISTOGRAM: Histogram}
ROWS = [pytest.param(attribute, spec, id=attribute) for attribute, spec in CATALOGUE.items()]


@pytest.mark.parametrize(("attribute", "spec"), ROWS)
def test_each_row_has_its_attribute_of_the_type_that_it_says(attribute: str, spec: Spec) -> None:
    expected = FAMILIES[spec.kind] if spec.labels or spec.optional else Value
    assert get_type_hints(Metrics)[attribute] is expected
    assert type(getattr(Metrics("1"), attribute)) is expected


def test_each_attribute_that_is_declared_has_its_row() -> None:
    assert list(get_type_hints(Metrics)) == list(CATALOGUE)


def test_the_exposition_has_the_order_of_the_table() -> None:
    assert [family.name for family in Metrics("1").families] == [spec.name for spec in CATALOGUE.values()]


@pytest.mark.parametrize(("attribute", "spec"), ROWS)
def test_names_are_as_prometheus_wants_them(attribute: str, spec: Spec) -> None:
    assert re.fullmatch(r"gateway(_[a-z]+)+", spec.name)
    assert spec.name.endswith("_total") is (spec.kind is Kind.COUNTER)
    assert spec.help.endswith(".")


@pytest.mark.parametrize(("attribute", "spec"), ROWS)
def test_histograms_alone_have_buckets_which_rise(attribute: str, spec: Spec) -> None:
    assert bool(spec.buckets) is (spec.kind is Kind.HISTOGRAM)
    assert list(spec.buckets) == sorted(set(spec.buckets))


def test_no_name_is_there_twice() -> None:
    assert len({spec.name for spec in CATALOGUE.values()}) == len(CATALOGUE)


@pytest.mark.parametrize(("attribute", "spec"), [row for row in ROWS if row.values[1].presets])  # type: ignore[union-attr]
def test_series_that_are_there_from_the_start_stand_at_nothing(attribute: str, spec: Spec) -> None:
    assert len(spec.labels) == 1
    assert getattr(Metrics("1"), attribute).totals() == {(value,): 0.0 for value in spec.presets}
