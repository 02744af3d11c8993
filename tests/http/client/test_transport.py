"""One exchange: its limits, its deadlines, what it refuses to write, and that httpx's own names fit its failures."""

from __future__ import annotations

import asyncio
import gc
import gzip
import socket
from collections.abc import Callable

import httpx
import pytest

from gateway.http.client import (
    AnswerTimedOut,
    BadAnswer,
    ConnectFailed,
    ConnectTimedOut,
    ExchangeError,
    Resolver,
    Transport,
    TransportSettings,
)
from gateway.http.client.connection import Connection
from gateway.model.verdicts import Cause, ProxyError
from tests.http.client.loopback import (
    Peer,
    answer,
    backend,
    echo,
    exchange,
    full_backlog,
    hook,
    silence,
    transport_of,
    until,
)


class Fixed:
    """Sends these bytes for each request and then, where it is told to, closes."""

    def __init__(self, data: bytes, *, close: bool = False) -> None:
        self.data = data
        self.close = close

    async def play(self, peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(self.data)
            if self.close:
                return


def chunked(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


# --- what comes back ---


def until_eof(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n\r\n" + body


async def test_nothing_is_left_of_an_answer_that_was_too_large_without_the_collector_s_help() -> None:
    fixed = Fixed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n%b\r\n" % (b"x" * 1000) * 2)
    gc.collect()
    gc.disable()  # it looks seldom, and each such answer is as large as max_answer
    try:
        async with backend(fixed.play) as there, transport_of(max_answer=1500) as transport:
            with pytest.raises(BadAnswer):
                await exchange(transport, there.url)
            await until(lambda: there.open == 0)
            assert not [left for left in gc.get_objects() if isinstance(left, Connection)]
    finally:
        gc.enable()


@pytest.mark.parametrize("form", [answer, chunked, until_eof])
async def test_a_body_at_the_limit_is_taken_and_one_byte_more_is_a_bad_answer(form: Callable[[bytes], bytes]) -> None:
    for size in (1000, 1001):
        played = Fixed(form(b"x" * size), close=True)
        async with backend(played.play) as there, transport_of(max_answer=1000) as transport:
            if size == 1000:
                assert await exchange(transport, there.url) == b"x" * size
            else:
                with pytest.raises(BadAnswer) as caught:
                    await exchange(transport, there.url)
                assert caught.value.failure.proxy_error is ProxyError.HTTP_RESPONSE_BODY_SIZE
                assert caught.value.failure.received_status == 200
                assert transport.open_connections == 0


async def test_an_answer_is_neither_decoded_nor_followed_nor_remembered() -> None:
    async def play(peer: Peer) -> None:
        for _ in range(2):
            request = await peer.request()
            heads.append(request.lower())
            lines = (b"Content-Encoding: gzip", b"Location: /elsewhere", b"Set-Cookie: a=b")
            await peer.answer(packed, *lines, status=b"302 Found")

    heads: list[bytes] = []
    packed = gzip.compress(b"{}")
    async with backend(play) as there, transport_of() as transport:
        for _ in range(2):
            response = await transport.handle_async_request(hook(there.url))
            raw = b"".join([chunk async for chunk in response.aiter_raw()])
            assert (response.status_code, raw) == (302, packed)
        assert len(heads) == 2
        assert not any(b"cookie" in head for head in heads)


async def test_the_body_travels_with_its_length_and_never_in_chunks() -> None:
    async def play(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.answer()

    seen: list[bytes] = []
    async with backend(play) as there, transport_of() as transport:
        stream = httpx.ByteStream(b'{"a":1}')
        headers = {"Transfer-Encoding": "chunked", "Content-Length": "999", "Host": "legacy"}
        await transport.handle_async_request(httpx.Request("POST", there.url, headers=headers, stream=stream))
        assert seen == [b'POST /hook HTTP/1.1\r\nHost: legacy\r\nContent-Length: 7\r\n\r\n{"a":1}']


# --- time ---


async def test_a_deadline_that_is_over_before_connecting_is_a_timeout() -> None:
    async with backend(echo) as there, transport_of() as transport:
        with pytest.raises(ConnectTimedOut) as caught:
            await exchange(transport, there.url, within=-1.0)
        assert (caught.value.failure.cause, caught.value.retry_safe) == (Cause.TIMEOUT, True)
        assert transport.open_connections == 0


async def test_a_budget_that_ends_while_connecting_is_a_timeout() -> None:
    with full_backlog() as port:
        async with transport_of(connect_timeout=5.0) as transport:
            with pytest.raises(ConnectTimedOut) as caught:
                await exchange(transport, f"http://127.0.0.1:{port}/hook", within=0.1)
            assert (caught.value.failure.cause, caught.value.retry_safe) == (Cause.TIMEOUT, True)
            assert transport.open_connections == 0


async def test_a_connect_timeout_inside_the_budget_is_unreachable() -> None:
    with full_backlog() as port:
        async with transport_of(connect_timeout=0.1) as transport:
            with pytest.raises(ConnectTimedOut) as caught:
                await exchange(transport, f"http://127.0.0.1:{port}/hook", within=5.0)
            assert (caught.value.failure.cause, caught.value.retry_safe) == (Cause.UNREACHABLE, True)
            assert transport.open_connections == 0


async def test_a_tls_handshake_counts_as_connecting() -> None:
    async with backend(silence) as there, transport_of(connect_timeout=0.1) as transport:
        with pytest.raises(ConnectTimedOut) as caught:
            await exchange(transport, there.url.replace("http:", "https:"), within=5.0)
        assert caught.value.failure.cause is Cause.UNREACHABLE
        await until(lambda: there.open == 0)


async def test_a_deadline_covers_the_whole_answer_however_slowly_it_comes() -> None:
    async def trickle(peer: Peer) -> None:
        await peer.request()
        for byte in answer(b"x" * 1000):
            await peer.send(bytes((byte,)))
            await asyncio.sleep(0.02)

    async with backend(trickle) as there, transport_of() as transport:
        with pytest.raises(AnswerTimedOut) as caught:
            await exchange(transport, there.url, within=0.3)
        assert caught.value.failure.cause is Cause.TIMEOUT
        assert transport.open_connections == 0


async def test_a_deadline_covers_a_request_that_the_backend_does_not_read() -> None:
    async def reads_nothing(peer: Peer) -> None:
        await peer.head()
        await leave.wait()

    leave = asyncio.Event()
    async with backend(reads_nothing) as there, transport_of() as transport:
        with pytest.raises(AnswerTimedOut):
            await exchange(transport, there.url, b"x" * 16_000_000, within=0.3)
        assert transport.open_connections == 0
        leave.set()


# --- not connected ---


async def test_a_refused_connection_is_unreachable() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with transport_of() as transport:
            with pytest.raises(ConnectFailed) as caught:
                await exchange(transport, f"http://127.0.0.1:{bound.getsockname()[1]}/hook")
            failure = caught.value.failure
            assert (failure.cause, failure.proxy_error) == (Cause.UNREACHABLE, ProxyError.CONNECTION_REFUSED)
            assert caught.value.retry_safe
            assert transport.open_connections == 0


@pytest.mark.parametrize("first", ["refused", "silent"])
async def test_the_second_address_of_a_name_answers_where_the_first_is_dead(first: str) -> None:
    async def two_addresses(host: str) -> tuple[str, ...]:
        return ("127.0.0.2", "127.0.0.1")

    async with backend(echo) as there, transport_of(Resolver(two_addresses), connect_timeout=2.0) as transport:
        url = f"http://backend.example:{there.port}/hook"
        if first == "refused":
            assert await exchange(transport, url, b"1") == b"1"
        else:
            with full_backlog("127.0.0.2", there.port):
                assert await exchange(transport, url, b"1") == b"1"
        assert transport.open_connections == 1


async def test_a_name_that_never_resolved_is_unreachable() -> None:
    async def fails(host: str) -> tuple[str, ...]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with transport_of(Resolver(fails)) as transport:
        with pytest.raises(ConnectFailed) as caught:
            await exchange(transport, "http://backend.example/hook")
        failure = caught.value.failure
        assert (failure.cause, failure.proxy_error) == (Cause.UNREACHABLE, ProxyError.DNS_ERROR)
        assert transport.open_connections == 0


@pytest.mark.parametrize("host", ["backend..example", "a" * 64 + ".example"])
async def test_a_host_that_is_no_possible_name_is_unreachable_too(host: str) -> None:
    async with transport_of() as transport:
        with pytest.raises(ConnectFailed) as caught:
            await exchange(transport, f"http://{host}/hook")
        assert caught.value.failure.cause is Cause.UNREACHABLE
        assert transport.open_connections == 0


async def test_a_look_up_that_hangs_ends_with_the_time_for_connecting() -> None:
    async def hangs(host: str) -> tuple[str, ...]:
        await asyncio.sleep(3600)
        return ()

    async with transport_of(Resolver(hangs), connect_timeout=0.05) as transport:
        with pytest.raises(ConnectTimedOut) as caught:
            await exchange(transport, "http://backend.example/hook", within=5.0)
        assert caught.value.failure.cause is Cause.UNREACHABLE
        assert transport.open_connections == 0


async def test_other_schemes_than_http_are_refused_in_httpxs_words() -> None:
    async with transport_of() as transport:
        with pytest.raises(httpx.UnsupportedProtocol):
            await exchange(transport, "ftp://127.0.0.1/hook")


# --- what is never written ---


@pytest.mark.parametrize(
    "header",
    [
        (b"X-A", b"a\r\nX-Injected: 1"),
        (b"X-A", b"a\r\n\r\nPOST /other HTTP/1.1"),
        (b"X-A", b"a\nX-Injected: 1"),
        (b"X-A", b"a\rX-Injected: 1"),
        (b"X-A", b"a\r\n X-Folded: 1"),
        (b"X-A", b"a\0b"),
        (b"X-A\r\nX-Injected", b"1"),
        (b"X-A\nX-Injected", b"1"),
    ],
)
async def test_a_header_that_would_begin_another_line_is_refused(header: tuple[bytes, bytes]) -> None:
    async with backend(echo) as there, transport_of() as transport:
        request = httpx.Request("POST", there.url, headers=[header], content=b"{}")
        with pytest.raises(httpx.LocalProtocolError):
            await transport.handle_async_request(request)
        assert (there.accepted, transport.open_connections, transport.queued) == (0, 0, 0)


async def test_bytes_above_127_in_a_header_go_on_as_they_are() -> None:
    async def play(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.answer()

    seen: list[bytes] = []
    async with backend(play) as there, transport_of() as transport:
        request = httpx.Request("POST", there.url, headers=[(b"X-Name", b"J\xfcrgen")], content=b"{}")
        await transport.handle_async_request(request)
        assert b"\r\nX-Name: J\xfcrgen\r\n" in seen[0]


# --- under httpx's own client, with httpx's own words ---


async def test_httpxs_client_works_on_top_of_it() -> None:
    async with backend(echo) as there, httpx.AsyncClient(transport=Transport(), trust_env=False) as client:
        for n in range(3):
            response = await client.post(there.url, json={"n": n})
            assert (response.status_code, response.json()) == (200, {"n": n})
        assert there.accepted == 1


async def test_httpxs_connect_timeout_holds() -> None:
    with full_backlog() as port:
        timeout = httpx.Timeout(5.0, connect=0.1)
        async with httpx.AsyncClient(transport=Transport(), trust_env=False, timeout=timeout) as client:
            with pytest.raises(httpx.ConnectTimeout):
                await client.post(f"http://127.0.0.1:{port}/hook")


async def test_httpxs_read_timeout_holds() -> None:
    async with backend(silence) as there:
        timeout = httpx.Timeout(5.0, read=0.1)
        async with httpx.AsyncClient(transport=Transport(), trust_env=False, timeout=timeout) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post(there.url)


async def test_httpxs_pool_timeout_holds() -> None:
    async with backend(silence) as there:
        transport = Transport(TransportSettings(max_connections=1))
        timeout = httpx.Timeout(5.0, pool=0.1)
        async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=timeout) as client:
            busy = asyncio.create_task(client.post(there.url))
            await until(lambda: there.open == 1)
            with pytest.raises(httpx.PoolTimeout):
                await client.post(there.url)
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)


async def test_httpxs_read_timeout_begins_when_the_request_has_its_connection() -> None:
    """httpx gives each phase its own time: what was spent in the queue is not taken from the answer's."""

    async def slow(peer: Peer) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(0.3)
            await peer.answer()

    async with backend(slow) as there:
        transport = Transport(TransportSettings(max_connections=1))
        timeout = httpx.Timeout(10.0, read=1.0)
        async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=timeout) as client:
            answers = await asyncio.gather(*(client.post(there.url) for _ in range(5)))
            assert [answered.status_code for answered in answers] == [200] * 5


async def test_httpxs_timeouts_may_be_off() -> None:
    client = httpx.AsyncClient(transport=Transport(), trust_env=False, timeout=None)
    async with backend(echo) as there, client:
        assert (await client.post(there.url, content=b"1")).content == b"1"


@pytest.mark.parametrize(
    ("data", "wanted"),
    [(b"", httpx.ReadError), (b"SSH-2.0-x\r\n", httpx.RemoteProtocolError), (b"HTTP/1.1 2", httpx.RemoteProtocolError)],
    ids=["nothing", "noise", "half_a_head"],
)
async def test_httpxs_client_sees_httpxs_errors(data: bytes, wanted: type[httpx.TransportError]) -> None:
    client = httpx.AsyncClient(transport=Transport(), trust_env=False)
    async with backend(Fixed(data, close=True).play) as there, client:
        with pytest.raises(wanted) as caught:
            await client.post(there.url)
        assert isinstance(caught.value, ExchangeError)
