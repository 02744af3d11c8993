"""Heads of requests: what is valid is read back exactly, and nothing is read that could be read in two ways."""

from __future__ import annotations

import string
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.http.server.head import MAX_FIELDS, MAX_REQUEST_LINE, BadRequest, Head, parse_head, read_head

NAME_CHARACTERS = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters
"""RFC 9110, section 5.6.2: tchar."""
HOST = (b"host", b"gw.example:8080")


def head(*fields: bytes, line: bytes = b"POST /rest/OnCallEvent HTTP/1.1", host: bytes | None = b"Host: gw") -> bytes:
    return b"\r\n".join([line, *([host] if host is not None else []), *fields])


def refused(data: bytes, status: int = 400) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse_head(data)
    assert caught.value.status == status
    assert caught.value.detail
    return caught.value


# --- what is valid ---

field_names = st.text(NAME_CHARACTERS, min_size=1, max_size=20).filter(
    lambda name: name.lower() not in ("host", "content-length", "transfer-encoding", "connection", "expect")
)
value_bytes = st.lists(st.sampled_from([*range(0x20, 0x7F), *range(0x80, 0x100), 0x09]), max_size=30).map(bytes)
field_values = value_bytes.map(lambda value: value.strip(b" \t"))
padding = st.text(" \t", max_size=3).map(str.encode)
fields = st.lists(st.tuples(field_names.map(str.encode), field_values, padding, padding), max_size=8)
paths = st.text(string.ascii_letters + string.digits + "/%.;:@!$&'()*+,=_~-", max_size=30).map(lambda path: f"/{path}")
queries = st.none() | st.text(string.ascii_letters + string.digits + "/%.;:@!$&'()*+,=_~?-", max_size=20)
lengths = st.none() | st.integers(0, 10**18 - 1)


@given(st.text(string.ascii_uppercase, min_size=1, max_size=24), paths, queries, lengths, fields, st.data())
def test_a_valid_head_is_read_back_exactly(
    method: str,
    path: str,
    query: str | None,
    length: int | None,
    others: list[tuple[bytes, bytes, bytes, bytes]],
    data: st.DataObject,
) -> None:
    target = path if query is None else f"{path}?{query}"
    lines = [(b"Host", HOST[1], b" ", b""), *others]
    if length is not None:
        lines.append((b"Content-Length", b"%d" % length, b" ", b""))
    lines = data.draw(st.permutations(lines))
    text = b"\r\n".join(
        [f"{method} {target} HTTP/1.1".encode()]
        + [name + b":" + before + value + after for name, value, before, after in lines]
    )
    assert parse_head(text) == Head(
        method,
        path.encode(),
        (query or "").encode(),
        tuple((name.lower(), value) for name, value, _, _ in lines if name != b"Content-Length"),
        length or 0,
        keep_alive=True,
        expects_continue=False,
        decoded_path=unquote(path),
    )


def test_what_the_media_server_sends_is_read() -> None:
    read = parse_head(
        b"POST /rest/my_api/OnCallEvent HTTP/1.1\r\nAccept: application/json\r\n"
        b"Content-Type: application/json;charset=UTF-8\r\nUser-Agent: Java/1.8.0_111\r\n"
        b"Host: 192.168.1.101:8080\r\nConnection: keep-alive\r\nContent-Length: 3614"
    )
    assert (read.method, read.path, read.query) == ("POST", b"/rest/my_api/OnCallEvent", b"")
    assert (read.length, read.keep_alive, read.expects_continue) == (3614, True, False)
    assert [name for name, _ in read.headers] == [
        b"accept", b"content-type", b"user-agent", b"host", b"connection",
    ]  # fmt: skip


# --- everything else ---

VALID = head(b"Content-Length: 5", b"Content-Type: application/json", b"X-Own: a, b", b"Connection: keep-alive")


def outcome(data: bytes) -> Head | int:
    """What was read, or the status of the refusal."""
    try:
        return parse_head(data)
    except BadRequest as exc:
        return exc.status


def assert_read_or_refused(data: bytes) -> None:
    read = outcome(data)
    if not isinstance(read, Head):
        assert read in (400, 431)
        return
    lines = data.split(b"\r\n")[1:]
    names = [name for name, _ in read.headers]
    written = [line.partition(b":")[0].lower() for line in lines]
    assert [name for name in written if name != b"content-length"] == names
    assert (written.count(b"content-length") + written.count(b"transfer-encoding")) <= 1
    assert names.count(b"host") <= 1
    for name, value in read.headers:
        assert name.decode("ascii").strip(NAME_CHARACTERS) == ""
        assert not any((byte < 0x20 and byte != 0x09) or byte == 0x7F for byte in value)


