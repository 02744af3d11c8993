"""Single values: URLs, headers, names and paths."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

from typing import Final

import pytest

from gateway.config import ConfigError, loads

HOST: Final = "must be a URL whose host is an IP address such as 192.168.1.101, or a host name"

REJECTED = [
    ("upstreams: {u: {url: 'http://192.168.1.256/x'}}\n", f"1:17: upstreams.u.url: {HOST}"),
    ("upstreams: {u: {}}\n", "1:13: upstreams.u: must have a url, or targets"),
    ("upstreams: {'': {url: http://h}}\n", '1:13: upstreams."": must be an upstream\'s name: 1 to 256 characters, no control characters'),
    ("upstreams: {u: {url: 5}}\n", "1:17: upstreams.u.url: must be text such as http://192.168.1.101/rest/my_api, not 5"),
    ("upstreams: {u: {url: ftp://h/}}\n", "1:17: upstreams.u.url: must be a URL that begins with http:// or https:// and names a host"),
    ("upstreams: {u: {url: 'http://'}}\n", "1:17: upstreams.u.url: must be a URL that begins with http:// or https:// and names a host"),
    ("upstreams: {u: {url: 'http://h h/'}}\n", "1:17: upstreams.u.url: must be a URL in plain ASCII, without spaces, such as http://192.168.1.101/rest/my_api"),
    ("upstreams: {u: {url: 'http://h:99999/'}}\n", "1:17: upstreams.u.url: must be a URL with a valid host and a port from 1 to 65535"),
    ("upstreams: {u: {url: 'http://h:0/'}}\n", "1:17: upstreams.u.url: must be a URL with a valid host and a port from 1 to 65535"),
    ("upstreams: {u: {url: 'http://me:pw@h/'}}\n", "1:17: upstreams.u.url: must not contain a user name or password: write them under credentials"),
    ("upstreams: {u: {url: 'http://h/?a=b'}}\n", "1:17: upstreams.u.url: must end with its path: a query (?) or fragment (#) is not allowed"),
    ("upstreams: {u: {url: 'http://h/#a'}}\n", "1:17: upstreams.u.url: must end with its path: a query (?) or fragment (#) is not allowed"),
    ("upstreams: {u: {url: http://h, host: 'a b'}}\n", "1:32: upstreams.u.host: must be target, preserve, or a host name such as legacy.example.com"),
    ("upstreams: {u: {url: http://h, headers: {Via: x}}}\n", "1:42: upstreams.u.headers.Via: must not be set here: the gateway sets or removes this header itself"),
    ("upstreams: {u: {url: http://h, headers: {'a b': x}}}\n", '1:42: upstreams.u.headers."a b": must be a header name: letters, digits and hyphens'),
    ('upstreams: {u: {url: http://h, headers: {A: "x\\r\\nB: y"}}}\n', "1:42: upstreams.u.headers.A: must be one line of printable ASCII characters"),
    ("upstreams: {u: {url: http://h, headers: {A: ' x'}}}\n", "1:42: upstreams.u.headers.A: must not begin or end with white space, and be at most 8192 characters long"),
    ("upstreams: {u: {url: http://h, headers: {A: x, a: y}}}\n", "1:32: upstreams.u.headers: must name each header once: upper and lower case do not differ"),
    ("upstreams: {u: {url: }}\n", "1:17: upstreams.u.url: must be text such as http://192.168.1.101/rest/my_api, not empty"),
    ("upstreams: {u: {targets: [{url: 'http://w:pw@h'}]}}\n", "1:28: upstreams.u.targets[0].url: must not contain a user name or password: write them under credentials"),
    ("upstreams: {u: {url: http://h, health: {path: ping}}}\n", '1:41: upstreams.u.health.path: must be a path such as /health: one / first, plain ASCII, no spaces, no #, not "ping"'),
    ("upstreams: {u: {url: http://h, health: {path: /a b}}}\n", '1:41: upstreams.u.health.path: must be a path such as /health: one / first, plain ASCII, no spaces, no #, not "/a b"'),
    ('upstreams: {u: {url: http://h, health: {path: "/a\\n"}}}\n', '1:41: upstreams.u.health.path: must be a path such as /health: one / first, plain ASCII, no spaces, no #, not "/a\\n"'),
    ("upstreams: {u: {url: http://h, health: {path: //h/}}}\n", '1:41: upstreams.u.health.path: must be a path such as /health: one / first, plain ASCII, no spaces, no #, not "//h/"'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]
