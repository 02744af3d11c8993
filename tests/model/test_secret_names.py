"""Names of fields that hold secrets are known as such, and others are not."""

from __future__ import annotations

from typing import Final

import pytest

from gateway.model.secret_names import is_secret_name

SECRET_NAMES: Final = [
    "password", "restPassword", "sip_password", "PASSWD", "secret", "rest_hook_secret_key", "authToken", "token",
    "Authorization", "Proxy-Authorization", "hash", "passwordHash", "apiKey", "cookie", "pwd", "credentials",
    "ha1", "sipHA1", "nonce", "otp", "userPin",
]  # fmt: skip
PLAIN_NAMES: Final = [
    "hasAudio", "hasHold", "caller", "sdp", "status", "holdForTransfer", "mediaProvider", "hashtag", "sessionId", "a",
    "author", "spinner", "alpha1",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_these_fields_hold_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_these_fields_do_not(name: str) -> None:
    assert not is_secret_name(name)
