"""The verdict per cause, and how an answer of the gateway's own says why."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.decision import counts_as_failure
from gateway.model.verdicts import (
    Cause,
    Failure,
    Fallback,
    ProxyError,
    Reason,
    Ruling,
    Source,
    Verdict,
    backend_allow,
    backend_reject,
    fallback_ruling,
    proxy_status,
    spool_ruling,
    static_ruling,
)

BODY = b'{"appKey": "a",  "spacing":"kept" }'

REGISTERED = set(
    # RFC 9209, section 2.3: the initial contents of the registry of proxy error types
    "dns_timeout dns_error destination_not_found destination_unavailable destination_ip_prohibited "
    "destination_ip_unroutable connection_refused connection_terminated connection_timeout connection_read_timeout "
    "connection_write_timeout connection_limit_reached tls_protocol_error tls_certificate_error tls_alert_received "
    "http_request_error http_request_denied http_response_incomplete http_response_header_section_size "
    "http_response_header_size http_response_body_size http_response_trailer_section_size "
    "http_response_trailer_size http_response_transfer_coding http_response_content_coding http_response_timeout "
    "http_upgrade_failed http_protocol_error proxy_internal_response proxy_internal_error "
    "proxy_configuration_error proxy_loop_detected".split()
)

TOKEN = r"[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*"
KEY = r"[a-z*][a-z0-9_.*-]*"
MEMBER = re.compile(rf"{TOKEN}(?:; *{KEY}=(?:{TOKEN}|-?[0-9]{{1,15}}))*")
"""A list member with parameters, RFC 8941, sections 3.1 and 3.3, as far as Proxy-Status uses it here."""


def parameters(value: bytes | None) -> dict[str, str]:
    """The parameters of a Proxy-Status value with the gateway as its one member."""
    assert value is not None
    text = value.decode("ascii")
    assert MEMBER.fullmatch(text), text
    name, *rest = text.split("; ")
    assert name == "gateway"
    found = dict(parameter.split("=") for parameter in rest)
    assert len(found) == len(rest)
    return found


def policies() -> list[Fallback]:
    subsets = itertools.chain.from_iterable(itertools.combinations(Cause, size) for size in range(len(Cause) + 1))
    return [Fallback(frozenset(subset)) for subset in subsets]


@pytest.mark.parametrize("fallback", policies(), ids=repr)
@pytest.mark.parametrize("cause", Cause)
def test_the_policy_decides_per_cause_and_the_answer_is_the_contract_s(cause: Cause, fallback: Fallback) -> None:
    ruling = fallback_ruling(Failure(cause, ProxyError.HTTP_PROTOCOL_ERROR, "why", 500), fallback, BODY)
    if cause in fallback.allowed:
        assert (ruling.verdict, ruling.status) == (Verdict.ALLOW, 200)
        assert (ruling.body, ruling.content_type) == (BODY, b"application/json")
    else:
        assert (ruling.verdict, ruling.status) == (Verdict.REJECT, 403)
        assert (ruling.body, ruling.content_type) == (b"", None)
    assert ruling.source is Source.FALLBACK
    assert ruling.reason.value == cause.value
    assert ruling.error == "why"
    assert parameters(ruling.proxy_status) == {"error": "http_protocol_error", "received-status": "500"}


def test_unless_configured_every_cause_is_a_403() -> None:
    verdicts = {Fallback().verdict(cause) for cause in Cause}
    assert verdicts == {Verdict.REJECT}


def test_every_cause_is_a_reason() -> None:
    assert {cause.value for cause in Cause} <= {reason.value for reason in Reason}


@pytest.mark.parametrize("error", ProxyError)
def test_every_error_that_is_told_is_a_registered_one(error: ProxyError) -> None:
    assert error.value in REGISTERED
    assert parameters(proxy_status(error)) == {"error": error.value}


@given(st.sampled_from(ProxyError), st.none() | st.integers(0, 999))
def test_the_received_status_is_told_where_there_is_one(error: ProxyError, status: int | None) -> None:
    told = parameters(fallback_ruling(Failure(Cause.ERROR_STATUS, error, "", status), Fallback(), b"").proxy_status)
    assert told.pop("error") == error.value
    assert told == ({} if status is None else {"received-status": str(status)})


def said(ruling: Ruling) -> tuple[Verdict, Source, Reason, int, bytes, bytes | None]:
    return (ruling.verdict, ruling.source, ruling.reason, ruling.status, ruling.body, ruling.content_type)


def test_a_backend_s_yes_goes_out_as_it_came_and_is_nobody_else_s_doing() -> None:
    ruling = backend_allow(BODY)
    assert said(ruling) == (Verdict.ALLOW, Source.BACKEND, Reason.OK, 200, BODY, b"application/json")
    assert (ruling.proxy_status, ruling.error) == (None, "")


def test_a_backend_s_no_is_an_empty_403_and_nobody_else_s_doing() -> None:
    ruling = backend_reject()
    assert said(ruling) == (Verdict.REJECT, Source.BACKEND, Reason.DENIED, 403, b"", None)
    assert (ruling.proxy_status, ruling.error) == (None, "")


@pytest.mark.parametrize("cause", Cause)
def test_a_kept_event_is_answered_as_if_it_had_been_delivered_and_says_why_it_was_not(cause: Cause) -> None:
    ruling = spool_ruling(Failure(cause, ProxyError.HTTP_PROTOCOL_ERROR, "status 500", 500), BODY)
    assert said(ruling) == (Verdict.ALLOW, Source.SPOOL, Reason(cause.value), 200, BODY, b"application/json")
    assert parameters(ruling.proxy_status) == {"error": "http_protocol_error", "received-status": "500"}
    assert ruling.error == "kept for later delivery: status 500"
    assert counts_as_failure(ruling.verdict, ruling.error)


def test_an_event_kept_behind_an_earlier_one_has_a_reason_of_its_own() -> None:
    ruling = spool_ruling(None, BODY)
    assert said(ruling) == (Verdict.ALLOW, Source.SPOOL, Reason.BACKLOG, 200, BODY, b"application/json")
    assert parameters(ruling.proxy_status) == {"error": "destination_unavailable"}
    assert counts_as_failure(ruling.verdict, ruling.error)


@pytest.mark.parametrize("ruling", [backend_allow(b"{}"), backend_reject(), static_ruling(Verdict.ALLOW, b"[]")])
def test_a_ruling_with_another_body_is_the_same_in_all_else(ruling: Ruling) -> None:
    changed = ruling.with_body(b"other")
    assert changed.body == b"other"
    assert changed.with_body(ruling.body) == ruling
    assert {name for name in Ruling.__struct_fields__ if getattr(changed, name) != getattr(ruling, name)} == {"body"}


def test_a_static_allow_echoes_the_hook() -> None:
    ruling = static_ruling(Verdict.ALLOW, BODY)
    assert said(ruling) == (Verdict.ALLOW, Source.STATIC, Reason.OK, 200, BODY, b"application/json")


def test_a_static_reject_is_an_empty_403_that_the_gateway_owns_up_to() -> None:
    ruling = static_ruling(Verdict.REJECT, BODY)
    assert said(ruling) == (Verdict.REJECT, Source.STATIC, Reason.DENIED, 403, b"", None)
    assert parameters(ruling.proxy_status) == {"error": "http_request_denied"}


@given(st.sets(st.sampled_from(Cause)), st.sets(st.sampled_from(Cause)))
def test_policies_are_equal_when_they_decide_alike(one: set[Cause], other: set[Cause]) -> None:
    left, right = Fallback(frozenset(one)), Fallback(frozenset(other))
    alike = all(left.verdict(cause) is right.verdict(cause) for cause in Cause)
    assert (left == right) is alike
    assert (repr(left) == repr(right)) is alike


def test_a_policy_equals_nothing_but_a_policy() -> None:
    assert Fallback() != frozenset()
    assert Fallback() != "reject"