@given(st.binary(max_size=300))
@example(b"")
@example(b"\r\n")
def test_arbitrary_bytes_are_refused_as_bad_requests_or_read(data: bytes) -> None:
    assert_read_or_refused(data)


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(VALID)),
            st.integers(0, 3),
            st.binary(max_size=3) | st.sampled_from([b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\x00", b"\r\n "]),
        ),
        max_size=3,
    )
)
def test_a_mutated_head_is_refused_as_a_bad_request_or_read(edits: list[tuple[int, int, bytes]]) -> None:
    data = VALID
    for at, removed, put in edits:
        data = data[:at] + put + data[at + removed :]
    assert_read_or_refused(data)


# --- framing: RFC 9112, section 6 ---


@pytest.mark.parametrize(("value", "length"), [(b"0", 0), (b"5", 5), (b"005", 5), (b"9" * 18, 10**18 - 1)])
def test_one_number_is_a_length(value: bytes, length: int) -> None:
    assert parse_head(head(b"Content-Length: " + value)).length == length


@pytest.mark.parametrize(
    "value",
    [
        b"", b"+5", b"-5", b"5,5", b"5, 5", b"0x5", b"5 5", b"5.0", b"5e1", b"5_0", b"a", b"\xd9\xa5", b"\xb2", b"5;",
        b"5" * 19, b'"5"', b"5\x0b", b"5\xa0",
    ],
)  # fmt: skip
def test_any_other_content_length_is_refused(value: bytes) -> None:
    refused(head(b"Content-Length: " + value))


@pytest.mark.parametrize("second", [b"5", b"6", b"", b"05"])
def test_two_lengths_are_refused_even_where_they_agree(second: bytes) -> None:
    refused(head(b"Content-Length: 5", b"content-length: " + second))


@pytest.mark.parametrize("coding", [b"chunked", b"CHUNKED", b"Chunked", b" \tchunked\t "])
def test_chunked_is_the_one_coding(coding: bytes) -> None:
    assert parse_head(head(b"Transfer-Encoding:" + coding)).length is None


@pytest.mark.parametrize(
    "coding",
    [
        b"", b"identity", b"gzip", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"chunked,", b",chunked",
        b"chunked;q=1", b"xchunked", b"chunked x", b"chu nked", b'"chunked"', b"'chunked'", b"cow", b"chunked\x0b",
        b"\x0bchunked", b"chunked\xa0", b"\xffchunked", b"chunke\xc4\x8f",
    ],
)  # fmt: skip
def test_any_other_transfer_encoding_is_refused(coding: bytes) -> None:
    refused(head(b"Transfer-Encoding: " + coding))


@pytest.mark.parametrize(
    "framing",
    [
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
        [b"content-LengtH: 5", b"TransFer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding: identity", b"Content-Length: 5"],
    ],
)
def test_two_ways_to_say_where_the_body_ends_are_refused(framing: list[bytes]) -> None:
    refused(head(*framing))
    refused(head(framing[0], b"X-Between: 1", framing[1]))


def test_http_1_0_knows_no_chunks() -> None:
    refused(head(b"Transfer-Encoding: chunked", line=b"POST /x HTTP/1.0"))


@pytest.mark.parametrize(
    "misspelt", [b"Transfer-Encodin", b"Transfer_Encoding", b"XTransfer-Encoding", b"Content-Lengt", b"Content_Length"]
)
def test_a_misspelt_framing_field_frames_nothing(misspelt: bytes) -> None:
    assert parse_head(head(misspelt + b": chunked")).length == 0


# --- lines, names, values ---


@pytest.mark.parametrize("control", [*(bytes([code]) for code in range(0x20) if code != 0x09), b"\x7f"])
@pytest.mark.parametrize(
    "where",
    [b"X-Own: a%bb", b"X-Own:%bb", b"X-Own: a%b", b"X%bOwn: a", b"%bX-Own: a", b"X-Own%b: a"],
    ids=["in a value", "before", "after", "in a name", "before a name", "after a name"],
)
def test_a_control_character_is_refused_wherever_it_stands(where: bytes, control: bytes) -> None:
    refused(head(where % control, b"X-Last: 1"))


