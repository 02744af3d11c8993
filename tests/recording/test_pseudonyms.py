"""Pseudonyms: the same for the same number, different for different ones, of the same shape."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import loads
from gateway.recording import RecordSettings
from gateway.recording.pseudonyms import Key, Pseudonyms
from tests.recording.records import KEY, OTHER_KEY

numbers = st.from_regex(r"(\+|00|0)?[1-9][0-9]{5,14}", fullmatch=True)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=80)


@given(names | numbers)
def test_a_pseudonym_is_the_same_every_time_and_has_the_same_length_and_shape(text: str) -> None:
    made = Pseudonyms(KEY).pseudonym(text)
    assert made == Pseudonyms(Key(b"k" * 32)).pseudonym(text)
    assert len(made) == len(text)
    assert re.sub("[0-9]", "0", made).count("0") == re.sub("[0-9]", "0", text).count("0")
    assert [c.isalnum() for c in made] == [c.isalnum() for c in text]


@given(st.lists(numbers, unique=True, min_size=2, max_size=40))
def test_different_numbers_never_become_one(written: list[str]) -> None:
    pseudonyms = Pseudonyms(KEY)
    assert len({pseudonyms.pseudonym(number) for number in written}) == len(written)


def test_all_extensions_of_three_digits_stay_apart() -> None:
    pseudonyms = Pseudonyms(KEY)
    made = [pseudonyms.pseudonym(f"{number:03}") for number in range(1000)]
    assert len(set(made)) == 1000


@given(st.from_regex(r"\+?[1-9][0-9]{13,14}", fullmatch=True) | st.from_regex(r"[a-z]{12,20}[0-9]{3}", fullmatch=True))
def test_another_run_has_other_pseudonyms(text: str) -> None:
    assert len({text, Pseudonyms(KEY).pseudonym(text), Pseudonyms(OTHER_KEY).pseudonym(text)}) == 3


@pytest.mark.parametrize(
    ("number", "begins"),
    [
        ("+4930123456", "+49"), ("+12125551234", "+1"), ("+35840123456", "+358"), ("004930123456", "0049"),
        ("030123456", "0"), ("sip:+4930123456@h", "sip:+49"), ("tel:+7495123456", "tel:+7"),
    ],
)  # fmt: skip
def test_a_number_plan_s_prefixes_stay(number: str, begins: str) -> None:
    made = Pseudonyms(KEY).pseudonym(number)
    assert made.startswith(begins)
    assert made != number


@pytest.mark.parametrize("number", ["110", "112", "911", "999"])
def test_emergency_numbers_stay(number: str) -> None:
    assert Pseudonyms(KEY).pseudonym(number) == number


def test_a_number_is_the_same_however_it_is_written() -> None:
    of = Pseudonyms(KEY).pseudonym
    digits = [
        re.sub(r"\D", "", of(number)).removeprefix("0049").removeprefix("49").removeprefix("0")
        for number in ("+4930123456", "+49 (0)30 12 34-56", "004930123456", "030123456", "<sip:+4930123456@h>")
    ]
    assert len(set(digits)) == 1


def test_a_sip_address_keeps_its_scheme_and_domain() -> None:
    made = Pseudonyms(KEY).pseudonym('"Alice Smith" <sip:alice99@pbx.example.com:5060;user=phone>')
    assert re.fullmatch(r'"[A-Z][a-z]{4} [A-Z][a-z]{4}" <sip:[a-z]{5}\d\d@pbx.example.com:5060;user=phone>', made)
    assert "lice" not in made
    assert "mith" not in made


def test_adversarial_a_number_in_the_place_of_a_domain_does_not_stay() -> None:
    of = Pseudonyms(KEY).pseudonym
    assert "123456" not in of("x@4930123456")
    assert "123456" not in of("x@4930123456.example.com")


def test_a_text_too_long_for_a_number_or_a_name_gets_a_name_of_its_own() -> None:
    of = Pseudonyms(KEY).pseudonym
    assert len({of("v=0 " * 1000), of("v=0 " * 1001)}) == 2
    assert of("v=0 " * 1000) == of("v=0 " * 1000)
    assert re.fullmatch("masked-[0-9a-f]{32}", of("v=0 " * 1000))


@pytest.mark.parametrize("text", ["1 ", "1", "x@", "@", "sip:", "+", "a1", "\u00fc", "@1234567"])
def test_adversarial_a_text_of_beginnings_of_numbers_has_its_pseudonym_in_the_end(text: str) -> None:
    made = Pseudonyms(KEY).pseudonym(text * (256 // len(text)))
    assert len(made) == 256 // len(text) * len(text)
    assert len(Pseudonyms(KEY).pseudonym(text * 500_000)) < 50


def test_a_key_never_shows_itself_and_travels_with_the_configuration() -> None:
    settings = RecordSettings("/x", key=KEY)
    assert "kkkk" not in repr(settings)
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_the_configuration_is_written_without_the_key(tmp_path: Path) -> None:
    config = loads(f"apps: {{a: {{static: allow}}}}\nrecord: {{path: {tmp_path}/hooks.jsonl}}", "gateway.yaml").config
    assert config.record is not None
    assert set(json.loads(config.model_dump_json())["record"]) == set(RecordSettings._fields) - {"key"}
