"""``gateway schema`` and ``gateway version``."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from gateway import __version__
from tests.cli.commands import CONFIG, gateway
from tests.support.gateways import ROOT


class Yaml12(yaml.SafeLoader):
    """As editors and the gateway read YAML: on, off, yes and no are words."""


Yaml12.yaml_implicit_resolvers = {
    char: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for char, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Yaml12.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false"), list("tf"))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    run = gateway("schema")
    assert (run.status, run.err) == (0, "")
    read: dict[str, Any] = json.loads(run.out)
    return read


def test_the_schema_is_one_of_json_schema_2020_12(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("text", [CONFIG, (ROOT / "gateway.yaml").read_text("utf-8")])
def test_the_schema_takes_what_the_gateway_takes(schema: dict[str, Any], text: str) -> None:
    jsonschema.Draft202012Validator(schema).validate(yaml.load(text, Yaml12))


@pytest.mark.parametrize("text", ["sever: {}", "server: {max_body: 5}", "apps: {a: {timeout: 3}}", "apps: []"])
def test_the_schema_refuses_what_the_gateway_refuses(schema: dict[str, Any], text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(yaml.load(text, Yaml12))


def test_version_lists_the_gateway_python_and_the_main_dependencies() -> None:
    run = gateway("version")
    assert run.status == 0
    names = dict(line.split(" ", 1) for line in run.out.splitlines())
    assert names["wcs-gateway"] == __version__
    assert names["Python"] == ".".join(map(str, sys.version_info[:3]))
    assert names["httpx"] == httpx.__version__