@pytest.mark.parametrize("control", [b"\r", b"\n", b"\x00", b"\t", b"\x0b", b"\x7f", b"\x1f"])
@pytest.mark.parametrize(
    "line", [b"POST%b/x HTTP/1.1", b"PO%bST /x HTTP/1.1", b"POST /%bx HTTP/1.1", b"POST /x HTTP/1.1%b"]
)
def test_a_control_character_is_refused_in_the_request_line(line: bytes, control: bytes) -> None:
    refused(head(line=line % control))


@pytest.mark.parametrize("ending", [b"\n", b"\r", b"\n\r", b"\r\r\n", b"\r\n\n"])
def test_a_line_ends_with_cr_lf_and_nothing_else(ending: bytes) -> None:
    refused(head(b"X-One: 1" + ending + b"X-Two: 2"))
    refused(b"POST /x HTTP/1.1" + ending + b"Host: gw")


@pytest.mark.parametrize("fold", [b" ", b"\t", b" \t "])
def test_a_folded_field_is_refused(fold: bytes) -> None:
    refused(head(b"X-Own: a", fold + b"b"))
    refused(head(b"Transfer-Encoding:", fold + b"chunked"))
    refused(b"POST /x HTTP/1.1\r\n" + fold + b"Host: gw\r\nHost: gw")


@pytest.mark.parametrize(
    "name",
    [
        b"", b"X Own", b"X-Own ", b"X-Own\t", b" X-Own", b"X-Own[]", b"X(Own)", b"X@Own", b"X/Own", b'"X"', b"X,Y",
        b"X;Y",
        b"X=Y", b"X\xe9", b"\xff", b"X{", b"X\\", b"X" * 257,
    ],
)  # fmt: skip
def test_a_name_is_a_token_with_nothing_around_it(name: bytes) -> None:
    for _ in range(2):  # what is remembered of names remembers no wrong one
        refused(head(name + b": 1"))


def test_a_line_without_a_colon_is_refused() -> None:
    refused(head(b"X-Own"))
    refused(head(b"host"))


@pytest.mark.parametrize("value", [b"", b" ", b"\t", b":", b"a:b", b"\xc3\xa9", b"\xff", b"a\tb", b'"quoted"'])
def test_a_value_may_be_any_text_without_control_characters(value: bytes) -> None:
    assert parse_head(head(b"X-Own:" + value)).headers[1] == (b"x-own", value.strip(b" \t"))


# --- the request line ---


@pytest.mark.parametrize(
    "line",
    [
        b"", b"POST", b"POST /x", b"POST /x ", b"POST  /x HTTP/1.1", b"POST /x  HTTP/1.1", b" POST /x HTTP/1.1",
        b"POST /x HTTP/1.1 ", b"POST /x y HTTP/1.1", b"POST\t/x\tHTTP/1.1", b"/x HTTP/1.1", b"POST /x HTTP/1.1 x",
        b"post /x HTTP/1.1", b"PoST /x HTTP/1.1", b"P0ST /x HTTP/1.1", b"P@ST /x HTTP/1.1", b"P\xd6ST /x HTTP/1.1",
        b"M-SEARCH /x HTTP/1.1", b"A" * 25 + b" /x HTTP/1.1", b"\xef\xbb\xbfPOST /x HTTP/1.1",
    ],
)  # fmt: skip
def test_a_request_line_is_method_target_version(line: bytes) -> None:
    refused(head(line=line))


@pytest.mark.parametrize(
    "version",
    [
        b"HTTP/0.9", b"HTTP/1.2", b"HTTP/1.10", b"HTTP/01.1", b"HTTP/1.01", b"HTTP/2.0", b"HTTP/2", b"HTTP/3",
        b"HTTP/9.9",
        b"http/1.1", b"HTTP/1,1", b"HTTP/1.", b"HTTP/", b"HTTP", b"HTTP/1.1x", b"HTTPS/1.1", b"ICE/1.0", b"RTSP/1.0",
        b"HTTP/-1.1", b"HTTP/1.1\xa0",
    ],
)  # fmt: skip
def test_any_version_but_1_1_and_1_0_is_refused(version: bytes) -> None:
    refused(head(line=b"POST /x " + version))


def test_an_http_2_preface_is_refused() -> None:
    refused(b"PRI * HTTP/2.0")


