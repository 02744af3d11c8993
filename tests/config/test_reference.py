"""The configuration's reference in docs: no key is left out, and every example of it can be used."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Key, loads, reference_sections
from gateway.config.sections.root import Config
from gateway.config.sections.tracing import is_installed
from gateway.config.source.document import parse

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/configuration.md").read_text("utf-8")
CHAPTERS = re.findall(r"```yaml\n(.*?)```\n\n<!-- begin: keys (\S+) -->", REFERENCE, re.DOTALL)
PEM = Path(__file__).parent / "pem"

SECTIONS = reference_sections()
KEYS = [(place, key) for place, section in SECTIONS.items() for key in section.keys]


def test_every_section_of_the_model_is_a_chapter_with_an_example() -> None:
    assert sorted(place for _, place in CHAPTERS) == sorted(SECTIONS)


def test_it_says_that_there_is_a_section_wherever_it_may_stand() -> None:
    retry = SECTIONS["upstreams.UPSTREAM.retry"]
    assert retry.places[1:] == (
        "defaults.retry",
        "defaults.methods.METHOD.retry",
        "apps.APP.retry",
        "apps.APP.methods.METHOD.retry",
    )
    assert SECTIONS["apps.APP.rules[]"].places[1:] == ("defaults.rules[]",)


def test_what_may_be_one_or_a_list_is_told_so() -> None:
    forms = {key.name: key.form for key in SECTIONS["apps.APP"].keys}
    assert forms["failover"] == "the name of an upstream; or a list of such"


@pytest.mark.parametrize(("place", "key"), KEYS, ids=lambda it: it if isinstance(it, str) else it.name)
def test_every_key_has_a_meaning_a_default_and_what_to_mind(place: str, key: Key) -> None:
    assert key.meaning.endswith(".")
    assert key.default
    is_section = key.form == "mapping"
    assert is_section or key.care


def test_every_whole_number_says_what_it_counts() -> None:
    numbers = [key for _, key in KEYS if "whole number" in key.form]
    assert numbers
    assert all("(" in key.form for key in numbers)


def _defaults(model: Any, place: str) -> Iterator[tuple[str, str, object]]:
    for name, field in model.model_fields.items():
        if isinstance(field.default, str | int):
            yield place, name, field.default


@pytest.mark.parametrize("section", ["server", "log", "metrics", "media_server", "defaults"])
def test_the_default_in_words_is_the_default_in_force(section: str) -> None:
    told = {key.name: key.default for key in SECTIONS[section].keys}
    model = Config.model_fields[section].annotation
    defaults = [(name, str(default).lower()) for _, name, default in _defaults(model, section)]
    assert defaults
    assert [(name, told[name]) for name, default in defaults if default not in told[name].lower()] == []


def _keys_in(node: Any) -> Iterator[str]:
    for key, inner in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if isinstance(key, str):
            yield key
        yield from _keys_in(inner)


@pytest.mark.parametrize(("example", "place"), CHAPTERS, ids=[place for _, place in CHAPTERS])
def test_every_example_loads_and_has_every_key_of_its_section(
    example: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in re.findall(r"\$\{env:(\w+)\}", example):
        monkeypatch.setenv(variable, "x" * 32)
    for file in re.findall(r"[\w-]+\.pem", example):
        shutil.copy(PEM / ("key.pem" if "key" in file else "certificate.pem"), tmp_path / file)
    example = example.replace("/var/lib/wcs-gateway", str(tmp_path))
    if place != "tracing" or is_installed():
        loads(example, str(tmp_path / "gateway.yaml"))
    names = {key.name for key in SECTIONS[place].keys}
    instead = set(re.findall(r"# (?:or a single one: )?(\w+):", example))  # named, where not both can stand
    assert names - set(_keys_in(parse(example, "gateway.yaml").plain())) - instead == set()
