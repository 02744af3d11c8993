"""Scripts: the digest is the one by which the server knows them."""

from __future__ import annotations

from gateway.fleet.scripts import Script
from tests.support.redis import RedisServer


def test_the_digest_is_the_server_s(server: RedisServer) -> None:
    script = Script("return {KEYS[1], KEYS[2], ARGV[1]}  -- é")
    assert server.command("SCRIPT", "LOAD", script.text) == script.digest.encode()
    assert server.command(*script.command(["a", "b"], ["c"])) == [b"a", b"b", b"c"]  # type: ignore[arg-type]
    server.command("SCRIPT", "FLUSH")
    assert "NOSCRIPT" in str(server.command(*script.command([], [])))  # type: ignore[arg-type]
    assert server.command(*script.whole_command(["a", "b"], ["c"])) == [b"a", b"b", b"c"]  # type: ignore[arg-type]