@pytest.mark.parametrize(
    "target",
    [
        b"*", b"x", b"x/y", b"gw:8080", b"?a=b", b"/x#fragment", b"#", b"http:/x", b"http://", b"http:///x", b"ftp://gw/x",
        b"httpx://gw/x", b"//gw@", b"http://gw/x#y", b"/\xe9", b"/\x7f",
    ],
)  # fmt: skip
def test_a_target_is_a_path_or_a_whole_url(target: bytes) -> None:
    if target == b"//gw@":  # odd, but a path
        assert parse_head(head(line=b"POST //gw@ HTTP/1.1")).path == target
    else:
        refused(head(line=b"POST " + target + b" HTTP/1.1"))


@pytest.mark.parametrize(
    "path", [b"/", b"//", b"/a/../b", b"/%2e%2e/b", b"/a%2fb", b"/a%00b", b"/a;b=c", b"/a%", b"/a%zz", b"/:@!$&'()*+,"]
)
def test_a_path_is_handed_on_as_it_came(path: bytes) -> None:
    assert parse_head(head(line=b"POST " + path + b" HTTP/1.1")).path == path


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/x?", b"/x", b""),
        (b"/x?a=b", b"/x", b"a=b"),
        (b"/x?a?b", b"/x", b"a?b"),
        (b"/?%3f", b"/", b"%3f"),
        (b"http://gw/x?a=b", b"/x", b"a=b"),
        (b"http://gw", b"/", b""),
        (b"http://gw?a=b", b"/", b"a=b"),
        (b"HTTPS://GW/x", b"/x", b""),
        (b"http://gw//x?http://y/", b"//x", b"http://y/"),
    ],
)
def test_path_and_query_are_told_apart(target: bytes, path: bytes, query: bytes) -> None:
    read = parse_head(head(line=b"POST " + target + b" HTTP/1.1"))
    assert (read.path, read.query) == (path, query)


# --- Host: RFC 9112, section 3.2 ---


@pytest.mark.parametrize(
    "host",
    [
        b"gw",
        b"gw:8080",
        b"gw.example.",
        b"192.0.2.1:80",
        b"[::1]",
        b"[2001:db8::1]:8080",
        b"gw:",
        b"under_score",
        b"a~b",
    ],
)
def test_a_host_is_a_name_or_an_address_and_perhaps_a_port(host: bytes) -> None:
    assert parse_head(head(host=b"Host: " + host)).headers == ((b"host", host),)


@pytest.mark.parametrize(
    "host",
    [
        b"", b" ", b"gw:x", b"gw:-1", b"gw:123456", b"gw:80:80", b"a b", b"a,b", b"a/b", b"user@gw", b"http://gw",
        b"[::1",
        b"::1", b"[gw]", b"[]", b":80", b"gw?", b"gw#", b"g\xc3\xa9", b"gw\\", b"<gw>", b'"gw"', b"gw%00",
    ],
)  # fmt: skip
def test_any_other_host_is_refused(host: bytes) -> None:
    refused(head(host=b"Host: " + host))


@pytest.mark.parametrize("second", [b"Host: gw", b"Host: other", b"HOST: gw", b"host:"])
def test_two_hosts_are_refused_even_where_they_agree(second: bytes) -> None:
    refused(head(second))
    refused(head(b"X-Between: 1", second))


def test_http_1_1_wants_a_host_and_http_1_0_does_not() -> None:
    refused(head(host=None))
    assert parse_head(head(host=None, line=b"POST /x HTTP/1.0")).headers == ()


def test_http_1_0_may_have_a_valid_host_and_no_other() -> None:
    assert parse_head(head(line=b"POST /x HTTP/1.0")).headers == ((b"host", b"gw"),)
    refused(head(line=b"POST /x HTTP/1.0", host=b"Host: a b"))


@pytest.mark.parametrize("host", [b"gw", b"GW"])
def test_a_whole_url_names_the_same_host_as_host_does(host: bytes) -> None:
    assert parse_head(head(line=b"POST http://gw/x HTTP/1.1", host=b"Host: " + host)).path == b"/x"


@pytest.mark.parametrize("authority", [b"other", b"gw:80", b"user@gw", b"gw:x", b"", b"gw,gw", b"[gw]"])
def test_a_whole_url_with_another_host_is_refused(authority: bytes) -> None:
    refused(head(line=b"POST http://" + authority + b"/x HTTP/1.1"))


