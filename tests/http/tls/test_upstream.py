"""TLS to the backends: whose certificate is taken for theirs, what is shown to them, and what a reload changes."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support.faulty import Certificates, FaultyBackend, gated_case, tls_backend
from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.secured import IMPATIENT

PATIENCE: Final = 10.0
VERSIONS: Final = {"1.0": ssl.TLSVersion.TLSv1, "1.1": ssl.TLSVersion.TLSv1_1, "1.2": ssl.TLSVersion.TLSv1_2}


def config(upstreams: dict[str, dict[str, Any]]) -> str:
    """An app for each upstream, of the same name."""
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "drain_timeout": "2s"},
            "defaults": {"timeout": "8s", "dedupe": "off"},
            "upstreams": {
                name: {"breaker": "off", "connect_timeout": "5s", "retry": {"attempts": 1}, **upstream}
                for name, upstream in upstreams.items()
            },
            "apps": {name: {"upstream": name} for name in upstreams},
        }
    )


def ask(gateway: RunningGateway, app: str) -> httpx.Response:
    return gateway.hook(body=json.dumps({"appKey": app, "callId": uuid.uuid4().hex}).encode())


def reload(gateway: RunningGateway, upstreams: dict[str, dict[str, Any]]) -> None:
    gateway.write_config(config(upstreams))
    answer = gateway.post("/-/reload")
    assert answer.status_code == 200, answer.text


def versioned(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    """The context with this version as its only one, however old."""
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the old versions, which are what is tried
        context.minimum_version = context.maximum_version = version
    return context


def is_spoken_here(certificates: Certificates, version: ssl.TLSVersion) -> bool:
    """Whether this machine's OpenSSL can do such an old handshake at all."""
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.create_default_context(cafile=certificates.ca)
    try:
        client = versioned(trusting, version).wrap_bio(one, other, server_hostname="localhost")
        server = versioned(certificates.server("valid"), version).wrap_bio(other, one, server_side=True)
        for side in (client, server, client, server, client):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLError:
        return False
    return client.version() is not None


# --- whose certificate is taken ---


class Backends:
    """One backend per certificate, and one that asks for ours."""

    def __init__(self, certificates: Certificates, stack: contextlib.ExitStack) -> None:
        self.by_kind = {
            kind: stack.enter_context(tls_backend(certificates, kind))
            for kind in ("valid", "expired", "wrong_host", "self_signed")
        }
        self.asking = stack.enter_context(tls_backend(certificates, "valid", ask_client=True))
        self.plain = stack.enter_context(FaultyBackend())

    def url(self, kind: str, host: str = "127.0.0.1") -> str:
        return self.by_kind[kind].url_of("ok").replace("127.0.0.1", host)


@pytest.fixture(scope="module")
def backends(ours: Certificates) -> Iterator[Backends]:
    with contextlib.ExitStack() as stack:
        yield Backends(ours, stack)


