"""Sockets that systemd hands over: which are taken, which are rejected and with what words."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from gateway.config import Address
from gateway.server.sockets import StartError, bind
from gateway.server.systemd_sockets import HandedOver
from tests.support.gateways import ROOT, read_answer, running_gateway, wait_until
from tests.support.hand_over import HasDescriptor, handing_over
from tests.support.programs import free_port, require

BODY: Final = b'{"appKey":"a"}'
HOOK: Final = b"POST /OnCallEvent HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
FIRST: Final = 300
"""Above the descriptors that the tests have open."""


def listening(host: str = "127.0.0.1") -> socket.socket:
    return socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def variables(names: str, count: int) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names, "HOME": "/"}


@contextlib.contextmanager
def handed_over(names: str, *given: HasDescriptor) -> Iterator[HandedOver]:
    """Copies of what is given, under these names, as a new process finds them."""
    for number, descriptor in enumerate(given, FIRST):
        os.dup2(descriptor.fileno(), number)
    sockets = HandedOver(variables(names, len(given)), FIRST)
    yield sockets
    sockets.close_rest()


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def test_all_sockets_of_a_name_are_taken_ready_to_accept_from() -> None:
    with (
        listening() as one, listening("::1") as two, listening() as admin,
        handed_over("hooks:admin:hooks", one, admin, two) as sockets,
    ):  # fmt: skip
        taken = sockets.take("hooks")
        assert [sock.getsockname() for sock in taken] == [one.getsockname(), two.getsockname()]
        for sock in taken:
            assert not sock.get_inheritable()
            assert not sock.getblocking()
            sock.close()
        with pytest.raises(ValueError, match="no socket of this name"):
            sockets.take("hooks")


def test_what_is_not_taken_is_named_and_closed() -> None:
    with listening() as one, listening() as two, handed_over("hooks:web", one, two) as sockets:
        (taken,) = sockets.take("hooks")
        assert sockets.close_rest() == ["web"]
        assert [is_open(FIRST), is_open(FIRST + 1)] == [True, False]
        taken.close()


def test_its_variables_are_removed_and_no_others() -> None:
    for names in ("hooks", ""):
        environment = variables(names, 0) | {"LISTEN_PIDFDID": "5"}
        HandedOver(environment, FIRST)
        assert environment == {"HOME": "/"}


def test_what_does_not_listen_on_a_stream_is_rejected_with_what_to_write(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        datagram = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        connected = stack.enter_context(socket.create_connection(stack.enter_context(listening()).getsockname()))
        file = stack.enter_context((tmp_path / "file").open("w"))
        sockets = stack.enter_context(handed_over("datagram:connected:file", datagram, connected, file))
        for number, (name, reason) in enumerate(
            {
                "datagram": "is not a stream socket: write ListenStream= in the socket unit",
                "connected": "does not listen: write Accept=no in the socket unit",
                "file": "is not a socket: write ListenStream= in the socket unit",
            }.items(),
            FIRST,
        ):
            with pytest.raises(ValueError, match=rf"^descriptor {number} {reason}$"):
                sockets.take(name)
            assert not is_open(number)


def test_where_one_of_a_name_is_rejected_none_stays_open() -> None:
    with listening() as good, socket.socket() as bad, handed_over("hooks:hooks", good, bad) as sockets:
        with pytest.raises(ValueError, match="does not listen"):
            sockets.take("hooks")
        assert not is_open(FIRST)


def test_a_name_that_was_not_handed_over_is_reported_with_those_that_were() -> None:
    words = "only admin, web: write one of these, or FileDescriptorName=hooks in the socket unit$"
    with (
        listening() as sock, handed_over("web:admin", sock, sock) as sockets,
        pytest.raises(ValueError, match=f"^systemd handed over no socket of this name, {words}"),
    ):  # fmt: skip
        sockets.take("hooks")


def test_without_sockets_it_says_how_to_get_them() -> None:
    for environment in ({}, variables("hooks", 0), variables("hooks", 1) | {"LISTEN_FDS": "x"}):
        nothing = HandedOver(environment, FIRST)
        with pytest.raises(
            ValueError, match=r"^systemd handed over no sockets: stop the service, then systemctl enable"
        ):
            nothing.take("hooks")
        assert nothing.close_rest() == []


def test_sockets_for_another_process_are_left_alone() -> None:
    with listening() as sock:
        os.dup2(sock.fileno(), FIRST)
        others = HandedOver(variables("hooks", 1) | {"LISTEN_PID": "1"}, FIRST)
        words = rf"to process 1, and the gateway is process {os.getpid()}: start it directly"
        with pytest.raises(ValueError, match=words):
            others.take("hooks")
        assert others.close_rest() == []
        os.close(FIRST)


def test_descriptors_without_names_have_the_name_that_systemd_gives_them() -> None:
    with listening() as sock, handed_over("", sock) as sockets:
        (taken,) = sockets.take("unknown")
        with taken:
            assert taken.getsockname() == sock.getsockname()


def test_a_port_that_systemd_holds_is_reported_with_what_to_write() -> None:
    with listening() as sock, socket.socket(socket.AF_UNIX) as unix, handed_over("unix:web", unix, sock) as sockets:
        address = Address(*sock.getsockname())
        words = rf"^cannot listen on {address} \(server\.listen\): address already in use.*; systemd hands over this"
        with pytest.raises(StartError, match=rf"{words} socket: write systemd:web$"):
            bind([address], "server.listen", sockets)
        with listening() as other, pytest.raises(StartError) as caught:
            bind([Address(*other.getsockname())], "server.listen", sockets)
        assert "systemd" not in str(caught.value)


# --- a gateway with them ---


def config(listen: object, admin: str = "127.0.0.1:0", **server: object) -> str:
    return json.dumps({"server": {"listen": listen, "admin": admin, **server}, "apps": {"a": {"static": "allow"}}})


def start_in_vain(text: str, directory: Path, sockets: Sequence[tuple[str, socket.socket]]) -> str:
    """The one line of a gateway that does not start."""
    (directory / "gateway.yaml").write_text(text)
    done = subprocess.run(
        [*handing_over(sockets), "run", "-c", str(directory / "gateway.yaml")],
        pass_fds=[sock.fileno() for _, sock in sockets], cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line


def test_a_start_without_its_sockets_is_exit_status_1_and_a_line_that_says_what_to_do(tmp_path: Path) -> None:
    with listening() as sock:
        line = start_in_vain(config("systemd:hooks"), tmp_path, [("web", sock)])
    assert (
        "cannot listen on systemd:hooks (server.listen): systemd handed over no socket of this name, only web" in line
    )


def test_sockets_of_both_kinds_are_served_and_systemd_s_own_stay_usable(tmp_path: Path) -> None:
    path = tmp_path / "systemd.sock"
    with socket.socket(socket.AF_UNIX) as unix, listening() as admin, listening() as unused:
        unix.bind(str(path))
        unix.listen(8)
        given = [("hooks", unix), ("admin", admin), ("unused", unused)]
        descriptors = [sock.fileno() for _, sock in given]
        text = config(["127.0.0.1:0", "systemd:hooks"], "systemd:admin")
        with running_gateway(text, tmp_path, program=handing_over(given), pass_fds=descriptors) as gateway:
            ready = gateway.wait_for_line(lambda line: line.get("event") == "ready")
            assert ready["hooks"][1] == f"unix:{path}"
            assert ready["admin"] == "{}:{}".format(*admin.getsockname())
            assert gateway.hook(body=BODY).status_code == 200
            with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as stream:
                client.connect(str(path))
                client.sendall(HOOK)
                assert read_answer(stream).status == 200
            unused_line = gateway.wait_for_line(lambda line: line.get("event") == "unused_socket")
            assert unused_line["name"] == "unused"
            changes = gateway.reload(config("127.0.0.1:0", "systemd:admin"))["changes"]
            assert changes == ["server.listen changed (takes effect after a restart)"]
            gateway.client.close()
            assert gateway.stop() == 0
        for sock in (unix, admin, unused):
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))  # its file is there, and it listens


def test_systemd_s_own_program_starts_it_at_the_first_connection(tmp_path: Path) -> None:
    program = require("systemd-socket-activate", "systemd")
    hooks, admin = free_port(), free_port()
    path = tmp_path / "gateway.yaml"
    path.write_text(config("systemd:hooks", "systemd:admin"))
    command = [
        *(program, "-l", f"127.0.0.1:{hooks}", "-l", f"127.0.0.1:{admin}", "--fdname=hooks:admin"),
        *("-E", f"PATH={os.environ.get('PATH', os.defpath)}"),
        *(sys.executable, "-m", "gateway", "run", "-c", str(path)),
    ]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        first: list[socket.socket] = wait_until(lambda: connections(hooks))
        with first[0] as client, client.makefile("rb") as stream:
            client.sendall(HOOK)
            assert read_answer(stream).status == 200, (tmp_path / "log").read_text()
    finally:
        process.terminate()
        assert process.wait(60) == 0


def connections(port: int) -> list[socket.socket]:
    try:
        return [socket.create_connection(("127.0.0.1", port), timeout=60)]
    except ConnectionRefusedError:
        return []
