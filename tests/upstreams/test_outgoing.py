"""The request to a backend: path, Host, header lines, signature, and the body byte for byte."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from gateway.model.trace_context import Trace
from gateway.policy.event_answers import EventCheck
from gateway.policy.repair import ResponseCheck
from gateway.upstreams.headers import PSEUDONYM, CompiledPolicy, Identity, LoopError, Policy, RequestHead, parse_head
from gateway.upstreams.outgoing import build_outgoing

BODY = b'{"appKey": "a", "n": 1e400}'
PLAIN = CompiledPolicy(Policy())


class Hook(NamedTuple):
    received: RequestHead
    scope: dict[str, Any]
    identity: Identity = Identity(b"id", b"00-1-2-00")
    method_name: str = "OnCallEvent"
    body: bytes = BODY
    app: str = "a"
    trace: Trace | None = None


def hook(*fields: tuple[bytes, bytes], query: bytes = b"") -> Hook:
    scope = {"client": ("192.0.2.7", 5000), "scheme": "http", "query_string": query}
    return Hook(parse_head(fields), scope)


def test_the_body_and_the_app_go_along_as_they_are() -> None:
    outgoing = build_outgoing(hook(), PLAIN, None, EventCheck.ANY)
    assert (outgoing.body, outgoing.tenant, outgoing.sent, outgoing.check) == (BODY, "a", 0, EventCheck.ANY)


@pytest.mark.parametrize(("query", "path"), [(b"", "/OnCallEvent"), (b"a=%20\xe9", "/OnCallEvent?a=%20\xe9")])
def test_the_path_is_the_method_and_the_query(query: bytes, path: str) -> None:
    assert build_outgoing(hook(query=query), PLAIN, None, ResponseCheck.STRICT).path == path


@pytest.mark.parametrize(("policy", "host"), [("target", None), ("preserve", b"gw"), ("php.example", b"php.example")])
def test_the_policy_names_the_host(policy: str, host: bytes | None) -> None:
    received = hook((b"host", b"gw"))
    assert build_outgoing(received, CompiledPolicy(Policy(policy)), None, ResponseCheck.STRICT).host == host


def test_a_hook_of_a_client_without_an_address_is_from_nowhere_known() -> None:
    received = hook()
    received.scope["client"] = None
    assert b"x-forwarded-for: unknown\r\n" in build_outgoing(received, PLAIN, None, ResponseCheck.STRICT).head


def test_a_hook_is_signed_again_in_place_of_the_media_servers_signature() -> None:
    received = hook((b"authorization", b"WCS old"))
    assert b"authorization: WCS old\r\n" in build_outgoing(received, PLAIN, None, ResponseCheck.STRICT).head
    signed = build_outgoing(received, PLAIN, b"key", ResponseCheck.STRICT).head
    assert signed.lower().count(b"authorization:") == 1
    assert b"WCS old" not in signed


def test_a_hook_that_has_been_here_before_is_not_sent() -> None:
    with pytest.raises(LoopError):
        build_outgoing(hook((b"via", b"1.1 " + PSEUDONYM)), PLAIN, None, ResponseCheck.STRICT)


def test_without_a_trace_every_attempt_has_the_same_head() -> None:
    outgoing = build_outgoing(hook(), PLAIN, None, ResponseCheck.STRICT)
    assert outgoing.with_sent(3) is outgoing
