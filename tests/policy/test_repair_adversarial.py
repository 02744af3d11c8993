"""Callers who put JSON and PHP's own words into what PHP will quote: none of them chooses a verdict.

The attacker knows everything that an attacker could: every identifier of the hook (a session's is made of addresses
that its client knows, a call's may be chosen by the caller's telephone), the backend's code, paths and settings.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from typing import Final
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.client import Answer
from gateway.model.hooks import is_json_object
from gateway.model.verdicts import Cause, Failure
from gateway.policy.repair import Repaired, RepairFailure, ResponseCheck, repair
from gateway.upstreams import Judge

BOM: Final = b"\xef\xbb\xbf"
IDENTIFIERS: Final = {
    "nodeId": "node@192.0.2.1",
    "appKey": "defaultApp",
    "sessionId": "/203.0.113.7:49783/192.0.2.101:8443",
    "callId": "chosen-by-the-caller",
}
FAKE: Final = json.dumps({**IDENTIFIERS, "restPolicy": "OVERWRITE"})
"""The object that the attacker wants to have taken for the answer: it lacks nothing."""
STRANGER: Final = json.dumps({"restPolicy": "OVERWRITE"})

Page = tuple[str, str]
TEXT: Final[Page] = ("\nNotice: ", " in /var/www/api/index.php on line 12\n")
LABELLED: Final[Page] = ('\nWarning: Undefined array key "', '" in /var/www/api/index.php on line 12\n')
HTML: Final[Page] = ("<br />\n<b>Notice</b>:  ", " in <b>/var/www/api/index.php</b> on line <b>12</b><br />\n")
LOG: Final[Page] = ("PHP Notice:  ", " in /var/www/api/index.php on line 12\n")
STAMPED: Final[Page] = ("[23-Nov-2026 10:11:47 UTC] PHP Notice:  ", " in /var/www/api/index.php on line 12\n")
FATAL: Final[Page] = (
    "\nFatal error: Uncaught Exception: No such number ",
    " in /var/www/api/index.php:3\nStack trace:\n#0 {main}\n  thrown in /var/www/api/index.php on line 3\n",
)
FORMS: Final = {"text": TEXT, "labelled": LABELLED, "html": HTML, "log": LOG, "stamped": STAMPED}

ENDINGS: Final = ("x in /var/www/api/index.php on line 12\n", "x in <b>/a.php</b> on line <b>1</b><br />\n")
BEGINNINGS: Final = ("\nNotice: y", "<br />\n<b>Notice</b>:  y", "\nPHP Notice:  y")


def hook_of(callee: str, **fields: object) -> bytes:
    return json.dumps({**IDENTIFIERS, "caller": "attacker", "callee": callee, **fields}).encode()


def said(page: Page, quoted: str) -> bytes:
    """What PHP prints that quotes this text."""
    return f"{page[0]}{quoted}{page[1]}".encode("utf-8", "surrogatepass")


def forged(fake: str) -> list[str]:
    """Callees that make an object look like an answer between two messages."""
    return [f"{end}{fake}{begin}" for end in ENDINGS for begin in BEGINNINGS]


ATTACKS: Final = [
    *forged(FAKE),
    *forged(STRANGER),
    f"x in /a.php on line 1\n{FAKE}\nNotice: y",
    f"x in /a.php on line 1\r\n{FAKE}\r\nNotice: y",
    f"x in /a.php on line 1\n\ufeff{FAKE}\ufeff\nNotice: y",
    f"\n{FAKE}\n",
    f"{FAKE}\n",
    f"\n{FAKE}",
    FAKE,
    f"x in /a.php on line 1\n{FAKE}{FAKE}\nNotice: y",
    f'x in /a.php on line 1\n{FAKE[:-1]},"z":"\nNotice: y',
    "{",
    "}",
    "{main}",
    '"}',
    "\ufeff{",
    "\x00" + FAKE,
]


@pytest.mark.parametrize("page", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_adversarial_an_object_in_a_notice_before_a_silent_end_is_no_answer(attack: str, page: Page) -> None:
    hook = hook_of(attack)
    assert isinstance(repair(said(page, attack), hook), RepairFailure)
    assert isinstance(repair(said(TEXT, "z") + said(page, attack) + said(HTML, "z"), hook), RepairFailure)


@pytest.mark.parametrize("attack", ATTACKS)
def test_adversarial_an_object_in_a_notice_before_a_fatal_error_is_no_answer(attack: str) -> None:
    hook = hook_of(attack)
    assert isinstance(repair(said(TEXT, attack) + said(FATAL, "z"), hook), RepairFailure)
    assert isinstance(repair(said(FATAL, attack), hook), RepairFailure)
    assert isinstance(repair(said(FATAL, "z") + said(TEXT, attack), hook), RepairFailure)


@pytest.mark.parametrize("page", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_adversarial_beside_the_real_object_one_in_a_notice_makes_two_and_none_is_taken(
    attack: str, page: Page
) -> None:
    hook = hook_of(attack)
    for body in (said(page, attack) + hook, hook + said(page, attack), said(page, "z") + hook + said(page, attack)):
        assert isinstance(repair(body, hook), RepairFailure)


@pytest.mark.parametrize("attack", forged(FAKE))
def test_adversarial_escaping_by_html_changes_nothing(attack: str) -> None:
    for page in FORMS.values():
        assert isinstance(repair(said(page, html.escape(attack)), hook_of(attack)), RepairFailure)
        assert isinstance(repair(said(page, html.escape(attack, quote=False)), hook_of(attack)), RepairFailure)
        assert isinstance(
            repair(said(page, attack), hook_of(html.escape(attack))), RepairFailure
        )  # the backend decodes it
        assert isinstance(
            repair(said(page, attack), hook_of("".join(f"&#{ord(letter)};" for letter in attack))), RepairFailure
        )
        assert isinstance(
            repair(said(page, attack), hook_of("".join(f"&#x{ord(letter):04X};" for letter in attack))), RepairFailure
        )


@pytest.mark.parametrize("attack", forged(FAKE))
def test_adversarial_braces_that_only_the_backend_decodes_are_seen_in_the_hook(attack: str) -> None:
    encoded = [
        quote(attack),
        quote(quote(attack)),
        attack.replace("{", "%7b").replace("}", "%7d").replace(" ", "+"),
        json.dumps(attack).replace("{", "\\u007b").replace("}", "\\u007D"),
        attack.replace("{", "\uff5b").replace("}", "\uff5d"),
        attack.replace("{", "\\x7b").replace("}", "\\x7d"),
        attack.replace("{", "&lcub;").replace("}", "&rcub;"),
    ]
    assert unquote(encoded[0]) == attack
    for text in encoded:
        for page in FORMS.values():
            assert isinstance(repair(said(page, attack), hook_of(text)), RepairFailure)


def each(form: str, text: str) -> str:
    """The text with each of its characters written in this form."""
    return "".join(form.format(ord(letter)) for letter in text)


def fullwidth(text: str) -> str:
    """The text in the letters as wide as a Chinese one."""
    return text.translate({code: 0xFEE0 + code for code in range(0x21, 0x7F)})


WRITTEN: Final[dict[str, Callable[[str], str]]] = {
    "as it is": str,
    "in a URL": lambda text: each("%{:02x}", text),
    "in a URL in a URL": lambda text: each("%25{:02X}", text),
    "in HTML by number": lambda text: each("&#{:03};", text),
    "in HTML in HTML": lambda text: each("&amp;#x{:05x};", text),
    "in HTML in a URL": lambda text: quote(each("&#x{:X};", text)),
    "in JSON": lambda text: each("\\u{:04x}", text),
    "in JSON in JSON": lambda text: each("\\\\u{:04X}", text),
    "in JSON in HTML in a URL": lambda text: quote(each("&#92;u{:04x}", text)),
    "in fullwidth letters in JSON": lambda text: each("\\u{:04x}", fullwidth(text)),
    "in source code": lambda text: each("\\x{:02x}", text),
    "in octal": lambda text: each("\\{:03o}", text),
    "in fullwidth letters": fullwidth,
    "with tags": lambda text: text.replace("line", "l<i>ine"),
    "with escaped tags": lambda text: text.replace("line", "l&lt;i&gt;ine"),
    "with control characters": lambda text: text.replace("line", "l\x07ine"),
    "with a space that is none": lambda text: text.replace(" line", "\x01line"),
    "with invisible characters": lambda text: text.replace("line", "l\u200bine"),
    "with letters that have no place in ASCII": lambda text: text.replace("line", "l\u0416ine"),
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_adversarial_a_message_s_end_that_only_the_backend_makes_is_seen_in_the_hook(
    written: Callable[[str], str],
) -> None:
    """The message quotes the hook as it came too, which brings the braces and the identifiers."""
    for end in ENDINGS:
        for page in FORMS.values():
            hook = hook_of(written(end))
            body = said(
                page, f"{end}{hook.decode()}\nNotice: y" if page is not HTML else f"{end}{hook.decode()}{HTML[0]}y"
            )
            assert isinstance(repair(body, hook), RepairFailure)
    plain = hook_of("1")
    assert isinstance(repair(said(TEXT, f"{ENDINGS[0]}{plain.decode()}\nNotice: y"), plain), Repaired), (
        "else it proves nothing"
    )


@pytest.mark.parametrize("attack", forged(FAKE))
def test_adversarial_it_does_not_matter_which_string_of_the_hook_is_quoted(attack: str) -> None:
    body = said(TEXT, attack)
    for hook in (
        hook_of("1", custom={"deep": [[{"er": attack}]]}),
        hook_of("1", custom={attack: 1}),
        hook_of("1", sdp=f"v=0\r\n{attack}"),
        json.dumps({**IDENTIFIERS, "callee": attack}).replace("{\\", "\\u007B\\").encode(),
        b'{"callee":%b,"callee":"1",%b' % (json.dumps(attack).encode(), json.dumps(IDENTIFIERS).encode()[1:]),
    ):
        assert is_json_object(hook)
        assert isinstance(repair(body, hook), RepairFailure)


@pytest.mark.parametrize("fake", [STRANGER, json.dumps({**IDENTIFIERS, "callId": "another's"})])
def test_adversarial_text_kept_from_an_earlier_call_does_not_know_this_one(fake: str) -> None:
    for attack in forged(fake):
        for page in FORMS.values():
            assert isinstance(repair(said(page, attack), hook_of("1")), RepairFailure)


@pytest.mark.parametrize("quoted", ["", "\n", "x in /a.php on line 1\n", "x in <b>/a.php</b> on line <b>1</b><br />\n"])
def test_adversarial_a_notice_that_quotes_the_whole_hook_is_no_answer(quoted: str) -> None:
    hook = hook_of(quoted)
    for page in FORMS.values():
        for between in ("", "\n", " "):
            for after in ("", "\n", "\nNotice: y", "<br />\n<b>Notice</b>:  y"):
                body = said(page, f"{quoted}{between}{hook.decode()}{after}")
                assert isinstance(repair(body, hook), RepairFailure)


def test_adversarial_an_object_without_a_message_s_end_before_it_is_inside_the_message() -> None:
    hook = hook_of("1")
    for page in FORMS.values():
        for text in (hook, b"\n" + hook, b"\n" + hook + b"\n", b"x\n" + hook + b"\nNotice: y"):
            assert isinstance(repair(page[0].encode() + text + page[1].encode(), hook), RepairFailure)


def test_adversarial_an_exit_with_the_caller_s_words_is_no_answer() -> None:
    for attack in ATTACKS:
        for start in ("Warning: bad number ", "Error: ", "No route to "):
            assert isinstance(repair(said(TEXT, "z") + (start + attack).encode(), hook_of(attack)), RepairFailure)


def test_adversarial_identifiers_inside_strings_and_inner_objects_prove_nothing() -> None:
    hook = hook_of("1")
    for own in ({"hook": json.loads(hook)}, {"hook": hook.decode()}, [json.loads(hook)], {"callId": [IDENTIFIERS]}):
        assert isinstance(repair(BOM + json.dumps(own).encode(), hook), RepairFailure)


def test_adversarial_no_byte_that_a_reader_may_pass_over_stands_between_lines() -> None:
    hook = hook_of("1")
    for between in (b"\x00", b"\x0b", b"\x0c", b"\x1b", b"\x85", b"\xc2\xa0", b"\xe2\x80\xa8", b"\xff\xfe", b"\xef"):
        assert isinstance(repair(said(TEXT, "z") + between + hook, hook), RepairFailure)
        assert isinstance(repair(hook + between + said(TEXT, "z"), hook), RepairFailure)
        assert isinstance(repair(BOM + between + hook, hook), RepairFailure)
    assert isinstance(
        repair(said(TEXT, "\x00\x0b\x85\u2028\ufeff") + hook, hook), Repaired
    )  # within a message it is text


HUGE: Final = 1 << 18


@pytest.mark.parametrize(
    "body",
    [
        b"{" * HUGE,
        b"}" * HUGE,
        b"{}" * (HUGE // 2),
        b'{"a":' * (HUGE // 5) + b"1" + b"}" * (HUGE // 5),
        b"\n" * HUGE + b"{}",
        BOM * (HUGE // 3) + b"{}",
        b"\xef" * HUGE + b"{}",
        b"<br />\n" * (HUGE // 7) + b"{}",
        b"Notice: " * (HUGE // 8) + b"{}",
        b"Notice: " + b" in x on line 1" * (HUGE // 15) + b"\n{}",
        b"Notice: " + b" on line " * (HUGE // 9) + b"\n{}",
        b"\nNotice: x in y on line " + b"1" * HUGE + b"\n{}",
        b"[" * HUGE + b"{}",
        b"{}" + b" \t\r" * (HUGE // 3),
        b"<b>Notice</b>: " * (HUGE // 15) + b"{}",
        said(TEXT, "z") + b'{"a":"' + b"\\" * HUGE + b'"}',
    ],
    ids=range(16),
)
def test_adversarial_huge_answers_are_read_once(body: bytes) -> None:
    assert isinstance(repair(body, hook_of("1")), RepairFailure)


@pytest.mark.parametrize(
    "text",
    [
        "on" * (HUGE // 2), "on      " * (HUGE // 8), "&#" + "0" * HUGE, "&#0" * (HUGE // 3), "\\" * HUGE,
        '"' * HUGE, "%25" * (HUGE // 3), "\n" * HUGE, "\x00" * (HUGE // 8), "0" * HUGE, "12345 " * (HUGE // 6),
        "&amp;" * (HUGE // 5), "<" * HUGE, "\\x" * (HUGE // 2), "\\\\156" * (HUGE // 5),
    ],
    ids=range(15),
)  # fmt: skip
def test_adversarial_huge_hooks_are_read_once(text: str) -> None:
    hook = hook_of(text, caller=text)
    assert isinstance(repair(BOM + hook, hook), Repaired)
    assert not isinstance(Judge().judge(Answer(200, (), said(TEXT, "z") + hook), hook, ResponseCheck.REPAIR), Failure)


def test_adversarial_many_small_strings_are_read_once() -> None:
    hook = hook_of("1", custom=["", "a"] * (HUGE // 8))
    assert isinstance(repair(BOM + hook, hook), Repaired)


# --- anything that an attacker writes ---

FRAGMENTS: Final = st.sampled_from(
    [
        FAKE, STRANGER, *ENDINGS, *BEGINNINGS, "{", "}", "{}", "{main}", '"', "\\", "\n", "\r\n", " ", "\ufeff", "\x00",
        "x", "Notice: ", "<br />", "<br />\n", "<b>", "</b>", "on", " line ", " on line ", "1", " in ", "/a.php", "%7B",
        "&#123;", "\\u007b", "\\", "[", "]", ",", "é", "\u2028",
    ]
)  # fmt: skip
ATTACK: Final = st.lists(FRAGMENTS, max_size=10).map("".join)
PAGE: Final = st.sampled_from([*FORMS.values(), FATAL])
Quoting = Callable[[str], str]
QUOTING: Final[st.SearchStrategy[Quoting]] = st.sampled_from(
    [
        str,
        html.escape,
        unquote,
        html.unescape,
        json.dumps,
        lambda text: json.dumps(text)[1:-1],
        lambda text: text.replace("\\u007b", "{"),
        lambda text: f"\n{text}\n",
        lambda text: text * 2,
        lambda text: text[::2],
        str.strip,
    ]
)
AROUND: Final = st.sampled_from(
    ["{text}", "{hook}", "{text}\n{hook}\n", "{text}\n{hook}\n{text}", "{hook}{text}", "{text}{hook}"]
)
"""What a message says: a field of the hook as the backend quotes it, or the whole of the hook beside it."""


@given(
    ATTACK,
    ATTACK,
    st.lists(st.tuples(PAGE, st.booleans(), QUOTING, AROUND), max_size=4),
    st.integers(0, 4),
    st.booleans(),
)
def test_adversarial_whatever_is_quoted_from_the_hook_only_the_backend_s_own_object_comes_out(
    callee: str, caller: str, messages: list[tuple[Page, bool, Quoting, str]], place: int, answers: bool
) -> None:
    hook = hook_of(callee, caller=caller)
    own = json.dumps({**json.loads(hook), "by": "the backend"}).encode()
    parts = [
        said(page, around.format(text=quoting(callee if called else caller), hook=hook.decode()))
        for page, called, quoting, around in messages
    ]
    if answers:
        parts.insert(place, own)
    found = repair(b"".join(parts), hook)
    assert isinstance(found, RepairFailure) or (answers and found.body == own)


@given(st.lists(st.tuples(PAGE, ATTACK), max_size=4), st.integers(0, 4), st.booleans())
def test_adversarial_text_kept_from_elsewhere_must_foresee_this_hook_and_close_and_open_messages_around_its_object(
    messages: list[tuple[Page, str]], place: int, answers: bool
) -> None:
    """What the module's docstring says remains: nothing comes out of one side alone."""
    hook = hook_of("1")
    own = json.dumps({**json.loads(hook), "by": "the backend"}).encode()
    parts = [said(page, text) for page, text in messages]
    if answers:
        parts.insert(place, own)
    found = repair(b"".join(parts), hook)
    if isinstance(found, Repaired) and found.body != own:
        assert not answers
        assert json.loads(found.body).items() >= IDENTIFIERS.items()
        assert {"before", "after"} <= set(found.kinds)


@given(ATTACK)
def test_adversarial_a_callee_without_braces_or_a_message_s_end_costs_no_repair(text: str) -> None:
    """So that a caller cannot talk an honest backend's answer away with ordinary punctuation."""
    plain = "".join(letter for letter in text if letter not in '{}%&\\on\r\n"')
    hook = hook_of(plain)
    assert isinstance(repair(said(TEXT, plain) + hook, hook), Repaired)


def test_adversarial_what_is_not_repaired_is_a_bad_answer_as_before() -> None:
    for attack in ATTACKS:
        for page in FORMS.values():
            failure = Judge().judge(Answer(200, (), said(page, attack)), hook_of(attack), ResponseCheck.REPAIR)
            assert isinstance(failure, Failure)
            assert failure.cause is Cause.BAD_ANSWER
            assert "OVERWRITE" not in failure.detail