def test_a_whole_url_does_not_spare_http_1_1_its_host() -> None:
    refused(head(line=b"POST http://gw/x HTTP/1.1", host=None))
    assert parse_head(head(line=b"POST http://gw/x HTTP/1.0", host=None)).path == b"/x"


# --- Connection, Expect ---


@pytest.mark.parametrize(
    ("line", "connection", "kept"),
    [
        (b"POST /x HTTP/1.1", [], True),
        (b"POST /x HTTP/1.1", [b"keep-alive"], True),
        (b"POST /x HTTP/1.1", [b"close"], False),
        (b"POST /x HTTP/1.1", [b"Close\t"], False),
        (b"POST /x HTTP/1.1", [b"x-own, close"], False),
        (b"POST /x HTTP/1.1", [b"keep-alive", b"close"], False),
        (b"POST /x HTTP/1.1", [b"close", b"keep-alive"], False),
        (b"POST /x HTTP/1.1", [b"upgrade"], True),
        (b"POST /x HTTP/1.0", [], False),
        (b"POST /x HTTP/1.0", [b"keep-alive"], False),
    ],
)
def test_a_connection_is_kept_unless_either_side_means_otherwise(
    line: bytes, connection: list[bytes], kept: bool
) -> None:
    assert parse_head(head(*(b"Connection: " + value for value in connection), line=line)).keep_alive is kept


@pytest.mark.parametrize("value", [b"100-continue", b"100-Continue"])
def test_a_client_may_wait_for_a_word_before_it_sends_the_body(value: bytes) -> None:
    assert parse_head(head(b"Content-Length: 5", b"Expect: " + value)).expects_continue


def test_the_expectation_of_http_1_0_is_passed_over() -> None:
    # RFC 9110, section 10.1.1: no 100 to a client that speaks HTTP/1.0.
    assert not parse_head(head(b"Expect: 100-continue", line=b"POST /x HTTP/1.0")).expects_continue


@pytest.mark.parametrize("value", [b"", b"200-ok", b"100-continue, x", b"100", b"100-continue;a=b"])
def test_any_other_expectation_is_refused(value: bytes) -> None:
    refused(head(b"Expect: " + value))


# --- limits ---


def test_as_many_fields_as_allowed_are_read_and_one_more_is_a_431() -> None:
    many = [b"X-%d: 1" % number for number in range(MAX_FIELDS - 1)]
    assert len(parse_head(head(*many)).headers) == MAX_FIELDS
    refused(head(*many, b"X-More: 1"), 431)


def test_a_request_line_may_have_its_limit_and_one_byte_more_is_a_431() -> None:
    frame = len(b"POST / HTTP/1.1")
    longest = b"POST /" + b"x" * (MAX_REQUEST_LINE - frame) + b" HTTP/1.1"
    assert len(parse_head(head(line=longest)).path) == MAX_REQUEST_LINE - frame + 1
    refused(head(line=longest.replace(b"/x", b"/xx")), 431)


def test_names_that_nobody_knows_do_not_change_how_others_are_read() -> None:
    for number in range(3000):
        assert parse_head(head(b"X-Odd-%d: 1" % number)).headers[1][0] == b"x-odd-%d" % number
    assert parse_head(VALID).length == 5
    refused(head(b"X Odd: 1"))


def test_what_is_refused_is_never_quoted() -> None:
    secret = b"top-secret"
    for data in (head(b"X " + secret + b": 1"), head(line=secret), head(host=b"Host: a " + secret), secret):
        assert "secret" not in refused(data).detail


# --- what is remembered of heads ---


def outcome_of_reading(data: bytes) -> Head | int:
    try:
        return read_head(data)
    except BadRequest as exc:
        return exc.status


def assert_read_as_parsed(data: bytes) -> None:
    parsed = outcome(data)
    for attempt in ("the first", "a remembered one"):
        assert outcome_of_reading(data) == parsed, attempt


