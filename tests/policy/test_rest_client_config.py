"""What an answer to connect sets, and the few bytes that are put into it where more is wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.hooks import MethodType, is_json_object
from gateway.policy.rest_client_config import OUTCOMES, ClientConfig, Examined, Mode, examine, ineffective

ENFORCE = ClientConfig(Mode.ENFORCE)
WARN = ClientConfig()
FAIL = b'{"restOnError":"FAIL"}'
ADDED = b'"restClientConfig":{"OnCallEvent":' + FAIL + b"}"


def enforced(body: bytes, methods: Mapping[str, Mapping[str, str]] | None = None) -> Examined:
    return examine(body, ENFORCE if methods is None else ClientConfig(Mode.ENFORCE, methods))


# --- what is put in, and where ---


@pytest.mark.parametrize(
    ("body", "amended"),
    [
        (b"{}", b"{%b}" % ADDED),
        (b" {\n} \n", b" {%b\n} \n" % ADDED),
        (b'{"a" : 1.50e+3 ,\r\n\t"b":"\\/\\u00e9"  }', b'{"a" : 1.50e+3 ,\r\n\t"b":"\\/\\u00e9",%b  }' % ADDED),
        (b'{"restClientConfig":{}}', b"{%b}" % ADDED),
        (b'{"restClientConfig": { } ,"z":[]}', b'{"restClientConfig": {"OnCallEvent":%b } ,"z":[]}' % FAIL),
        (b'{"restClientConfig":{"call":{}}}', b'{"restClientConfig":{"call":{},"OnCallEvent":%b}}' % FAIL),
        (b'{"restClientConfig":{"OnCallEvent":{}}}', b"{%b}" % ADDED),
        (
            b'{"restClientConfig":{"OnCallEvent":{"restPolicy":"NOTIFY"}}}',
            b'{"restClientConfig":{"OnCallEvent":{"restPolicy":"NOTIFY","restOnError":"FAIL"}}}',
        ),
        (
            b'{"restClientConfig":{"OnCallEvent":{"restOnError" : "LOG" , "restPolicy":"NOTIFY"}}}',
            b'{"restClientConfig":{"OnCallEvent":{"restOnError" : "FAIL" , "restPolicy":"NOTIFY"}}}',
        ),
        (b'{"restClientConfig":{"OnCallEvent":{"restOnError":null}}}', b"{%b}" % ADDED),
        (b'{"restClientConfig":{"OnCallEvent":{"restOnError":"fail"}}}', b"{%b}" % ADDED),
        (b'{"restClientConfig":{"OnCallEvent":{"restOnError":{"a":["}"]}}}}', b"{%b}" % ADDED),
    ],
)
def test_exactly_what_is_wanted_is_added_and_every_other_byte_stays(body: bytes, amended: bytes) -> None:
    assert enforced(body) == Examined("enforced", amended, frozenset({"OnCallEvent"}))


@pytest.mark.parametrize("nothing", [b"null", b"[]", b'"FAIL"', b"0", b"true", b'[{"restOnError":"FAIL"}]'])
def test_what_is_no_object_sets_nothing_and_gives_way_to_one(nothing: bytes) -> None:
    assert enforced(b'{"restClientConfig":%b,"z":1}' % nothing).body == b'{%b,"z":1}' % ADDED
    assert enforced(b'{"restClientConfig":{"OnCallEvent":%b}}' % nothing).body == b"{%b}" % ADDED
    assert examine(b'{"restClientConfig":{"OnCallEvent":%b}}' % nothing, WARN).failing == frozenset()


def test_of_a_name_that_stands_twice_the_last_counts_and_is_amended() -> None:
    log, fail = b'{"restOnError":"LOG"}', FAIL
    first = b'{"restClientConfig":{"OnCallEvent":%b},"restClientConfig":{"OnCallEvent":%b}}'
    assert enforced(first % (fail, log)).body == first % (fail, fail)
    assert enforced(first % (log, fail)) == Examined("ok", first % (log, fail), frozenset({"OnCallEvent"}))
    method = b'{"restClientConfig":{"OnCallEvent":%b,"OnCallEvent":%b}}'
    assert enforced(method % (fail, b"null")).body == method % (fail, fail)
    field = b'{"restClientConfig":{"OnCallEvent":{"restOnError":"%b","restOnError":"%b"}}}'
    assert enforced(field % (b"FAIL", b"LOG")).body == field % (b"FAIL", b"FAIL")
    assert enforced(field % (b"LOG", b"FAIL")).outcome == "ok"


def test_a_name_is_the_same_however_it_is_spelt() -> None:
    body = b'{"rest\\u0043lientConfig":{"\\u004fnCallEvent":{"restOn\\u0045rror":"%b"}}}'
    assert enforced(body % b"LOG").body == body % b"FAIL"
    assert enforced(body % b"F\\u0041IL") == Examined("ok", body % b"F\\u0041IL", frozenset({"OnCallEvent"}))


def test_fail_is_never_lowered() -> None:
    body = b'{"restClientConfig":{"call":{"restOnError":"FAIL"}}}'
    assert enforced(body, {"call": {"restOnError": "LOG"}}) == Examined("ok", body, frozenset({"call"}))


def test_what_the_media_server_takes_by_itself_need_not_be_said() -> None:
    wanted = {"call": {"restOnError": "LOG", "restPolicy": "NOTIFY", "restExclude": ""}}
    assert enforced(b"{}", wanted) == Examined("ok", b"{}", frozenset())
    assert enforced(b'{"restClientConfig":{"call":null}}', wanted).outcome == "ok"
    policy = b'{"restClientConfig":{"call":{"restPolicy":"%b"}}}'
    assert enforced(policy % b"DISABLE", wanted).body == policy % b"NOTIFY"


def test_the_policy_changes_only_where_it_is_wanted() -> None:
    body = b'{"restClientConfig":{"OnCallEvent":{"restPolicy":"NOTIFY","restOverwrite":"callee"}}}'
    assert json.loads(enforced(body).body)["restClientConfig"]["OnCallEvent"]["restPolicy"] == "NOTIFY"
    overwrite = enforced(body, {"OnCallEvent": {"restPolicy": "OVERWRITE"}})
    assert overwrite.body == body.replace(b"NOTIFY", b"OVERWRITE")
    assert overwrite.failing == frozenset()


@pytest.mark.parametrize(
    ("present", "wanted", "after"),
    [
        (b'"callee"', "caller", b'"callee,caller"'),
        (b'"callee, caller"', "caller", b'"callee, caller"'),
        (b'""', "caller,callee", b'"caller,callee"'),
        (b'" "', "caller", b'"caller"'),
        (b'"a"', "b,a,c", b'"a,b,c"'),
        (b"null", "caller", b'"caller"'),
        (b'"callers"', "caller", b'"callers,caller"'),
        (b'"caller"', "", b'"caller"'),
    ],
)
@pytest.mark.parametrize("field", ["restExclude", "restOverwrite", "clientExclude"])
def test_names_are_added_to_a_list_and_none_taken_from_it(
    field: str, present: bytes, wanted: str, after: bytes
) -> None:
    body = b'{"restClientConfig":{"call":{"%b": %b }}}' % (field.encode(), present)
    assert enforced(body, {"call": {field: wanted}}).body == body.replace(present, after)


def test_several_methods_are_added_in_one_place() -> None:
    wanted = {"OnCallEvent": {"restOnError": "FAIL"}, "call": {"restOnError": "FAIL", "restPolicy": "OVERWRITE"}}
    got = enforced(b'{"restClientConfig":{"x":1}}', wanted)
    assert got.body == (
        b'{"restClientConfig":{"x":1,"OnCallEvent":{"restOnError":"FAIL"},'
        b'"call":{"restOnError":"FAIL","restPolicy":"OVERWRITE"}}}'
    )
    assert got.failing == {"OnCallEvent", "call"}


# --- what is only told ---


def test_warn_tells_and_leaves_the_answer_as_it_is() -> None:
    for body in (b"{}", b'{"restClientConfig":{"OnCallEvent":{"restOnError":"LOG"}}}'):
        assert examine(body, WARN) == Examined("missing", body, frozenset())
    said = b'{"restClientConfig":{"OnCallEvent":{"restOnError":"FAIL"},"call":{"restOnError":"LOG"}}}'
    assert examine(said, WARN) == Examined("ok", said, frozenset({"OnCallEvent"}))


def test_off_reads_and_wants_nothing() -> None:
    assert examine(b"{}", ClientConfig(Mode.OFF)) == Examined("ok", b"{}", frozenset())


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"Notice: x {}", b"\xef\xbb\xbf{}", b'{"a":1', b'{"a":1}}', b'{"a":"\xff"}', b"{'a':1}"],
)
def test_what_is_not_one_json_object_goes_out_as_it_came(body: bytes) -> None:
    assert enforced(body) == Examined("unreadable", body, frozenset())


@given(
    st.binary(max_size=60)
    | st.text(alphabet='{}[]":, \\nulrestOnErrorFAILClientConfigCall', max_size=80).map(str.encode)
)
def test_any_bytes_have_an_outcome_and_only_a_json_object_is_amended(body: bytes) -> None:
    got = enforced(body)
    assert got.outcome in OUTCOMES
    assert (got.outcome == "unreadable") is not is_json_object(body)
    assert is_json_object(got.body) or got.body == body


# --- a model: the same text, put together from parts ---


class Member(NamedTuple):
    key: str
    spelt: str
    gaps: tuple[str, str, str, str]
    """The white space before and after the name, and before and after the value."""
    value: Node


class Node(NamedTuple):
    """A value: its text, or its members."""

    text: str
    members: tuple[Member, ...] | None = None

    def write(self) -> str:
        if self.members is None:
            return self.text
        parts = [f"{a}{spelt}{b}:{c}{value.write()}{d}" for _, spelt, (a, b, c, d), value in self.members]
        return "{" + (",".join(parts) or self.text) + "}"

    def put(self, key: str, value: Node) -> Node:
        """With this value in place of the last of that name, or behind all others."""
        assert self.members is not None
        places = [place for place, member in enumerate(self.members) if member.key == key]
        if places:
            changed = list(self.members)
            changed[places[-1]] = changed[places[-1]]._replace(value=value)
            return self._replace(members=tuple(changed))
        if not self.members:
            return Node("", (Member(key, json.dumps(key), ("", "", "", self.text), value),))
        *others, last = self.members
        a, b, c, d = last.gaps
        new = Member(key, json.dumps(key), ("", "", "", d), value)
        return self._replace(members=(*others, last._replace(gaps=(a, b, c, "")), new))

    def get(self, key: str) -> Node | None:
        """The last of that name."""
        return next((member.value for member in reversed(self.members or ()) if member.key == key), None)


GAPS = st.text(" \t\r\n", max_size=2)


@st.composite
def spelt(draw: st.DrawFn, text: str) -> str:
    """A string's text, any of its characters escaped."""
    written = json.dumps(text, ensure_ascii=draw(st.booleans()))
    if text.isascii() and text.isalnum() and text and draw(st.integers(0, 5)) == 0:
        at = draw(st.integers(0, len(text) - 1))
        written = f'"{text[:at]}\\u{ord(text[at]):04x}{text[at + 1 :]}"'
    return written


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SCALARS = st.one_of(
    st.sampled_from(["null", "true", "0", "-1.50E+3", "1e400", '""', "[]", "[ {} ]", "{}", '"a\\/b\\ud83d\\ude00"']),
    TEXTS.flatmap(spelt),
    st.lists(TEXTS.flatmap(spelt), max_size=3).map(lambda items: "[" + " , ".join(items) + "]"),
    st.recursive(st.integers(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=5).map(
        json.dumps
    ),
).map(Node)


@st.composite
def objects(draw: st.DrawFn, names: st.SearchStrategy[str], values: st.SearchStrategy[Node], *, least: int = 0) -> Node:
    members = [
        Member(name, draw(spelt(name)), (draw(GAPS), draw(GAPS), draw(GAPS), draw(GAPS)), draw(values))
        for name in draw(st.lists(names, min_size=least, max_size=4))
    ]
    return Node("" if members else draw(GAPS), tuple(members))


METHODS = st.sampled_from(["OnCallEvent", "call"])
LEAVES = st.sampled_from(["LOG", "FAIL", "NOTIFY", "OVERWRITE", "caller,callee", "callee", ""]).flatmap(spelt).map(Node)
FIELDS = st.sampled_from(["restOnError", "restPolicy", "restOverwrite", "restExclude"])
SETTINGS = objects(FIELDS, LEAVES | SCALARS, least=2) | objects(FIELDS | TEXTS, LEAVES)
SECTIONS = objects(METHODS, SETTINGS, least=2) | objects(METHODS | TEXTS, SETTINGS | SCALARS)
ANSWERS = objects(st.just("restClientConfig"), SECTIONS, least=1) | objects(
    st.just("restClientConfig") | TEXTS, SECTIONS | SCALARS
)
VALUES = st.fixed_dictionaries(
    {"restOnError": st.sampled_from(["LOG", "FAIL"])},
    optional={
        "restPolicy": st.sampled_from(["NOTIFY", "OVERWRITE", "DISABLE"]),
        "restOverwrite": st.sampled_from(["", "caller", "callee,caller", "sdp"]),
    },
)
OTHERS = st.fixed_dictionaries({}, optional={"restPolicy": st.sampled_from(["NOTIFY", "OVERWRITE"])})
WANTED = st.fixed_dictionaries({"OnCallEvent": VALUES}, optional={"call": OTHERS | VALUES, "sendMessage": VALUES})
DEFAULTS = {"restOnError": "LOG", "restPolicy": "NOTIFY", "restOverwrite": ""}


def written(value: Any) -> Node:
    """What the gateway itself writes."""
    if isinstance(value, str):
        return Node(json.dumps(value, ensure_ascii=False))
    return Node("", tuple(Member(key, json.dumps(key), ("",) * 4, written(part)) for key, part in value.items()))


def better(field: str, node: Node, wanted: str) -> str | None:
    """What is to stand there instead."""
    present = None if node.members is not None else json.loads(node.text)
    if field == "restOnError":
        return "FAIL" if wanted == "FAIL" and present != "FAIL" else None
    if field == "restOverwrite" and isinstance(present, str):
        there = [name.strip() for name in present.split(",") if name.strip()]
        lacking = [name for name in wanted.split(",") if name and name not in there]
        return None if not lacking else ",".join(([present] if there else []) + lacking)
    return None if present == wanted else wanted


def model(answer: Node, wanted: Mapping[str, Mapping[str, str]]) -> Node:
    """The answer with what is wanted put in, field by field."""
    needed = {m: {f: v for f, v in fields.items() if v != DEFAULTS[f]} for m, fields in wanted.items()}
    needed = {method: fields for method, fields in needed.items() if fields}
    section = answer.get("restClientConfig")
    if section is None or not section.write().startswith("{"):
        return answer.put("restClientConfig", written(needed)) if needed else answer
    section = as_object(section)
    for method, fields in wanted.items():
        settings = section.get(method)
        if settings is None or not settings.write().startswith("{"):
            if method in needed:
                section = section.put(method, written(needed[method]))
            continue
        settings = as_object(settings)
        for field, value in fields.items():
            there = settings.get(field)
            if there is None:
                if value != DEFAULTS[field]:
                    settings = settings.put(field, written(value))
            elif (new := better(field, there, value)) is not None:
                settings = settings.put(field, written(new))
        section = section.put(method, settings)
    return answer.put("restClientConfig", section)


def as_object(node: Node) -> Node:
    """An object that was made as text, such as ``{}``, in parts; its white space is json.dumps's."""
    if node.members is not None:
        return node
    pairs: list[tuple[str, Any]] = list(json.loads(node.text).items())
    members = tuple(
        Member(key, json.dumps(key), (" " if place else "", "", " ", ""), Node(json.dumps(value)))
        for place, (key, value) in enumerate(pairs)
    )
    return Node("", members)


def failing_of(body: bytes) -> set[str]:
    """The methods that fail, by Python's reading of it."""
    section = json.loads(body).get("restClientConfig")
    if not isinstance(section, dict):
        return set()
    return {m for m, s in section.items() if isinstance(s, dict) and s.get("restOnError") == "FAIL"}


@given(ANSWERS, GAPS, GAPS, WANTED)
def test_an_amended_answer_is_the_same_text_with_the_wanted_fields_in_it(
    answer: Node, before: str, after: str, methods: dict[str, dict[str, str]]
) -> None:
    body = f"{before}{answer.write()}{after}".encode()
    got = enforced(body, methods)
    expected = f"{before}{model(answer, methods).write()}{after}".encode()
    assert got.body == expected
    assert got.outcome == ("ok" if expected == body else "enforced")
    assert got.failing == failing_of(got.body)
    assert enforced(got.body, methods) == Examined("ok", got.body, got.failing), "once is enough"
    told = examine(body, ClientConfig(Mode.WARN, methods))
    assert told == Examined("ok" if expected == body else "missing", body, frozenset(failing_of(body)))


@given(ANSWERS, WANTED)
def test_an_amended_answer_means_the_same_but_for_the_wanted_fields(
    answer: Node, methods: dict[str, dict[str, str]]
) -> None:
    body = answer.write().encode()
    before, after = json.loads(body), json.loads(enforced(body, methods).body)
    section = after.get("restClientConfig")
    for method, fields in methods.items():
        settings = section.get(method) if isinstance(section, dict) else None
        for field, value in fields.items():
            got = settings.get(field, DEFAULTS[field]) if isinstance(settings, dict) else DEFAULTS[field]
            if field == "restOverwrite":
                names = [] if not isinstance(got, str) else [name.strip() for name in got.split(",")]
                assert {name for name in value.split(",") if name} <= set(names)
            elif field != "restOnError" or value == "FAIL":
                assert got == value
    assert stripped(after, methods) == stripped(before, methods)


def stripped(answer: dict[str, Any], methods: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Without what is wanted, and without what then is empty or was no object."""
    section = answer.pop("restClientConfig", None)
    if isinstance(section, dict):
        for method, fields in methods.items():
            settings = section.pop(method, None)
            if isinstance(settings, dict) and (rest := {f: v for f, v in settings.items() if f not in fields}):
                section[method] = rest
        answer["restClientConfig"] = section
    if not isinstance(section, dict) or not section:
        answer.pop("restClientConfig", None)
    return answer


# --- what comes from a client must not decide ---


def test_adversarial_what_a_client_wrote_into_a_field_of_the_answer_is_not_the_answer_s_own() -> None:
    config = '{"restClientConfig":{"OnCallEvent":{"restOnError":"FAIL"}}}'
    for field in (json.loads(config), config, [json.loads(config)], {"a}": '"' + config}):
        body = json.dumps({"custom": field, "restClientConfig": {"OnCallEvent": {"restOnError": "LOG"}}, "z": field})
        assert examine(body.encode(), WARN).failing == frozenset()
        got = json.loads(enforced(body.encode()).body)
        assert got["restClientConfig"] == {"OnCallEvent": {"restOnError": "FAIL"}}
        assert got["custom"] == got["z"] == field
        nested = json.dumps({"restClientConfig": {"custom": field, "OnCallEvent": {"custom": field}}})
        assert examine(nested.encode(), WARN).failing == frozenset()


@pytest.mark.parametrize("depth", [*range(880, 1010, 3), 5_000, 50_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_adversarial_no_depth_of_nesting_gets_past_what_is_enforced(depth: int, opening: str, closing: str) -> None:
    deep = f"{opening * depth}1{closing * depth}"
    for body in (
        f'{{"custom":{deep}}}',
        f'{{"custom":{deep},"restClientConfig":{{"OnCallEvent":{{"restOnError":"LOG"}}}}}}',
        f'{{"restClientConfig":{{"OnCallEvent":{{"restOnError":{deep}}}}},"z":1}}',
    ):
        got = enforced(body.encode())
        assert got.outcome == "enforced"
        assert got.failing == {"OnCallEvent"}
        assert b'"restOnError":"FAIL"' in got.body
        assert enforced(got.body).outcome == "ok"


def test_adversarial_a_large_answer_is_gone_through_once() -> None:
    for filling in (
        b"[]," * 60_000 + b"0",
        b'"\\\\\\"",' * 30_000 + b"0",
        b'{"a":[[],{}]},' * 15_000 + b"0",
        b"[[[ " * 20_000,
    ):
        ends = b"]]]" * 20_000 if filling.endswith(b" ") else b""
        body = b'{"custom":[%b%b],"restClientConfig":{}}' % (filling, ends)
        assert enforced(body).body == body[:-3] + b'{"OnCallEvent":%b}}' % FAIL


# --- what it means ---


@pytest.mark.parametrize("kind", MethodType)
@pytest.mark.parametrize("stops", [True, False, None])
def test_only_a_refusal_that_is_known_to_stop_nothing_is_ineffective(kind: MethodType, stops: bool | None) -> None:
    expected = stops is False and kind in {MethodType.DIRECT, MethodType.INCOMING}
    assert ineffective(kind, stops) is expected


def test_refusals_stop_whatever_the_backend_says_only_where_that_is_enforced() -> None:
    assert ENFORCE.stops("OnCallEvent") is True
    assert ENFORCE.stops("call") is None
    assert WARN.stops("OnCallEvent") is None
    assert ClientConfig(Mode.ENFORCE, {"call": {"restPolicy": "NOTIFY"}}).stops("call") is None
