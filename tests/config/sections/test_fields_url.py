"""Hosts and URLs: what is accepted can be connected to."""

from __future__ import annotations

from typing import Any, Final

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.dry_run import prove
from gateway.config import loads
from gateway.config.sections.addresses import parse_authority
from gateway.config.sections.upstreams import target_names
from gateway.http.client import Resolver
from gateway.http.client.transport import url_origin
from tests.config.texts import problems_of

BAD_HOSTS: Final = (
    "192.168.1.256", "192.168.01.101", "1.2.3", "1", "127.0.0.0x1", "xn--a-", "xn--zzzz99", "XN--ZZZZ99",
    "php.xn--zzzz99", "[v1.x]", "[::1%25eth0]", "a..b", "-a", "a-", ".a", "a" * 64, "a.1", "a,b", "(a)", "a%41",
    "[127.0.0.1]", "[::1", "a..", "1.2.3.4.", "b[::1]",
)  # fmt: skip
GOOD_HOSTS: Final = (
    "192.168.1.101", "h", "h.", "my_php", "a-b.example", "[::1]", "[2001:db8::1]", "xn--mnchen-3ya.de",
    "xn--strae-oqa.de", "XN--STRAE-OQA.de", "a" * 63, "1a", "0xy",
)  # fmt: skip


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_a_host_that_nothing_can_be_connected_to_is_refused_wherever_there_is_a_url(host: str) -> None:
    for scheme in ("http", "https"):
        problems = problems_of(f"upstreams: {{u: {{targets: [{{url: '{scheme}://{host}/x'}}]}}}}\n")
        assert len(problems) == 1
        assert problems[0].startswith("1:28: upstreams.u.targets[0].url: must be a URL")
    assert problems_of(f"tracing: {{endpoint: 'http://{host}:4318'}}\n")[0].startswith(
        "1:11: tracing.endpoint: must be a URL"
    )
    assert problems_of(f"upstreams: {{u: {{url: http://h, host: '{host}'}}}}\n") == [
        "1:32: upstreams.u.host: must be target, preserve, or a host name such as legacy.example.com"
    ]


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_a_host_that_something_can_be_connected_to_is_taken(host: str) -> None:
    for port in ("", ":1", ":65535"):
        loaded = loads(f"upstreams: {{u: {{url: 'https://{host}{port}/x', host: '{host}{port}'}}}}\n")
        assert list(prove(loaded.config)) == []


@given(st.text("0123456789.xX:[]%-_~aé", max_size=24) | st.from_regex(r"xn--[a-z0-9-]{0,12}", fullmatch=True))
def test_what_passes_for_a_host_is_one_for_all_that_use_it(host: str) -> None:
    try:
        parse_authority(host)
    except ValueError:
        return
    url = httpx.URL(f"http://{host}/x")
    assert url.host is not None  # which decodes Punycode
    assert target_names([f"http://{host}/x"])
    origin = url_origin(url)
    assert origin.host.encode("idna") == origin.host.encode("ascii")


@pytest.mark.parametrize(("written", "sent"), [("xn--strae-oqa.de", "xn--strae-oqa.de"), ("[::1]", "::1")])
async def test_the_name_that_is_looked_up_is_the_one_that_is_written(
    written: str, sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own codec knows IDNA 2003 only, and makes strasse.de of it: somebody else's host."""
    assert url_origin(httpx.URL(f"https://{written}/")).host == sent
    asked: list[Any] = []

    def getaddrinfo(host: Any, *_: Any, **options: Any) -> list[Any]:
        asked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    resolver = Resolver()
    await resolver.resolve(url_origin(httpx.URL(f"https://{written}/")).host)
    await resolver.aclose()
    assert asked == ([] if written.startswith("[") else [sent])


def test_a_scheme_in_capitals_is_no_way_round_the_verification_of_certificates() -> None:
    config = loads("tracing: {endpoint: 'HTTPS://collector/otlp/'}\nupstreams: {u: {url: 'HTTP://H/X/'}}\n").config
    assert config.tracing is not None
    assert config.tracing.endpoint == "https://collector/otlp"
    assert config.upstreams["u"].url == "http://H/X"


def test_a_url_leaves_room_for_method_and_query() -> None:
    loads(f"upstreams: {{u: {{url: 'http://h/{'x' * 2039}'}}}}\n")
    assert problems_of(f"upstreams: {{u: {{url: 'http://h/{'x' * 2040}'}}}}\n") == [
        "1:17: upstreams.u.url: must be a URL of at most 2048 characters"
    ]
