"""What of a hook's header fields goes on to the backend, and what the gateway puts in their place."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams.headers import (
    HOP_BY_HOP,
    PSEUDONYM,
    CompiledPolicy,
    Headers,
    Identity,
    LoopError,
    Policy,
    RequestHead,
    encode_headers,
    forward_headers,
    hook_header_lines,
    idempotency_line,
    parse_head,
    redelivery_header_lines,
)

IDENTITY = Identity(b"id-1", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01")
TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, section 3.2: version ff and all-zero ids are invalid."""
SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
OWN = (b"via", b"x-forwarded-for", b"x-forwarded-proto", b"x-request-id", b"traceparent")


Fields = Sequence[tuple[bytes, bytes]]


def lines_of(
    fields: Fields,
    policy: Policy | None = None,
    client: str | None = "192.0.2.7",
    scheme: str = "http",
    *,
    resigned: bool = False,
) -> bytes:
    """What is written for the backend, but for what each attempt adds."""
    compiled = CompiledPolicy(policy or Policy())
    return forward_headers(parse_head(tuple(fields)), compiled, client, scheme, resigned=resigned) + hook_header_lines(
        IDENTITY
    )


def sent_on(
    fields: Fields,
    policy: Policy | None = None,
    client: str | None = "192.0.2.7",
    scheme: str = "http",
    *,
    resigned: bool = False,
) -> Headers:
    """The same, as a backend reads it."""
    *lines, nothing = lines_of(fields, policy, client, scheme, resigned=resigned).split(b"\r\n")
    assert nothing == b"", "the last line ends like the others"
    pairs = [line.partition(b": ") for line in lines]
    assert all(colon for _, colon, _ in pairs)
    return tuple((name, value) for name, _, value in pairs)


def values_of(headers: Fields, name: bytes) -> list[bytes]:
    return [value for got, value in headers if got == name]


def identity_of(*fields: tuple[bytes, bytes]) -> Identity:
    return parse_head(fields).identity()


# --- what goes on ---


def test_end_to_end_fields_go_on_as_they_came_in_their_order() -> None:
    headers = [
        (b"accept", b"application/json"),
        (b"authorization", b"WCS 0123abcd"),
        (b"content-type", b"application/json;charset=UTF-8"),
        (b"x-own", b"one"),
        (b"cookie", b"a=b"),
        (b"x-own", b"two \xe9"),
        (b"user-agent", b"Java/1.8.0_111"),
    ]
    assert [pair for pair in sent_on(headers) if pair[0] not in OWN] == headers


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_a_hop_by_hop_field_stays_on_its_hop(name: bytes) -> None:
    assert values_of(sent_on([(name, b"x"), (b"accept", b"*/*")]), name) == []


def test_the_fields_of_rfc_9110_are_known_as_hop_by_hop() -> None:
    listed = b"connection proxy-connection keep-alive te trailer transfer-encoding upgrade"
    assert set(listed.split()) <= HOP_BY_HOP


@pytest.mark.parametrize(
    "connection",
    [
        [b"x-secret"],
        [b"X-Secret"],
        [b"close, X-SECRET"],
        [b" ,x-secret\t, keep-alive"],
        [b"keep-alive", b"x-secret"],
        [b"x-other,x-secret,"],
    ],
)
def test_a_field_that_connection_lists_stays_on_its_hop(connection: list[bytes]) -> None:
    headers = [(b"x-secret", b"1"), *((b"connection", value) for value in connection), (b"x-kept", b"2")]
    on = sent_on(headers)
    assert values_of(on, b"x-secret") == []
    assert values_of(on, b"x-kept") == [b"2"]


def test_listing_the_gateway_s_own_fields_in_connection_does_not_remove_them() -> None:
    on = sent_on([(b"connection", b", ".join(OWN) + b", authorization")], Policy("preserve", credentials=("u", "p")))
    assert Counter(name for name, _ in on) == Counter([*OWN, b"authorization"])


@pytest.mark.parametrize(
    "name",
    [
        b"host", b"content-length", b"accept-encoding", b"x-forwarded-host", b"forwarded", b"x-request-timeout-ms",
        b"set-cookie",
    ],
)  # fmt: skip
def test_what_the_gateway_sets_itself_or_nobody_behind_it_may_believe_is_not_sent_on(name: bytes) -> None:
    assert values_of(sent_on([(name, b"1")]), name) == []


