"""The state's URL: what people write, what it means, and that no message and no screen has its password."""

from __future__ import annotations

import pickle
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import ConfigError, loads
from gateway.config.sections.state import StateTarget, mask_state_url, parse_state_url

FORM = (
    "must be redis://USER:${env:REDIS_PASSWORD}@HOST:6379/0, rediss://… for TLS, or "
    "redis+sentinel://HOST:26379,HOST:26379/SERVICE"
)
LOCAL = (("127.0.0.1", 6379),)


def secret(target: StateTarget) -> str | None:
    return None if target.password is None else target.password.get_secret_value()


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("redis://127.0.0.1:6379/0", StateTarget(LOCAL)),
        ("redis://127.0.0.1", StateTarget(LOCAL)),
        ("redis://127.0.0.1/", StateTarget(LOCAL)),
        ("redis://h:1/15", StateTarget((("h", 1),), database=15)),
        ("redis://[::1]:7/1", StateTarget((("::1", 7),), database=1)),
        ("rediss://redis.example.com", StateTarget((("redis.example.com", 6379),), tls=True)),
        ("redis+sentinel://a,b:1/wcs", StateTarget((("a", 26379), ("b", 1)), "wcs")),
        ("redis+sentinel://a/wcs/3", StateTarget((("a", 26379),), "wcs", 3)),
        ("rediss+sentinel://[::1]/my-master.1/0", StateTarget((("::1", 26379),), "my-master.1", tls=True)),
    ],
)
def test_what_a_url_means(url: str, target: StateTarget) -> None:
    assert parse_state_url(url) == target


@pytest.mark.parametrize(
    ("login", "user", "password"),
    [
        (":p", None, "p"),
        ("u:p", "u", "p"),
        ("u:p:q@r/s?t#u", "u", "p:q@r/s?t#u"),
        ("u%3a:%25%40", "u:", "%@"),
    ],
)
def test_user_and_password(login: str, user: str | None, password: str) -> None:
    target = parse_state_url(f"redis://{login}@h/1")
    assert (target.user, secret(target)) == (user, password)
    assert target.hosts == (("h", 6379),)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", FORM),
        ("127.0.0.1:6379", FORM),
        ("on", FORM),
        ("http://h", FORM),
        ("redis:h", FORM),
        ("redis://h/0?db=1", FORM),
        ("redis://h#0", FORM),
        ("redis://", "must have a host name or an IP address, and a port from 1 to 65535"),
        ("redis://h:0", "must have a host name or an IP address, and a port from 1 to 65535"),
        ("redis://h:70000", "must have a host name or an IP address, and a port from 1 to 65535"),
        ("redis://a b/0", "must have a host name or an IP address, and a port from 1 to 65535"),
        ("redis+sentinel://a,/wcs", "must have a host name or an IP address, and a port from 1 to 65535"),
        (f"redis+sentinel://{','.join('h' * 33)}/wcs", "must have at most 32 hosts"),
        (
            "redis://a,b",
            "has several hosts, which is for Sentinel: write redis+sentinel://HOST:26379,HOST:26379/SERVICE",
        ),
        (
            "redis+sentinel://a,b",
            "must have the name by which Sentinel knows the servers: write "
            "redis+sentinel://HOST:26379,HOST:26379/SERVICE",
        ),
        ("redis://h/wcs", "must end with the number of a database, such as /0"),
        ("redis+sentinel://h/wcs/x", "must end with the number of a database, such as /0"),
        ("redis://p@h", "has a user without a password: write USER:PASSWORD@ or, for the default user, :PASSWORD@"),
        ("redis://u:@h", "has a user without a password: write USER:PASSWORD@ or, for the default user, :PASSWORD@"),
        ("redis://h\n", "must not contain control characters such as a line break"),
    ],
)
def test_what_is_wrong_with_a_url(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_state_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:1/2", "rediss://u:p@h", "redis+sentinel://:p@a,b:1,[::1]:7/wcs/3", "rediss+sentinel://a/wcs/0",
    ],
)  # fmt: skip
def test_as_text_it_means_the_same_without_user_and_password(url: str) -> None:
    target = parse_state_url(url)
    assert parse_state_url(str(target)) == target._replace(user=None, password=None)


@given(user=st.text(min_size=1, max_size=20), password=st.text(min_size=1, max_size=20))
def test_whatever_the_password_is_it_is_read_and_not_shown(user: str, password: str) -> None:
    target = parse_state_url(f"redis://{quote(user, safe='')}:{quote(password, safe='')}@h.example/0")
    assert (target.user, secret(target)) == (user, password)
    assert target == pickle.loads(pickle.dumps(target))
    assert "**********" in repr(target)
    assert str(target) == "redis://h.example:6379/0"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://u:p@h", "redis://u:***@h"),
        ("redis://:p@h", "redis://:***@h"),
        ("redis://u:p@q@h", "redis://u:***@h"),
        ("redis://u:${env:P}@h", "redis://u:${env:P}@h"),
        ("redis://u:a${env:P}b@h", "redis://u:***${env:P}***@h"),
        ("redis://${env:U}:${env:P}@h", "redis://${env:U}:${env:P}@h"),
        ("rediss+sentinel://u:p@a,b/wcs", "rediss+sentinel://u:***@a,b/wcs"),
        ("${env:URL}", "${env:URL}"),
        ("redis://${env:LOGIN}@h", "***${env:LOGIN}***"),
        ("${env:SCHEME}://u:p@h", "${env:SCHEME}***"),
    ],
)
def test_on_screens_only_the_password_is_hidden(written: str, shown: str) -> None:
    assert mask_state_url(written) == shown


def test_what_is_not_written_has_its_default() -> None:
    state = loads("state: {url: 'redis://h'}").config.state
    assert state is not None
    assert (state.prefix, state.timeout, state.dedupe, state.tls) == ("wcs:", 0.002, False, None)


def test_all_that_can_be_written() -> None:
    text = "state: {url: 'redis://h', prefix: 'a.b-c_d:', timeout: 5ms, dedupe: on}"
    state = loads(text).config.state
    assert state is not None
    assert (state.prefix, state.timeout, state.dedupe) == ("a.b-c_d:", 0.005, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("state: {}", "1:1: state.url: is required"),
        ("state: on", "1:1: state: must be a mapping"),
        ("state: {url: 7}", f"1:9: state.url: {FORM}"),
        ("state: {url: 'redis://h', prefix: ''}", "1:27: state.prefix: must be 1 to 64 letters, digits and . _ : -"),
        ("state: {url: 'redis://h', prefix: 'a*'}", "1:27: state.prefix: must be 1 to 64 letters, digits and . _ : -"),
        ("state: {url: 'redis://h', timeout: 2s}", "1:27: state.timeout: must be between 1ms and 100ms"),
        ("state: {url: 'redis://h', dedupe: true}", "1:27: state.dedupe: must be on or off, not true"),
        ("state: {url: 'redis://h', tls: {key: k.pem}}", "1:33: state.tls.key: the file cannot be read"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(it).removeprefix("gateway.yaml:")[: len(message)] for it in caught.value.problems] == [message]


def test_a_password_is_in_no_message() -> None:
    with pytest.raises(ConfigError) as caught:
        loads("state: {url: 'redis://u:s3cret@h:99999/s3cret'}")
    assert "s3cret" not in str(caught.value)
