"""The admin port: what it answers, whom it lets in, and what it never shows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.admin import console
from gateway.admin.endpoints import AdminState
from gateway.admin.lifecycle import Lifecycle
from gateway.admin.peer_auth import sign
from gateway.admin.reload import Reloader
from gateway.admin.rpc import NoWorkers
from gateway.config import Loaded, loads
from gateway.server.app import admin_app
from gateway.server.fleet_local import FleetLocal, make_fleet
from gateway.telemetry.metrics import Metrics
from tests.support.gateways import LISTEN, RunningGateway, running_gateway

TOKEN: Final = "token-of-the-admin"
PASSWORD: Final = "password-of-the-backend"
LITERAL: Final = "key-written-out"
CONFIG: Final = (
    LISTEN
    + f"""
admin: {{token: "${{env:TEST_ADMIN_TOKEN}}"}}
upstreams:
  u:
    url: http://127.0.0.1:9/rest
    headers: {{X-Api-Key: {LITERAL}}}
    credentials: {{username: wcs, password: "${{env:TEST_PASSWORD}}"}}
apps:
  a: {{upstream: u, timeout: 500ms}}
  b: {{static: allow}}
"""
)
ENVIRONMENT: Final = {"TEST_ADMIN_TOKEN": TOKEN, "TEST_PASSWORD": PASSWORD}
READS: Final = ["/metrics", "/-/healthy", "/-/ready", "/api/status", "/api/config"]
OPEN_TO_ALL: Final = ["/-/healthy", "/-/ready"]
SECURITY_HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}
ELSEWHERE: Final = ("192.0.2.1", 1)
OWN_ADDRESS: Final = "192.0.2.7:9180"
FLEET: Final = f"{CONFIG}state: {{url: 'redis://127.0.0.1:1/0'}}\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(CONFIG, tmp_path_factory.mktemp("token"), environment=ENVIRONMENT) as running:
        yield running


@pytest.fixture(scope="module")
def open_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Without a token."""
    with running_gateway(LISTEN, tmp_path_factory.mktemp("open")) as running:
        yield running


# --- the endpoints ---


def test_metrics_are_in_prometheus_text_format(gateway: RunningGateway) -> None:
    answer = gateway.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "gateway_build_info" in {family.name for family in text_string_to_metric_families(answer.text)}


def test_healthy_and_ready_say_so_though_the_backend_is_dead(gateway: RunningGateway) -> None:
    assert gateway.hook(body=b'{"appKey":"a"}').status_code == 403
    for path, text in (("/-/healthy", "healthy"), ("/-/ready", "ready")):
        answer = gateway.get(path)
        assert (answer.status_code, answer.text.strip()) == (200, text)


def test_status_says_what_runs_since_when_and_with_what(gateway: RunningGateway) -> None:
    status = gateway.get("/api/status").json()
    assert status["phase"] == "ready"
    assert status["uptime_seconds"] > 0
    assert status["workers"] == [gateway.pid]
    assert status["version"]
    assert status["started"] <= status["config"]["loaded"]
    shown = {key: status["config"][key] for key in ("path", "apps", "upstreams", "last_reload_successful")}
    assert shown == {"path": str(gateway.config), "apps": 2, "upstreams": 1, "last_reload_successful": True}


def test_the_configuration_is_shown_as_written_with_every_literal_secret_masked(gateway: RunningGateway) -> None:
    shown = gateway.get("/api/config").json()
    upstream = shown["upstreams"]["u"]
    assert upstream["url"] == "http://127.0.0.1:9/rest"
    assert upstream["credentials"] == {"username": "wcs", "password": "${env:TEST_PASSWORD}"}
    assert list(upstream["headers"]) == ["X-Api-Key"]
    assert shown["admin"] == {"token": "${env:TEST_ADMIN_TOKEN}"}
    assert shown["apps"]["a"]["timeout"] == "500ms"


def test_no_secret_is_on_any_page(gateway: RunningGateway) -> None:
    pages = [gateway.get(path).text for path in READS]
    pages += [gateway.post("/-/reload", headers=BEARER).text, gateway.log.read_text()]
    for secret in (TOKEN, PASSWORD, LITERAL):
        assert not any(secret in page for page in pages)


@pytest.mark.parametrize(
    "path", ["/nothing", "/-/", "/api", "/api/", "/metrics/", "/-/healthy/x", "/%2e%2e/etc/passwd"]
)
def test_any_other_path_is_404(open_gateway: RunningGateway, path: str) -> None:
    answer = open_gateway.client.get(f"http://{open_gateway.admin}{path}", follow_redirects=True)
    assert answer.status_code in ((200, 404) if path == "/metrics/" else (404,))


@pytest.mark.parametrize("path", READS)
def test_what_only_tells_is_read_and_never_posted_to(open_gateway: RunningGateway, path: str) -> None:
    assert open_gateway.post(path).status_code == 405
    assert open_gateway.client.head(f"http://{open_gateway.admin}{path}").status_code == 200