LINES = st.sampled_from(
    [
        b"Content-Length: 5", b"Content-Length: 5", b"content-length: 17", b"Content-length:0", b"content-Length: 005",
        b"CONTENT-LENGTH: 5", b"Content-Length:  5", b"Content-Length: 5 ", b"Content-Length:\t5",
        b"Content-Length : 5", b"Content-Length: \xb2", b"content-length: 5\t",
        b" Content-Length: 5", b"\tContent-Length: 5", b"Content-Length: ", b"Content-Length:", b"Content-Length",
        b"Content-Length: 5, 5", b"Content-Length: +5", b"Content-Length: 0x5", b"Content-Length: 5\r",
        b"\nContent-Length: 5", b"\r", b"\r\r",
        b"Content-Length: 999999999", b"Content-Length: 1000000000", b"Content-Length: " + b"9" * 18,
        b"Content-Length: " + b"9" * 19, b"X-Content-Length: 5", b"X: Content-Length: 5",
        b"Content-Length: 5\r\n folded", b"Content-Length:5", b"content-length:5",
        b"Transfer-Encoding: chunked", b"transfer-encoding: chunked", b"Transfer-Encoding: gzip", b"Transfer-Encoding:",
        b"Connection: close", b"Connection: content-length", b"Expect: 100-continue", b"Expect: more", b"Host: other",
        b"Content-Type: application/json", b"X-Own: a", b"X Own: a", b"X-Own", b"", b" folded", b"X-Null: \0",
    ]
)  # fmt: skip
REQUEST_LINES = st.sampled_from(
    [
        b"POST /rest/OnCallEvent HTTP/1.1", b"POST /x HTTP/1.0", b"GET / HTTP/1.1", b"POST /x HTTP/2.0", b"", b"POST",
        b"Content-Length: 5", b"POST /x HTTP/1.1\r\nContent-Length: 5",
    ]
)  # fmt: skip


@given(REQUEST_LINES, st.sampled_from([b"Host: gw", b"Host: gw", b"HOST: [::1]:80", None]), st.lists(LINES, max_size=4))
def test_a_head_is_read_as_it_is_parsed(line: bytes, host: bytes | None, fields: list[bytes]) -> None:
    assert_read_as_parsed(head(*fields, line=line, host=host))


@given(st.permutations([b"Host: gw", b"X-Own: a", b"Content-Length: 5", b"Connection: keep-alive"]), st.integers(0, 99))
def test_heads_that_differ_in_their_length_alone_are_read_each_with_its_own(lines: list[bytes], length: int) -> None:
    data = head(*lines, host=None).replace(b"Length: 5", b"Length: %d" % length)
    read = read_head(data)
    assert read.length == length
    assert read.keep_alive
    assert_read_as_parsed(data)


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(VALID)),
            st.integers(0, 3),
            st.binary(max_size=3)
            | st.sampled_from([b"\r\n", b"\n", b"\r", b" ", b":", b"\0", b"\r\n ", b"0", b"\r\nX:"]),
        ),
        max_size=3,
    )
)
def test_a_mutated_head_is_read_as_it_is_parsed(edits: list[tuple[int, int, bytes]]) -> None:
    data = VALID
    for at, removed, put in edits:
        data = data[:at] + put + data[at + removed :]
    assert_read_as_parsed(data)


@pytest.mark.parametrize("count", [98, 99, 100, 101])
@pytest.mark.parametrize("at", [0, 50, -1])
@pytest.mark.parametrize(
    "framing", [[b"Content-Length: 5"], [b"Content-Length: 5"] * 2, [b"Transfer-Encoding: chunked"]]
)
def test_as_many_fields_are_read_as_are_parsed(count: int, at: int, framing: list[bytes]) -> None:
    lines = [b"X: 1"] * (count - 1 - len(framing))
    lines[at:at] = framing
    data = head(*lines)
    assert len(data.split(b"\r\n")) == count + 1
    assert_read_as_parsed(data)
    if count > MAX_FIELDS:
        assert outcome_of_reading(data) == 431


@pytest.mark.parametrize("size", [900, 1023, 1024, 1025, 5000, MAX_REQUEST_LINE, 9000])
def test_a_head_of_any_size_is_read_as_it_is_parsed(size: int) -> None:
    frame = len(head(b"Content-Length: 5", b"X: "))
    assert_read_as_parsed(head(b"Content-Length: 5", b"X: " + b"y" * (size - frame)))
    assert_read_as_parsed(head(b"Content-Length: 5", line=b"POST /" + b"x" * size + b" HTTP/1.1"))


def test_a_refused_head_is_refused_again_with_its_own_words() -> None:
    data = head(b"Content-Length: 5", b"X Own: 1")
    details = set()
    for _ in range(2):
        with pytest.raises(BadRequest) as caught:
            read_head(data)
        details.add(caught.value.detail)
    assert details == {refused(data).detail}