def test_forged_forwarding_fields_give_way_to_the_true_ones() -> None:
    on = sent_on([(b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-proto", b"https"), (b"x-request-id", b"forged")])
    assert values_of(on, b"x-forwarded-for") == [b"192.0.2.7"]
    assert values_of(on, b"x-forwarded-proto") == [b"http"]
    assert values_of(on, b"x-request-id") == [IDENTITY.request_id]
    assert values_of(on, b"traceparent") == [IDENTITY.traceparent]


@pytest.mark.parametrize(("client", "shown"), [("2001:db8::1", b"2001:db8::1"), (None, b"unknown"), ("", b"unknown")])
def test_the_client_s_address_is_told_where_it_is_known(client: str | None, shown: bytes) -> None:
    assert values_of(sent_on([], client=client), b"x-forwarded-for") == [shown]


header_names = st.sampled_from(
    [
        *sorted(HOP_BY_HOP),
        *OWN,
        b"host",
        b"accept",
        b"x-own",
        b"authorization",
        b"cookie",
        b"x-forwarded-host",
        b"forwarded",
    ]
)
header_values = (
    st.binary(max_size=30)
    .map(lambda value: value.translate(None, b"\r\n\0"))  # the front door lets none in
    .filter(lambda value: PSEUDONYM not in value)
)
header_lists = st.lists(
    st.tuples(header_names, header_values)
    | st.tuples(st.just(b"connection"), st.lists(header_names, max_size=4).map(b",".join)),
    max_size=12,
)


@given(header_lists, st.sampled_from(["target", "preserve", "fixed.example"]))
def test_whatever_a_client_sends_each_field_of_the_gateway_s_is_there_once(headers: Fields, host: str) -> None:
    on = sent_on(headers, Policy(host))
    counts = Counter(name for name, _ in on)
    assert {name: counts[name] for name in OWN} == dict.fromkeys(OWN, 1)
    assert not counts.keys() & {*HOP_BY_HOP, b"host"}
    listed = {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
    ours = set(OWN)
    assert [pair for pair in on if pair[0] not in ours] == [
        pair
        for pair in headers
        if pair[0] in {b"accept", b"x-own", b"authorization", b"cookie"} and pair[0] not in listed
    ]


# --- Host, Via ---


CLIENT: Headers = ((b"accept", b"*/*"), (b"host", b"client.example:8080"))


@pytest.mark.parametrize(
    ("host", "headers", "sent"),
    [
        ("fixed.example", CLIENT, b"fixed.example"),
        ("fixed.example", (), b"fixed.example"),
        ("preserve", CLIENT, b"client.example:8080"),
        ("preserve", (), None),  # HTTP/1.0 may leave it out; None = the target's own
        ("target", CLIENT, None),
        ("target", (), None),
    ],
)
def test_the_host_is_the_policy_s_or_the_client_s_or_the_target_s(
    host: str, headers: Headers, sent: bytes | None
) -> None:
    assert CompiledPolicy(Policy(host)).host(parse_head(headers)) == sent


def test_the_gateway_adds_itself_to_the_end_of_via() -> None:
    assert values_of(sent_on([]), b"via") == [b"1.1 " + PSEUDONYM]
    chained = sent_on([(b"via", b"1.0 first"), (b"via", b"1.1 second (x)")])
    assert values_of(chained, b"via") == [b"1.0 first, 1.1 second (x), 1.1 " + PSEUDONYM]


def test_a_hook_that_passed_another_gateway_is_no_loop() -> None:
    other = PSEUDONYM[:-8] + bytes(reversed(PSEUDONYM[-8:-1])) + b"x"
    assert values_of(sent_on([(b"via", b"1.1 " + other)]), b"via")[0].endswith(PSEUDONYM)


@pytest.mark.parametrize("before", [[], [b"1.1 other"]])
def test_a_hook_that_comes_back_is_a_loop(before: list[bytes]) -> None:
    first = sent_on([(b"via", value) for value in before])
    with pytest.raises(LoopError, match="leads back"):
        sent_on([*first, (b"via", b"1.1 last")])


# --- the upstream's own rules ---


def test_configured_fields_take_the_place_of_the_client_s_in_any_case() -> None:
    policy = Policy(headers=encode_headers({"X-Api-Key": "ours", "Authorization": "Bearer ours"}))
    on = sent_on([(b"x-api-key", b"theirs"), (b"x-api-key", b"again"), (b"authorization", b"WCS 00")], policy)
    assert values_of(on, b"x-api-key") == [b"ours"]
    assert values_of(on, b"authorization") == [b"Bearer ours"]


@given(st.text(min_size=1).filter(lambda text: ":" not in text), st.text())
def test_credentials_take_the_place_of_the_client_s_as_basic_ones_in_utf_8(username: str, password: str) -> None:
    on = sent_on([(b"authorization", b"WCS 00")], Policy(credentials=(username, password)))
    (value,) = values_of(on, b"authorization")
    scheme, _, token = value.partition(b" ")
    assert scheme == b"Basic"
    assert base64.b64decode(token, validate=True).decode("utf-8") == f"{username}:{password}"


SIGNED: Fields = [(b"accept", b"*/*"), (b"authorization", b"WCS 00"), (b"authorization", b"Basic again")]


@pytest.mark.parametrize(
    "policy", [Policy(), Policy(credentials=("u", "p")), Policy(headers=((b"Authorization", b"x"),))]
)
def test_a_hook_that_is_signed_anew_takes_no_authorization_along(policy: Policy) -> None:
    on = sent_on(SIGNED, policy, resigned=True)
    assert values_of(on, b"authorization") == []
    assert values_of(on, b"accept") == [b"*/*"]


def test_a_hook_that_is_not_signed_anew_keeps_its_authorization() -> None:
    assert values_of(sent_on(SIGNED), b"authorization") == [b"WCS 00", b"Basic again"]


# --- no line more than one per field ---


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r", b"\n\r", b"\0", b"\r\n "])
@pytest.mark.parametrize("place", [b"%bx-b: 1", b"a%bx-b: 1", b"a%b"])
def test_a_value_with_a_line_break_is_never_written(place: bytes, end: bytes) -> None:
    with pytest.raises(ValueError, match="two lines"):
        lines_of([(b"x-a", place % end)])
    with pytest.raises(ValueError, match="two lines"):
        lines_of([], Policy(headers=((b"X-A", place % end),)))


@pytest.mark.parametrize("name", [b"x-a\r\nx-b", b"x-a\nx-b", b"x-a\r"])
def test_a_name_with_a_line_break_is_never_written(name: bytes) -> None:
    with pytest.raises(ValueError, match="two lines"):
        lines_of([(name, b"1")], Policy(keep_underscores=True))
    assert name not in lines_of([(name, b"1")])


def test_a_line_break_in_one_field_is_not_made_up_for_by_another() -> None:
    with pytest.raises(ValueError, match="two lines"):
        lines_of([(b"x-a", b"1\r"), (b"x-b", b"\n2")])


# --- what is remembered of a head ---
@given(header_lists, st.sampled_from(["target", "preserve", "fixed.example"]), st.booleans())
def test_what_is_remembered_is_what_is_worked_out(headers: Fields, host: str, resigned: bool) -> None:
    fields, policy = tuple(headers), CompiledPolicy(Policy(host))
    forward_headers(parse_head(fields), policy, "192.0.2.7", "http", resigned=resigned)
    remembered = forward_headers(parse_head(fields), policy, "192.0.2.7", "http", resigned=resigned)
    assert remembered == forward_headers.__wrapped__(
        RequestHead(fields), policy, "192.0.2.7", "http", resigned=resigned
    )
    fresh = RequestHead(fields)
    assert all(getattr(parse_head(fields), name) == getattr(fresh, name) for name in RequestHead.__slots__)


def test_one_head_goes_on_as_each_upstream_client_and_scheme_has_it() -> None:
    received = parse_head(tuple(SIGNED))
    ours, theirs = CompiledPolicy(Policy(credentials=("u", "p"))), CompiledPolicy(Policy())
    written = {
        forward_headers(received, policy, client, scheme, resigned=resigned)
        for policy in (ours, theirs)
        for client in ("192.0.2.7", "192.0.2.8", None)
        for scheme in ("http", "https")
        for resigned in (True, False)
    }
    assert len(written) == 3 * 2 * 3, "signed anew, the two upstreams' are alike"


def test_a_head_that_changes_without_end_fills_no_memory() -> None:
    policy = CompiledPolicy(Policy())
    for number in range(2000):
        forward_headers(parse_head(((b"x-number", b"%d" % number),)), policy, None, "http")
    for cache in (parse_head.cache_info(), forward_headers.cache_info()):
        assert cache.maxsize is not None
        assert cache.currsize <= cache.maxsize < 2000


# --- the hook's names ---
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"x-request-id", b"traceparent", b"x-other"]),
            st.binary(max_size=140) | st.from_regex(SANE_ID) | st.from_regex(TRACEPARENT),
        ),
        max_size=5,
    )
)
def test_no_request_makes_an_id_that_is_not_sane_or_a_trace_context_that_is_not_valid(headers: Fields) -> None:
    identity = identity_of(*headers)
    assert SANE_ID.fullmatch(identity.request_id)
    assert TRACEPARENT.fullmatch(identity.traceparent)