@pytest.fixture(scope="module")
def gateway(
    backends: Backends, ours: Certificates, theirs: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    def shown(pair: tuple[Path, Path]) -> dict[str, str]:
        return {"certificate": str(pair[0]), "key": str(pair[1])}

    ca = {"ca": str(ours.ca)}
    upstreams: dict[str, dict[str, Any]] = {
        "valid": {"url": backends.url("valid"), "tls": ca},
        "valid-by-name": {"url": backends.url("valid", "localhost"), "tls": ca},
        "valid-by-system": {"url": backends.url("valid")},
        "valid-by-another": {"url": backends.url("valid"), "tls": {"ca": str(theirs.ca)}},
        "expired": {"url": backends.url("expired"), "tls": ca},
        "wrong-host": {"url": backends.url("wrong_host"), "tls": ca},
        "self-signed": {"url": backends.url("self_signed"), "tls": ca},
        "self-signed-pinned": {"url": backends.url("self_signed"), "tls": {"ca": str(ours.self_signed[0])}},
        "renamed": {"url": backends.url("wrong_host"), "tls": {**ca, "server_name": "elsewhere.example"}},
        "renamed-wrongly": {"url": backends.url("valid"), "tls": {**ca, "server_name": "elsewhere.example"}},
        "host-is-no-name": {"url": backends.url("wrong_host"), "tls": ca, "host": "elsewhere.example"},
        "asks": {"url": backends.asking.url_of("ok"), "tls": {**ca, **shown(ours.client)}},
        "asks-in-vain": {"url": backends.asking.url_of("ok"), "tls": ca},
        "asks-for-another": {"url": backends.asking.url_of("ok"), "tls": {**ca, **shown(theirs.client)}},
        "plain": {"url": backends.plain.url_of("ok").replace("http:", "https:"), "tls": ca, "connect_timeout": "500ms"},
        "http-to-tls": {"url": backends.url("valid").replace("https:", "http:")},
    }
    with running_gateway(config(upstreams), tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.mark.parametrize("app", ["valid", "valid-by-name", "self-signed-pinned", "renamed", "asks"])
def test_a_backend_that_proves_who_it_is_decides(gateway: RunningGateway, app: str) -> None:
    answer = ask(gateway, app)
    assert answer.status_code == 200
    assert "proxy-status" not in answer.headers


@pytest.mark.parametrize(
    "app",
    [
        "valid-by-system", "valid-by-another", "expired", "wrong-host", "self-signed", "renamed-wrongly",
        "host-is-no-name",
    ],
)  # fmt: skip
def test_a_backend_that_does_not_is_unreachable_and_never_sees_the_hook(
    gateway: RunningGateway, backends: Backends, app: str
) -> None:
    seen = [len(backend.requests) for backend in backends.by_kind.values()]
    answer = ask(gateway, app)
    assert answer.status_code == 403
    assert answer.content == b""
    assert answer.headers["proxy-status"] == "gateway; error=tls_certificate_error"
    line = gateway.access_line(answer.headers["x-request-id"])
    assert (line["reason"], line["source"]) == ("unreachable", "fallback")
    assert "certificate refused" in line["error"]
    assert [len(backend.requests) for backend in backends.by_kind.values()] == seen


def test_the_log_says_what_is_wrong_with_a_certificate(gateway: RunningGateway) -> None:
    for app, words in (
        ("expired", "expired"), ("wrong-host", "mismatch"), ("self-signed", "self-signed"),
        ("valid-by-another", "unable to get local issuer"),
    ):  # fmt: skip
        line = gateway.access_line(ask(gateway, app).headers["x-request-id"])
        assert words in line["error"].lower()


@pytest.mark.parametrize("app", ["asks-in-vain", "asks-for-another"])
def test_a_backend_that_asks_for_a_certificate_in_vain_is_unreachable(
    gateway: RunningGateway, backends: Backends, app: str
) -> None:
    seen = len(backends.asking.requests)
    answer = ask(gateway, app)
    assert (answer.status_code, answer.content) == (403, b"")
    assert gateway.access_line(answer.headers["x-request-id"])["reason"] == "unreachable"
    assert len(backends.asking.requests) == seen


@pytest.mark.parametrize(
    ("app", "reasons"), [("plain", {"unreachable"}), ("http-to-tls", {"unreachable", "bad_answer"})]
)
def test_tls_and_plain_text_do_not_mix(gateway: RunningGateway, app: str, reasons: set[str]) -> None:
    answer = ask(gateway, app)
    assert answer.status_code == 403
    assert gateway.access_line(answer.headers["x-request-id"])["reason"] in reasons


def test_connections_over_tls_are_kept_alive(gateway: RunningGateway, backends: Backends) -> None:
    backend = backends.by_kind["valid"]
    before = backend.accepted
    for _ in range(8):
        assert ask(gateway, "valid").status_code == 200
        assert ask(gateway, "valid-by-name").status_code == 200
    assert backend.accepted - before <= 2
    used = {request.connection for request in backend.requests[-16:]}
    assert len(used) <= 2


def test_the_hook_arrives_byte_for_byte_also_over_tls(gateway: RunningGateway, backends: Backends) -> None:
    body = json.dumps({"appKey": "valid", "sdp": "v=0\r\n" * 30_000, "id": uuid.uuid4().hex}, indent=3).encode()
    assert len(body) > 5 * 16384  # several TLS records
    assert gateway.hook(body=body).status_code == 200
    assert backends.by_kind["valid"].requests[-1].body == body


def test_a_version_is_spoken_only_with_the_upstream_that_is_allowed_to(ours: Certificates, tmp_path: Path) -> None:
    trusted = {"ca": str(ours.ca)}
    upstreams: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        backends = {}
        for version, number in VERSIONS.items():
            context = versioned(ours.server("valid"), number)
            backend = backends[version] = stack.enter_context(FaultyBackend(context))
            url = backend.url_of("ok")
            upstreams[f"{version}-allowed"] = {"url": url, "tls": {**trusted, "minimum_version": version}}
            upstreams[f"{version}-untrusted"] = {"url": url, "tls": {"minimum_version": version}}
            upstreams[f"{version}-default"] = {"url": url, "tls": trusted}
            upstreams[f"{version}-new"] = {"url": url, "tls": {**trusted, "minimum_version": "1.3"}}
        gateway = stack.enter_context(running_gateway(config(upstreams), tmp_path))
        spoken = [version for version, number in VERSIONS.items() if is_spoken_here(ours, number)]
        for version in spoken:
            assert ask(gateway, f"{version}-allowed").status_code == 200
            refused = ["untrusted", "new", *(["default"] if version != "1.2" else [])]
            for app in refused:
                answer = ask(gateway, f"{version}-{app}")
                assert answer.status_code == 403
                assert gateway.access_line(answer.headers["x-request-id"])["reason"] == "unreachable"
            assert len(backends[version].requests) == 1
        assert ask(gateway, "1.2-default").status_code == 200
        if len(spoken) < len(VERSIONS):
            pytest.skip(f"of the old versions, this OpenSSL speaks {spoken} alone, even at SECLEVEL=0")


def test_a_handshake_that_the_backend_breaks_off_is_a_tls_protocol_error(ours: Certificates, tmp_path: Path) -> None:
    context = versioned(ours.server("valid"), ssl.TLSVersion.TLSv1_2)

    def refuse(listener: socket.socket) -> None:  # as Apache does: with an alert before the end
        sock, _ = listener.accept()
        with sock, contextlib.suppress(ssl.SSLError):
            context.wrap_socket(sock, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        refusing = pool.submit(refuse, listener)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/rest"
        with running_gateway(
            config({"u": {"url": url, "tls": {"ca": str(ours.ca), "minimum_version": "1.3"}}}), tmp_path
        ) as gateway:
            answer = ask(gateway, "u")
            refusing.result(PATIENCE)
            assert (answer.status_code, answer.headers["proxy-status"]) == (403, "gateway; error=tls_protocol_error")
            assert "alert" in gateway.access_line(answer.headers["x-request-id"])["error"].lower()


# --- what a reload changes ---


def test_a_reload_that_changes_tls_applies_to_the_very_next_hook(
    ours: Certificates, theirs: Certificates, tmp_path: Path
) -> None:
    with FaultyBackend(versioned(ours.server("valid"), ssl.TLSVersion.TLSv1_2)) as backend:
        right = {"u": {"url": backend.url_of("ok"), "tls": {"ca": str(ours.ca)}}}
        with running_gateway(config(right), tmp_path) as gateway:
            for number, change in enumerate(
                ({"ca": str(theirs.ca)}, {"server_name": "elsewhere.example"}, {"minimum_version": "1.3"}), 1
            ):
                assert ask(gateway, "u").status_code == 200
                assert backend.wait_for_connections(1, within=PATIENCE)
                reload(gateway, {"u": {"url": backend.url_of("ok"), "tls": {"ca": str(ours.ca), **change}}})
                assert backend.wait_for_connections(0, within=PATIENCE)
                assert ask(gateway, "u").status_code == 403
                assert len(backend.requests) == number
                reload(gateway, right)


def test_a_reload_that_leaves_tls_alone_leaves_its_connections_alone(ours: Certificates, tmp_path: Path) -> None:
    with tls_backend(ours, "valid") as backend:
        upstream = {"url": backend.url_of("ok"), "tls": {"ca": str(ours.ca)}}
        with running_gateway(config({"u": upstream}), tmp_path) as gateway:
            assert ask(gateway, "u").status_code == 200
            reload(gateway, {"u": {**upstream, "max_connections": 7}})
            assert ask(gateway, "u").status_code == 200
            assert backend.accepted == 1


def test_a_connection_that_is_busy_while_tls_changes_ends_with_its_hook(
    ours: Certificates, theirs: Certificates, tmp_path: Path
) -> None:
    with gated_case() as opened, tls_backend(ours, "valid") as backend, ThreadPoolExecutor(1) as pool:
        url = backend.url_of("gated")
        with running_gateway(config({"u": {"url": url, "tls": {"ca": str(ours.ca)}}}), tmp_path) as gateway:
            hook = pool.submit(ask, gateway, "u")
            assert backend.wait_for_requests(1, "gated", within=PATIENCE)
            reload(gateway, {"u": {"url": url, "tls": {"ca": str(theirs.ca)}}})
            opened.set()
            assert hook.result(PATIENCE).status_code == 200
            assert backend.wait_for_connections(0, within=PATIENCE)
            # The authority that vouched for that connection is trusted no more.
            answer = ask(gateway, "u")
            assert (answer.status_code, answer.headers["proxy-status"]) == (
                403, "gateway; error=tls_certificate_error",
            )  # fmt: skip
            assert len(backend.requests) == 1


def test_files_that_are_renewed_under_their_names_are_in_use_after_a_reload(
    ours: Certificates, theirs: Certificates, tmp_path: Path
) -> None:
    ca, certificate, key = (tmp_path / name for name in ("ca.pem", "client.pem", "client.key"))

    def install(made: Certificates) -> None:
        for path, source in ((ca, made.ca), (certificate, made.client[0]), (key, made.client[1])):
            shutil.copy(source, path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)

    install(theirs)
    tls = {"ca": str(ca), "certificate": str(certificate), "key": str(key)}
    with tls_backend(ours, "valid", ask_client=True) as backend:
        upstreams = {"u": {"url": backend.url_of("ok"), "tls": tls}}
        with running_gateway(config(upstreams), tmp_path) as gateway:
            assert ask(gateway, "u").status_code == 403
            install(ours)
            assert gateway.post("/-/reload").status_code == 200
            assert ask(gateway, "u").status_code == 200
            install(theirs)
            assert gateway.post("/-/reload").status_code == 200
            assert ask(gateway, "u").status_code == 403
            assert len(backend.requests) == 1


# --- what happens without one ---


class UpstreamFiles:
    """The PEM files that an upstream's ``tls`` names, to be replaced under it."""

    def __init__(self, directory: Path, made: Certificates) -> None:
        self.ca, self.certificate, self.key = (directory / name for name in ("ca.pem", "client.pem", "client.key"))
        self.install(made)

    def install(self, made: Certificates) -> None:
        for path, source in ((self.ca, made.ca), (self.certificate, made.client[0]), (self.key, made.client[1])):
            self.put(source.read_bytes(), path)

    def put(self, data: bytes, path: Path) -> None:
        path.with_suffix(".new").write_bytes(data)
        path.with_suffix(".new").replace(path)

    @property
    def section(self) -> dict[str, str]:
        return {"ca": str(self.ca), "certificate": str(self.certificate), "key": str(self.key)}


def test_files_that_are_renewed_under_their_names_are_seen_without_a_reload(
    ours: Certificates, theirs: Certificates, tmp_path: Path
) -> None:
    files = UpstreamFiles(tmp_path, ours)
    health = {"path": "/rest/my_api/ok/x", "interval": "500ms", "timeout": "500ms"}
    with tls_backend(ours, "valid", ask_client=True) as backend, tls_backend(theirs, "valid") as other:
        upstreams: dict[str, dict[str, Any]] = {
            "u": {"url": backend.url_of("ok"), "tls": files.section, "health": health},
            "other": {"url": other.url_of("ok"), "tls": {"ca": str(theirs.ca)}},
        }
        with running_gateway(config(upstreams), tmp_path, program=IMPATIENT) as gateway:
            assert ask(gateway, "u").status_code == 200
            assert ask(gateway, "other").status_code == 200
            files.install(theirs)
            # Connections made by the old files are dropped, new ones are not made, and the health check says so.
            assert wait_until(lambda: gateway.metric("gateway_target_up", upstream="u") == 0)
            assert backend.wait_for_connections(0, within=PATIENCE)
            assert ask(gateway, "u").status_code == 403
            assert ask(gateway, "other").status_code == 200
            assert other.accepted == 1  # whose files are the same keeps its connections
            files.install(ours)
            assert wait_until(lambda: gateway.metric("gateway_target_up", upstream="u") == 1)
            assert ask(gateway, "u").status_code == 200
            assert gateway.metric("gateway_config_reloads_total") == 0


def test_a_hook_under_way_while_files_are_renewed_is_answered_and_its_connection_not_used_again(
    ours: Certificates, theirs: Certificates, tmp_path: Path
) -> None:
    files = UpstreamFiles(tmp_path, ours)
    with gated_case() as opened, tls_backend(ours, "valid") as backend, ThreadPoolExecutor(1) as pool:
        upstreams = {"u": {"url": backend.url_of("gated"), "tls": {"ca": str(files.ca)}}}
        with running_gateway(config(upstreams), tmp_path, program=IMPATIENT) as gateway:
            hook = pool.submit(ask, gateway, "u")
            assert backend.wait_for_requests(1, "gated", within=PATIENCE)
            files.install(theirs)
            assert gateway.wait_for_line(lambda line: "upstreams.u.tls" in line.get("message", ""))
            opened.set()
            assert hook.result(PATIENCE).status_code == 200
            assert backend.wait_for_connections(0, within=PATIENCE)
            assert ask(gateway, "u").status_code == 403


def test_renewed_files_that_cannot_be_used_are_told_of_once_and_the_old_ones_stay(
    ours: Certificates, theirs: Certificates, tmp_path: Path
) -> None:
    files = UpstreamFiles(tmp_path, ours)
    with tls_backend(ours, "valid", ask_client=True) as backend:
        upstreams = {name: {"url": backend.url_of("ok"), "tls": files.section} for name in ("u", "v")}
        with running_gateway(config(upstreams), tmp_path, program=IMPATIENT) as gateway:

            def told() -> list[str]:
                return [line["message"] for line in gateway.lines() if "cannot be used" in line.get("message", "")]

            assert ask(gateway, "u").status_code == 200
            # A renewal replaces two files, one after the other: between the two, they do not fit each other.
            files.put(theirs.client[0].read_bytes(), files.certificate)
            assert wait_until(lambda: len(told()) == 1)
            assert "upstreams.u.tls, upstreams.v.tls" in told()[0]
            assert ask(gateway, "u").status_code == 200
            assert backend.accepted == 1
            files.key.unlink()
            assert wait_until(lambda: len(told()) == 2)
            assert not wait_until(lambda: len(told()) != 2, 0.5)  # several looks
            assert ask(gateway, "v").status_code == 200
            files.install(ours)
            assert gateway.wait_for_line(lambda line: "are in use" in line.get("message", ""))
            assert ask(gateway, "u").status_code == 200


# --- health checks ---


def test_health_checks_speak_tls_on_the_upstream_s_terms_also_after_a_reload(
    ours: Certificates, theirs: Certificates, tmp_path: Path
) -> None:
    health = {"path": "/rest/my_api/ok/x", "interval": "500ms", "timeout": "500ms"}

    def upstreams(tls: dict[str, str]) -> dict[str, dict[str, Any]]:
        return {"u": {"url": backend.url_of("ok"), "tls": tls, "health": health}}

    with tls_backend(ours, "valid", ask_client=True) as backend:
        shown = {"certificate": str(ours.client[0]), "key": str(ours.client[1])}
        good = {"ca": str(ours.ca), **shown}
        with running_gateway(config(upstreams(good)), tmp_path) as gateway:

            def is_up(value: int) -> Callable[[], bool]:
                return lambda: gateway.metric("gateway_target_up", upstream="u") == value

            def checks() -> int:
                return sum(request.method == "GET" for request in backend.requests)

            assert wait_until(lambda: checks() >= 3)
            assert is_up(1)()
            for wrong in ({"ca": str(theirs.ca), **shown}, {**good, "server_name": "elsewhere.example"}):
                reload(gateway, upstreams(wrong))
                assert wait_until(is_up(0))
                reload(gateway, upstreams(good))
                assert wait_until(is_up(1))
            assert ask(gateway, "u").status_code == 200


def test_the_days_of_an_upstream_s_client_certificate_are_a_metric(gateway: RunningGateway, ours: Certificates) -> None:
    days = gateway.metric("gateway_certificate_days_to_expiry", certificate=str(ours.client[0]))
    assert 1.5 < days <= 2
