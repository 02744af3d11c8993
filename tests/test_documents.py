"""What is written for people agrees with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.config import json_schema, loads
from gateway.documents import SECTIONS, refusal_table, written
from gateway.metrics import Metrics
from gateway.requests import REFUSALS
from gateway.verdicts import Cause

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def test_the_generated_sections_are_those_of_the_code() -> None:
    text = README.read_text("utf-8")
    assert written(text) == text, "run `make docs`"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_generated_section_stands_in_the_readme(section: str) -> None:
    assert f"<!-- begin: {section} -->" in README.read_text("utf-8")


def test_the_table_of_verdicts_has_a_row_for_each_cause() -> None:
    table = SECTIONS["verdicts"]()
    assert all(f"`{cause}`" in table for cause in Cause)


def test_the_table_of_refusals_has_a_row_for_each_refusal() -> None:
    rows = refusal_table().splitlines()[2:]
    assert len(rows) == sum(len(refusals) for refusals in REFUSALS.values())


def test_every_metric_stands_in_the_readme() -> None:
    text = README.read_text("utf-8")
    names = set(re.findall(r"# TYPE (gateway_\w+)", Metrics("x").render().decode()))
    assert {name for name in names if f"`{name}`" not in text} == set()


def test_the_first_configuration_of_the_readme_is_a_valid_one() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert loads(blocks[0]).config.apps


def test_every_section_of_the_configuration_stands_in_the_example_or_the_readme() -> None:
    text = README.read_text("utf-8") + (ROOT / "gateway.yaml").read_text("utf-8")
    assert [key for key in json_schema()["properties"] if f"{key}:" not in text and f"`{key}" not in text] == []