@pytest.mark.parametrize("given_id", [b"a", b"0f8fad5b-d9cb-469f-a165-70867728950e", b"x" * 128, b"1.2:3/4+5=6@7_8-9"])
def test_a_sane_id_is_kept(given_id: bytes) -> None:
    assert identity_of((b"x-request-id", given_id)).request_id == given_id


@pytest.mark.parametrize(
    "given_id", [b"", b"x" * 129, b"a b", b"a\r\nb", b"a\n", b"\xc3\xa9", b"a,b", b'"a"', b"<a>", b"a;b", b"\x00"]
)
def test_any_other_id_is_replaced(given_id: bytes) -> None:
    made = identity_of((b"x-request-id", given_id)).request_id
    assert re.fullmatch(rb"[0-9a-f]{32}", made)


@pytest.mark.parametrize(
    "given_context",
    [
        b"",
        b"00-" + b"0" * 32 + b"-" + b"2" * 16 + b"-01",
        b"00-" + b"1" * 32 + b"-" + b"0" * 16 + b"-01",
        b"ff-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01",
        b"00-" + b"A" * 32 + b"-" + b"2" * 16 + b"-01",
        b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01\n",
        b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01-extra",
        b"00-" + b"1" * 31 + b"-" + b"2" * 16 + b"-01",
    ],
)
def test_a_broken_trace_context_is_started_anew(given_context: bytes) -> None:
    made = identity_of((b"traceparent", given_context)).traceparent
    assert made != given_context
    assert TRACEPARENT.fullmatch(made)