def test_a_reload_is_posted_and_never_read(open_gateway: RunningGateway) -> None:
    before = open_gateway.metric("gateway_config_reloads_total")
    assert open_gateway.get("/-/reload").status_code == 405
    assert open_gateway.metric("gateway_config_reloads_total") == before


@pytest.mark.parametrize("path", [*READS, "/nothing", "/-/reload"])
def test_every_answer_carries_the_security_headers(gateway: RunningGateway, path: str) -> None:
    for answer in (gateway.get(path), gateway.post(path)):
        assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers


def test_a_hook_sent_to_the_admin_port_is_none(open_gateway: RunningGateway) -> None:
    assert open_gateway.post("/rest/my_api/OnCallEvent", content=b'{"appKey":"a"}').status_code == 404
    assert open_gateway.metric("gateway_hooks_total") == 0


# --- who may ---


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer"}, {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"}, {"Authorization": f"Bearer {TOKEN}x"}, {"X-Token": TOKEN},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
    ],
)  # fmt: skip
def test_every_post_asks_for_the_token_even_on_loopback(gateway: RunningGateway, headers: dict[str, str]) -> None:
    before = gateway.metric("gateway_config_reloads_total")
    answer = gateway.post("/-/reload", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert gateway.metric("gateway_config_reloads_total") == before


def test_the_token_in_the_query_is_no_token(gateway: RunningGateway) -> None:
    assert gateway.post(f"/-/reload?token={TOKEN}&access_token={TOKEN}").status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_post_with_the_token_may_steer(gateway: RunningGateway, scheme: str) -> None:
    assert gateway.post("/-/reload", headers={"Authorization": f"{scheme} {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("path", READS)
def test_loopback_reads_without_the_token(gateway: RunningGateway, path: str) -> None:
    assert gateway.get(path).status_code == 200


def test_a_client_that_claims_to_be_on_loopback_is_not_believed(gateway: RunningGateway) -> None:
    headers = {"X-Forwarded-For": "127.0.0.1", "Host": "localhost"}
    assert gateway.post("/-/reload", headers=headers).status_code == 401


def test_without_a_token_loopback_may_steer(open_gateway: RunningGateway) -> None:
    assert open_gateway.post("/-/reload").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://127.0.0.1:9180", "Sec-Fetch-Site": "same-origin"},
    ],
)  # fmt: skip
def test_without_a_token_a_browser_may_not_steer(open_gateway: RunningGateway, headers: dict[str, str]) -> None:
    before = open_gateway.metric("gateway_config_reloads_total")
    assert open_gateway.post("/-/reload", headers=headers).status_code == 403
    assert open_gateway.metric("gateway_config_reloads_total") == before


async def ask(
    text: str,
    method: str,
    path: str,
    client: tuple[str, int],
    directory: Path,
    base: str = "http://127.0.0.1:9180",
    **headers: str,
) -> httpx.Response:
    """One request to the admin app itself, from an address that no test can have."""
    path_of_config = directory / "gateway.yaml"
    path_of_config.write_text(text)
    metrics = Metrics("0")
    reloader = Reloader(loads(text, str(path_of_config)), metrics, nothing_to_do)
    lifecycle = Lifecycle()
    local = FleetLocal(reloader, lifecycle, NoWorkers(), OWN_ADDRESS)
    fleet = make_fleet(reloader.loaded.config, metrics, local)
    state = AdminState(reloader, lifecycle, metrics.render, fleet=fleet)
    transport = httpx.ASGITransport(admin_app(state), client=client)
    async with httpx.AsyncClient(transport=transport, base_url=base) as asker:
        return await asker.request(method, path, headers=headers)


async def nothing_to_do(loaded: Loaded) -> None:
    """Who puts a configuration in force, where nothing serves hooks."""


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize("path", [*(path for path in READS if path not in OPEN_TO_ALL), "/nothing", "/-/ready/"])
async def test_who_is_not_on_loopback_reads_nothing_without_the_token(path: str, tmp_path: Path) -> None:
    answer = await ask(CONFIG, "GET", path, ELSEWHERE, tmp_path)
    assert answer.status_code == 401
    assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize("text", [CONFIG, LISTEN])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("path", "status"), [("/-/healthy", 200), ("/-/ready", 503)])
async def test_a_probe_from_anywhere_learns_whether_the_process_lives_and_takes_hooks(
    path: str, status: int, method: str, text: str, tmp_path: Path
) -> None:
    for client in (ELSEWHERE, ("127.0.0.1", 1)):
        answer = await ask(text, method, path, client, tmp_path, base="http://gateway-0.hooks.example:9180")
        assert answer.status_code == status
        assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize("path", sorted(console.PATHS))
