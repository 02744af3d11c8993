"""Rules: the first that a hook meets, found without trying them all."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.model.hooks import CATALOGUE, BadHookError, MethodType, method_type, parse_hook
from gateway.model.verdicts import Verdict
from gateway.policy.rules import matcher
from gateway.policy.rules.matcher import Rule, Rules, Windows, parse_windows

NOW = datetime(2026, 1, 5, 12, 30, tzinfo=UTC).timestamp()
"""A Monday."""
ALLOW, REJECT = Verdict.ALLOW, Verdict.REJECT


def rule(name: str = "", **conditions: object) -> Rule:
    return Rule(name, **{"verdict": REJECT, **conditions})  # type: ignore[arg-type]


def met(rules: list[Rule], body: bytes, method: str = "OnCallEvent", now: float = NOW) -> str | None:
    found = Rules(rules).match_hook(parse_hook(body), method, now)
    return None if found is None else found.name


def body_of(**fields: object) -> bytes:
    return json.dumps({"appKey": "a", **fields}).encode()


def meets(rules: list[Rule], **fields: object) -> str | None:
    return met(rules, body_of(**fields))


# --- conditions ---


def test_without_rules_nothing_is_met() -> None:
    assert meets([], caller="1") is None


@pytest.mark.parametrize(
    ("glob", "caller", "expected"),
    [
        ("+4930123", "+4930123", True),
        ("+4930123", "+49301234", False),
        ("+4930*", "+4930123", True),
        ("+4930*", "+4930", True),
        ("+4930*", "+493", False),
        ("*123", "+4930123", True),
        ("+49*123", "+4930123", True),
        ("+49?0123", "+4930123", True),
        ("+49?0123", "+49300123", False),
        ("*", "anyone", True),
        ("[0-9]", "5", False),
        ("Alice", "ALICE", True),
        ("ALICE*", "alice@example.com", True),
        ("*Müller", "HERR MÜLLER", True),
    ],
)
def test_a_caller_is_met_by_its_number_a_beginning_of_it_or_a_glob(glob: str, caller: str, expected: bool) -> None:
    assert (meets([rule("r", caller=(glob,))], caller=caller) == "r") is expected
    assert (meets([rule("r", callee=(glob,))], callee=caller) == "r") is expected


def test_one_of_several_globs_is_enough() -> None:
    rules = [rule("r", callee=("110", "112", "19*", "*9"))]
    assert [number for number in ("110", "112", "199", "333", "339", "11") if meets(rules, callee=number)] == [
        "110", "112", "199", "339",
    ]  # fmt: skip


def test_all_conditions_of_a_rule_must_be_met() -> None:
    rules = [rule("r", caller=("1",), callee=("2",), methods=("OnCallEvent",), time=parse_windows("Mon 12:00-13:00"))]
    hook = body_of(caller="1", callee="2")
    assert met(rules, hook) == "r"
    assert met(rules, body_of(caller="2", callee="2")) is None
    assert met(rules, body_of(caller="1", callee="1")) is None
    assert met(rules, hook, "connect") is None
    assert met(rules, hook, now=NOW + 3600) is None


def test_methods_may_be_globs_in_upper_or_lower_case() -> None:
    rules = [rule("exact", methods=("connect",)), rule("glob", methods=("*statusevent",))]
    assert met(rules, body_of(), "connect") == "exact"
    assert met(rules, body_of(), "CallStatusEvent") == "glob"
    assert met(rules, body_of(), "OnCallEvent") is None


def test_the_first_rule_that_is_met_wins_however_it_is_found() -> None:
    by_glob, by_number = rule("glob", caller=("*1",)), rule("number", caller=("+491",))
    by_prefix, by_callee = rule("prefix", caller=("+49*",)), rule("callee", callee=("2",))
    by_method, by_time = rule("method", methods=("OnCallEvent",)), rule("time", time=parse_windows("Mon"))
    every = [by_glob, by_number, by_prefix, by_callee, by_method, by_time]
    for i in range(len(every)):
        rotated = every[i:] + every[:i]
        assert meets(rotated, caller="+491", callee="2") == rotated[0].name


def test_an_allowed_number_before_a_blocked_beginning_is_let_through() -> None:
    found = Rules([rule("vip", caller=("+49301",), verdict=ALLOW), rule("spam", caller=("+4930*",))]).match_hook(
        parse_hook(body_of(caller="+49301")), "OnCallEvent", NOW
    )
    assert found is not None
    assert (found.name, found.verdict, found.upstream) == ("vip", ALLOW, None)


# --- what the hook says ---


@pytest.mark.parametrize(
    ("json_text", "text"),
    [
        ('"+4930123"', "+4930123"),
        (r'"\u002b4930123"', "+4930123"),
        (r'"\u002B\u0034\u00399"', "+499"),
        (r'"sip:a\/b"', "sip:a/b"),
        ("4930123", "4930123"),
        ("-1", "-1"),
        ("4.930123e6", "4.930123e6"),
        ("true", "true"),
        ('{"a": 1}', '{"a": 1}'),
        ('""', ""),
        (r'"\ud83d\ude00"', "😀"),
    ],
)
def test_a_caller_is_the_text_that_the_backend_will_read(json_text: str, text: str) -> None:
    body = b'{"appKey":"a","caller":%b}' % json_text.encode()
    assert met([rule("r", caller=(text,))], body) == "r"


@pytest.mark.parametrize("fields", [{}, {"caller": None}])
def test_who_does_not_say_who_he_is_meets_no_condition_of_a_caller(fields: dict[str, object]) -> None:
    rules = [rule("first", caller=("*", "**", "?*", "", "null")), rule("last", methods=("OnCallEvent",))]
    assert meets(rules, **fields) == "last"
    assert meets([rule("r", caller=("*",), callee=("1",))], callee="1", **fields) is None
    assert meets([rule("r", callee=("1",), caller=("*",), methods=("OnCallEvent",))], callee="1", **fields) is None


def test_an_empty_caller_is_any_text_and_the_empty_one() -> None:
    assert meets([rule("r", caller=("*",))], caller="") == "r"
    assert meets([rule("r", caller=("",))], caller="") == "r"
    assert meets([rule("r", caller=("?*",))], caller="") is None


def test_adversarial_caller_who_stands_there_twice_is_the_last_one() -> None:
    """As PHP's json_decode and Python's json read it; and so for a key that hides behind escapes."""
    rules = [rule("last", caller=("2",)), rule("first", caller=("1",))]
    assert met(rules, b'{"appKey":"a","caller":"1","caller":"2"}') == "last"
    assert met(rules, rb'{"appKey":"a","caller":"1","c\u0061ller":"2"}') == "last"
    assert met(rules, rb'{"appKey":"a","c\u0061ller":"1","caller":"2"}') == "last"


def test_adversarial_caller_within_another_field_is_nobody() -> None:
    body = b'{"appKey":"a","callee":"\\"caller\\":\\"1\\"","x":{"caller":"1"}}'
    assert met([rule("r", caller=("1",))], body) is None


@pytest.mark.parametrize(
    "look_alike", ["+49301２3", "+4930l23", "+\u200b4930123", "＋4930123", "+4930123 ", "+4930\u066123"]
)
def test_adversarial_look_alikes_are_other_numbers(look_alike: str) -> None:
    """A rule blocks what it says; a caller who can choose any name can also choose one that matches nothing."""
    assert meets([rule("r", caller=("+4930123",))], caller=look_alike) is None


def test_adversarial_line_breaks_hide_no_number() -> None:
    assert meets([rule("r", caller=("+49*",))], caller="+49\n\r\n30") == "r"
    assert meets([rule("r", caller=("*30",))], caller="+49\n\r\n30") == "r"
    assert meets([rule("r", caller=("+49?30",))], caller="+49\n30") == "r"
    assert meets([rule("r", caller=("+4930",))], caller="+4930\n") is None


def test_adversarial_callee_of_a_megabyte_is_held_against_every_glob_to_its_end() -> None:
    rules = [rule(str(i), callee=(f"*a*b{i}*c",)) for i in range(100)]
    rules.append(rule("end", callee=("*" + "ab*" * 20 + "z",)))
    assert meets(rules, callee="ab" * 500_000 + "z") == "end"
    assert meets(rules, callee="ab" * 500_000) is None
    assert meets([rule("long", callee=("x" * 300 + "*",))], callee="x" * 1_000_000) == "long"


@pytest.mark.parametrize("half", [rb"\ud800", rb"\udc00", b"\xff", b"\x00"])
def test_adversarial_bytes_that_are_no_text_hide_no_number_for_the_hook_is_refused(half: bytes) -> None:
    with pytest.raises(BadHookError):
        parse_hook(b'{"appKey":"a","caller":"+4930123%b"}' % half)


# --- ten thousand rules ---


class Counted(matcher._Compiled):
    """Counts how many rules are tried."""

    tried = 0

    def matches(self, caller: str | None, callee: str | None, method: str, now: float) -> bool:
        Counted.tried += 1
        return super().matches(caller, callee, method, now)


@pytest.mark.parametrize(
    "rules",
    [
        [rule(str(i), caller=(f"+49{i}",)) for i in range(10_000)],
        [rule(str(i), callee=(f"+49{i}",)) for i in range(10_000)],
        [rule(str(i), caller=(f"+49{i:05}*",)) for i in range(10_000)],
        [rule(str(i), caller=("+49*",), callee=(f"+49{i}",)) for i in range(10_000)],
        [rule(str(i), caller=(f"+49{i:05}*",), callee=("+49*",), methods=("OnCallEvent",)) for i in range(10_000)],
        [rule(str(i), caller=(f"+49{i}", f"+33{i:05}*"), time=parse_windows("Mon")) for i in range(10_000)],
    ],
)
def test_adversarial_ten_thousand_numbers_are_looked_up_and_not_tried(
    rules: list[Rule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matcher, "_Compiled", Counted)
    compiled = Rules(rules)
    Counted.tried = 0
    for number in ("+4909999", "+499999", "+49", "110", ""):
        compiled.match(number, number, "OnCallEvent", NOW)
    assert Counted.tried <= 10


def test_windows_are_worked_out_once_a_minute_however_many_rules_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = parse_windows("Tue Europe/Berlin")
    rules = Rules([rule(str(i), time=windows) for i in range(50)])
    asked: list[float] = []
    is_open = Windows.is_open

    def noted(self: Windows, now: float) -> bool:
        asked.append(now)
        return is_open(self, now)

    monkeypatch.setattr(Windows, "is_open", noted)
    for second in (0.0, 0.5, 29.9):
        assert rules.match("", "", "connect", NOW + second) is None
    assert len(asked) == 1
    assert rules.match("", "", "connect", NOW + 60) is None
    assert len(asked) == 2
    found = rules.match("", "", "connect", NOW + 24 * 3600)
    assert found is not None
    assert rules.match("", "", "connect", NOW) is None
    assert len(asked) == 4


# --- the model ---


def obvious(rules: list[Rule], caller: str | None, callee: str | None, method: str, now: float) -> Rule | None:
    def matches(globs: tuple[str, ...], text: str | None) -> bool:
        return not globs or (text is not None and any(fnmatchcase(text.lower(), glob.lower()) for glob in globs))

    for one in rules:
        if (
            matches(one.caller, caller)
            and matches(one.callee, callee)
            and matches(one.methods, method)
            and (one.time is None or one.time.is_open(now))
        ):
            return one
    return None


TEXTS = st.text("1aB+", max_size=4)
GLOBS = st.lists(st.text("1aB+*?", max_size=4) | TEXTS | TEXTS.map(lambda text: text + "*"), max_size=3).map(tuple)
METHODS = st.sampled_from(["connect", "OnCallEvent", "call"])
TIMES = st.none() | st.sampled_from(["Mon", "Tue", "12:00-13:00 Europe/Berlin", "12:00-13:00"]).map(parse_windows)
RULES = st.lists(
    st.builds(
        Rule,
        st.just("r"),
        GLOBS,
        GLOBS,
        st.just(()) | st.lists(METHODS | st.sampled_from(["*call*", "c*"]), max_size=2).map(tuple),
        TIMES,
        st.just(REJECT),
    ),
    max_size=12,
)


@given(RULES, st.none() | TEXTS, st.none() | TEXTS, METHODS, st.integers(0, 3))
@example([rule("r", caller=("",)), rule("s", caller=("*",))], "", "", "connect", 0)
def test_it_finds_what_trying_one_rule_after_the_other_finds(
    rules: list[Rule], caller: str | None, callee: str | None, method: str, hours: int
) -> None:
    rules = [one._replace(name=str(place)) for place, one in enumerate(rules)]
    now = NOW + hours * 6 * 3600
    expected = obvious(rules, caller, callee, method, now)
    compiled = Rules(rules)
    assert compiled.match(caller, callee, method, now) == expected
    assert compiled.match_hook(parse_hook(body_of(caller=caller, callee=callee)), method, now) == expected


@given(RULES, RULES, st.none() | TEXTS, st.none() | TEXTS, METHODS)
@example([rule("r", methods=("connect",))], [rule("s", caller=("a",))], "A", None, "call")
@example([rule("r", caller=("a",))], [rule("s", methods=("OnCallEvent",))], None, None, "OnCallEvent")
def test_rules_that_many_apps_share_come_after_an_app_s_own(
    own: list[Rule], common: list[Rule], caller: str | None, callee: str | None, method: str
) -> None:
    both = [one._replace(name=str(place)) for place, one in enumerate([*own, *common])]
    compiled = Rules(both[: len(own)], Rules(both[len(own) :]))
    assert len(compiled) == len(both)
    assert compiled.match(caller, callee, method, NOW) == obvious(both, caller, callee, method, NOW)


@given(st.text(), st.text(max_size=8))
def test_any_name_is_met_by_itself_and_by_its_beginning(name: str, more: str) -> None:
    if any(c in "*?" for c in name):
        return
    assert meets([rule("r", caller=(name,))], caller=name) == "r"
    assert meets([rule("r", caller=(name + "*",))], caller=name + more) == "r"


# --- what rules read ---
@given(
    st.lists(
        st.builds(
            rule,
            caller=st.sampled_from([(), ("+49*",), ("1",)]),
            callee=st.sampled_from([(), ("2",), ("*3",)]),
            methods=st.sampled_from([(), ("OnCall*",), ("call", "hold")]),
        ),
        max_size=4,
    ),
    st.sampled_from(["OnCallEvent", "call", "connect", "ONCALLEVENT"]),
    st.integers(0, 4),
)
def test_what_rules_read_is_what_a_rule_for_the_method_has_a_condition_on(
    rules: list[Rule], method: str, shared: int
) -> None:
    compiled = Rules(rules[shared:], Rules(rules[:shared])) if shared else Rules(rules)
    of_method = [
        each
        for each in rules
        if not each.methods or any(fnmatchcase(method.lower(), glob.lower()) for glob in each.methods)
    ]
    assert compiled.reads("caller", method) == any(each.caller for each in of_method)
    assert compiled.reads("callee", method) == any(each.callee for each in of_method)


# --- by the type of the method ---

RULES = st.lists(
    st.builds(
        lambda number, caller, methods, asks: Rule(
            str(number), caller, (), methods, None, None if asks else REJECT, "u" if asks else None
        ),
        st.integers(0, 9),
        st.sampled_from([(), ("1",), ("1*",)]),
        st.lists(
            st.sampled_from(["event", "Incoming", "direct", "connect", "On*", "*Event", "call", "ErrorEvent"]),
            max_size=2,
        ).map(tuple),
        st.booleans(),
    ),
    max_size=5,
)


def meets_one(rule: Rule, kind: MethodType, method: str, caller: str | None) -> bool:
    """Whether a hook meets a rule, as the documents say it."""
    if rule.caller and (caller is None or not any(fnmatchcase(caller, glob) for glob in rule.caller)):
        return False
    if not rule.methods:
        return rule.upstream is not None or kind is not MethodType.EVENT
    names = [glob.lower() for glob in rule.methods]
    return kind.value in names or any(fnmatchcase(method.lower(), glob) for glob in names)


@given(RULES, RULES, st.sampled_from(sorted(CATALOGUE)), st.sampled_from(["1", "12", "2", None]))
def test_a_rule_with_a_verdict_meets_events_only_where_methods_says_so(
    rules: list[Rule], more: list[Rule], method: str, caller: str | None
) -> None:
    kind = method_type(method)
    found = Rules(rules, Rules(more, None, kind), kind).match(caller, None, method, NOW)
    assert found is next((rule for rule in (*rules, *more) if meets_one(rule, kind, method, caller)), None)