def test_a_valid_trace_context_is_kept() -> None:
    assert identity_of((b"traceparent", IDENTITY.traceparent)).traceparent == IDENTITY.traceparent


def test_the_state_of_a_kept_trace_goes_on_with_it() -> None:
    headers = [(b"traceparent", IDENTITY.traceparent), (b"tracestate", b"vendor=1")]
    assert values_of(sent_on(headers), b"tracestate") == [b"vendor=1"]


@pytest.mark.parametrize("headers", [[], [(b"traceparent", b"broken")]])
def test_the_state_of_a_trace_that_was_not_kept_is_dropped(headers: Fields) -> None:
    # W3C Trace Context, section 4.3: a new trace deletes the tracestate of the old one.
    assert values_of(sent_on([*headers, (b"tracestate", b"vendor=1")]), b"tracestate") == []


def test_a_coded_body_is_told_by_its_head() -> None:
    assert not parse_head(()).coded
    assert not parse_head(((b"content-encoding", b"Identity"),)).coded
    for coding in (b"gzip", b"GZIP", b"br", b"identity, gzip", b""):
        assert parse_head(((b"content-encoding", coding),)).coded
    assert parse_head(((b"content-encoding", b"identity"), (b"content-encoding", b""))).coded


def test_two_hooks_with_the_same_head_have_names_of_their_own() -> None:
    one, other = parse_head(CLIENT).identity(), parse_head(CLIENT).identity()
    assert one.request_id != other.request_id
    assert one.traceparent != other.traceparent


def test_the_first_sane_name_is_the_one_that_counts() -> None:
    ids = [(b"x-request-id", value) for value in (b"not sane", b"first", b"second")]
    other = IDENTITY.traceparent.replace(b"2", b"3")
    traces = [(b"traceparent", value) for value in (b"broken", IDENTITY.traceparent, other)]
    assert identity_of(*ids, *traces) == Identity(b"first", IDENTITY.traceparent)


def test_ids_that_the_gateway_makes_differ() -> None:
    made = [identity_of() for _ in range(1000)]
    assert len({identity.request_id for identity in made}) == 1000
    assert len({identity.traceparent for identity in made}) == 1000


def test_a_client_cannot_say_which_event_a_hook_is() -> None:
    forged = [(name, b"x") for name in (b"idempotency-key", b"x-gateway-redelivery", b"x-gateway-event-time")]
    kept = [*sent_on(forged), *sent_on([(b"idempotency_key", b"x")], Policy(keep_underscores=True))]
    assert not [name for name, _ in kept if b"idempotency" in name or name.startswith(b"x-gateway")]


def test_an_event_is_recognised_by_its_request_id() -> None:
    assert idempotency_line(b"id-1") == b"idempotency-key: id-1\r\n"


@given(st.integers(1, 1000), st.integers(0, 4 * 10**12))
def test_a_late_event_says_its_attempt_and_its_time(attempt: int, milliseconds: int) -> None:
    lines = redelivery_header_lines(attempt, milliseconds / 1000).decode()
    number, time = (line.partition(": ")[2] for line in lines.split("\r\n")[:2])
    assert int(number) == attempt
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)  # RFC 3339, section 5.6
    assert abs(datetime.fromisoformat(time).timestamp() - milliseconds / 1000) <= 0.001
    assert lines.endswith("\r\n")