async def test_the_console_s_files_are_given_to_all_but_answer_no_post(path: str, tmp_path: Path) -> None:
    answer = await ask(CONFIG, "GET", path, ELSEWHERE, tmp_path)
    assert answer.status_code == 200
    assert answer.headers.get_list("content-security-policy") == [console.CONTENT_SECURITY_POLICY]
    assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert (await ask(CONFIG, "POST", path, ELSEWHERE, tmp_path)).status_code == 401


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize("path", OPEN_TO_ALL)
async def test_what_is_read_by_all_is_not_posted_to_from_elsewhere(path: str, tmp_path: Path) -> None:
    assert (await ask(CONFIG, "POST", path, ELSEWHERE, tmp_path)).status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:9180", 200), ("127.0.0.1", 200), ("[::1]:9180", 200), ("192.0.2.1:9180", 200),
        ("evil.example", 403), ("evil.example:9180", 403), ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)  # fmt: skip
async def test_a_page_whose_name_leads_to_loopback_reads_nothing(host: str, status: int, tmp_path: Path) -> None:
    # Its browser sends the page's own name as Host, though that name may have another address by now.
    for method, path in (("GET", "/api/config"), ("POST", "/-/reload")):
        answer = await ask(LISTEN, method, path, ("127.0.0.1", 1), tmp_path, base=f"http://{host}")
        assert answer.status_code == status


@pytest.mark.usefixtures("secrets")
async def test_who_has_the_token_may_ask_by_any_name(tmp_path: Path) -> None:
    answer = await ask(CONFIG, "GET", "/metrics", ("127.0.0.1", 1), tmp_path, base="http://gw.example", **BEARER)
    assert answer.status_code == 200


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/metrics", 200), ("POST", "/-/reload", 200), ("GET", "/-/ready", 503), ("GET", "/nothing", 404)],
)
async def test_who_has_the_token_may_do_all_from_anywhere(method: str, path: str, status: int, tmp_path: Path) -> None:
    answer = await ask(CONFIG, method, path, ELSEWHERE, tmp_path, **BEARER)
    assert answer.status_code == status


def signed(path: str, token: str = TOKEN, host: str = OWN_ADDRESS, *, age: float = 0.0) -> dict[str, str]:
    """The headers of another gateway of the fleet."""
    return {"Authorization": sign(token, host, path, time.time() - age)}


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize("path", ["/api/fleet/self", "/api/status", "/api/decisions?q=%2B49&places=1"])
async def test_another_gateway_with_the_same_token_reads_what_the_fleet_shows(path: str, tmp_path: Path) -> None:
    answer = await ask(FLEET, "GET", path, ELSEWHERE, tmp_path, base=f"http://{OWN_ADDRESS}", **signed(path))
    assert answer.status_code == 200, answer.text


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize(
    ("text", "method", "path", "made", "host"),
    [
        (CONFIG, "GET", "/api/status", {}, OWN_ADDRESS),
        (FLEET, "POST", "/-/reload", {}, OWN_ADDRESS),
        (FLEET, "GET", "/api/config", {}, OWN_ADDRESS),
        (FLEET, "GET", "/api/spool/export", {}, OWN_ADDRESS),
        (FLEET, "GET", "/api/status", {"token": "another"}, OWN_ADDRESS),
        (FLEET, "GET", "/api/status", {"path": "/api/fleet/self"}, OWN_ADDRESS),
        (FLEET, "GET", "/api/status", {"host": "192.0.2.8:9180"}, "192.0.2.8:9180"),
        (FLEET, "GET", "/api/status", {"host": "192.0.2.8:9180"}, OWN_ADDRESS),
        (FLEET, "GET", "/api/status", {"age": 2000.0}, OWN_ADDRESS),
    ],
    ids=[
        "no fleet", "an action", "the configuration", "whole numbers", "another token", "another question",
        "passed on by the one it was made for", "made for another", "old",
    ],
)  # fmt: skip
async def test_a_signature_is_of_no_use_for_anything_else(
    text: str, method: str, path: str, made: dict[str, Any], host: str, tmp_path: Path
) -> None:
    headers = signed(**{"path": path, **made})
    answer = await ask(text, method, path, ELSEWHERE, tmp_path, base=f"http://{host}", **headers)
    assert answer.status_code == 401


@pytest.mark.parametrize(("method", "path"), [("GET", "/metrics"), ("GET", "/api/config"), ("POST", "/-/reload")])
@pytest.mark.parametrize("token", ["", "x", TOKEN])
async def test_without_a_configured_token_nobody_gets_in_from_elsewhere(
    method: str, path: str, token: str, tmp_path: Path
) -> None:
    answer = await ask(LISTEN, method, path, ELSEWHERE, tmp_path, Authorization=f"Bearer {token}")
    assert answer.status_code == 401


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200), ("127.8.9.10", 200), ("::1", 200), ("::ffff:127.0.0.1", 200),
        ("10.0.0.1", 401), ("0.0.0.0", 401), ("::ffff:192.0.2.1", 401), ("fe80::1", 401), ("localhost.evil", 401),
        ("", 401),
    ],
)  # fmt: skip
async def test_loopback_is_what_the_address_says(host: str, status: int, tmp_path: Path) -> None:
    answer = await ask(CONFIG, "GET", "/api/status", (host, 1), tmp_path)
    assert answer.status_code == status
