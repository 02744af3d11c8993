"""The exchanges of the media server's documentation, replayed through a gateway: byte for byte both ways."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.support.gateways import RunningGateway, running_gateway

WIRE: Final = Path(__file__).parent.parent.parent.parent / "shared" / "wire"


class Message(NamedTuple):
    """A captured request or answer; the captured lengths count an SDP that the text leaves out."""

    start: str
    fields: dict[str, str]
    body: bytes

    def head(self) -> bytes:
        fields = {**self.fields, "Content-Length": str(len(self.body))}
        return "\r\n".join((self.start, *(f"{name}: {value}" for name, value in fields.items()), "", "")).encode()


class Exchange(NamedTuple):
    request: Message
    answer: Message


def message(text: str) -> Message:
    head, _, body = text.strip("\n").partition("\n\n")
    start, *lines = head.splitlines()
    return Message(start, dict(line.split(": ", 1) for line in lines), body.strip("\n ").encode())


@pytest.fixture(scope="module")
def exchanges() -> list[Exchange]:
    """The accepted and the refused call."""
    path = WIRE / "type-4-incoming-call.txt"
    if not path.exists():
        pytest.skip(f"the shared captures are not there ({path.name})")
    first, rest_of_first, yes, second, no = re.findall(r"```\n(.*?)\n```", path.read_text("utf-8"), re.DOTALL)
    return [
        Exchange(message(f"{first}\n{rest_of_first}"), message(yes)),
        Exchange(message(second), message(no)),
    ]


class RawBackend:
    """Answers each connection's one request with the bytes that the test says and closes it, as the old Apache does."""

    def __init__(self, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self.answer = b""
        self.requests: list[tuple[bytes, bytes]] = []
        """Head and body of each."""
        self._listener = listener

    def run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock, sock.makefile("rb") as stream:
                sock.settimeout(10)
                head = b"".join(iter(stream.readline, b"\r\n"))
                length = re.search(rb"(?im)^content-length: (\d+)\r$", head)
                assert length is not None
                self.requests.append((head, stream.read(int(length[1]))))
                sock.sendall(self.answer)


@pytest.fixture(scope="module")
def backend() -> Iterator[RawBackend]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        backend = RawBackend(listener)
        thread = threading.Thread(target=backend.run, daemon=True)
        thread.start()
        try:
            yield backend
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            thread.join(5)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def gateway(backend: RawBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = {
        "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "defaults": {"dedupe": "off"},
        "upstreams": {"apache": {"url": f"http://127.0.0.1:{backend.port}/rest/my_api", "host": "preserve"}},
        "apps": {"defaultApp": {"upstream": "apache", "timeout": "5s"}},
    }
    with running_gateway(json.dumps(config), tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.mark.parametrize("number", [0, 1], ids=["accepted", "refused"])
def test_a_captured_call_goes_through_byte_for_byte_and_so_does_its_verdict(
    exchanges: list[Exchange], gateway: RunningGateway, backend: RawBackend, number: int
) -> None:
    request, answer = exchanges[number]
    assert json.loads(request.body)["appKey"] == "defaultApp"
    backend.answer = answer.head() + answer.body
    before = len(backend.requests)
    for _ in range(2):  # the second meets the connection that the backend has closed
        status, headers, body = gateway.send(request.head() + request.body)
        assert status == int(answer.start.split()[1])
        assert body == answer.body
        assert headers["content-length"] == str(len(answer.body))
        assert headers.get("content-type") == ("application/json" if status == 200 else None)
        assert headers.keys().isdisjoint({"server", "x-powered-by", "proxy-status"})
        assert headers.get("connection") != "close"  # that word was for the gateway
    assert len(backend.requests) == before + 2
    for head, seen in backend.requests[before:]:
        lines = head.decode().split("\r\n")
        assert lines[0] == request.start
        assert seen == request.body
        kept = {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in lines[1:] if line}
        for name in ("Accept", "Content-Type", "User-Agent", "Host"):
            assert kept[name.lower()] == request.fields[name]
        assert kept["content-length"] == str(len(request.body))


def test_the_refused_call_is_empty_on_the_wire(exchanges: list[Exchange]) -> None:
    answer = exchanges[1].answer
    assert (answer.start, answer.body, answer.fields["Content-Length"]) == ("HTTP/1.1 403 Forbidden", b"", "0")


@pytest.mark.parametrize("name", ["OnCallEvent.json", "OnCallEvent-sdp.json"])
def test_a_captured_body_comes_back_as_the_backend_returned_it(
    gateway: RunningGateway, backend: RawBackend, name: str
) -> None:
    path = WIRE / name
    if not path.exists():
        pytest.skip(f"the shared captures are not there ({name})")
    body = path.read_bytes()
    changed = body.replace(b"PPP005", b"PPP006")
    assert changed != body
    apache = (
        "HTTP/1.1 200 OK\r\nDate: Tue, 28 Feb 2017 17:35:44 GMT\r\nServer: Apache/2.2.15 (CentOS)\r\n"
        f"X-Powered-By: PHP/5.3.3\r\nContent-Length: {len(changed)}\r\nConnection: close\r\n"
        "Content-Type: application/json\r\n\r\n"
    ).encode()
    backend.answer = apache + changed
    before = len(backend.requests)
    answer = gateway.hook(body=body)
    assert (answer.status_code, answer.content) == (200, changed)
    assert [seen for _, seen in backend.requests[before:]] == [body]
    assert gateway.metric("gateway_upstream_retries_total") == 0
