"""What proves who sent a hook: HTTP Basic credentials, and the media server's signature of the body."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from gateway.config.sections.fields import Password, Section, SigningKey, Username
from gateway.config.sections.types import ListLength, NotNull

MAX_KEYS: Final = 8


class Credentials(Section):
    """HTTP Basic credentials."""

    username: Username = Field(
        description="User name, without a colon. Required. If it differs from the other side's, every hook is rejected."
    )
    password: Password = Field(
        description="Password, best written as ${env:NAME} or ${file:/path}. Required. Written into the file, it is "
        "in every copy of the file."
    )


class Signature(Section):
    """The media server's signature of a hook: Authorization: WCS and the HMAC-MD5 of the body in hex."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": ["keys"]}, {"properties": {"mode": {"const": "pass"}}, "required": ["mode"]}]
        },
    )

    mode: Literal["verify", "pass"] = Field(
        default="verify",
        description="verify: a hook that none of the keys has signed is answered with 401 and reaches no backend; "
        "pass: the gateway checks nothing and forwards the header for the backend to check. Default verify. With "
        "pass, any client that can connect is trusted, unless the backend checks.",
    )
    keys: Annotated[tuple[SigningKey, ...], ListLength(1, MAX_KEYS, "keys")] = Field(
        default=(),
        description="The media server's rest_hook_secret_key; up to 8, so that a new one can be added before the old "
        "one is removed. Required to verify; best written as ${env:NAME} or ${file:/path}. Remove the old key "
        "afterwards: anyone who has it can sign hooks.",
    )
    upstream_key: Annotated[SigningKey | None, NotNull()] = Field(
        default=None,
        description="Key with which hooks are signed for the backend, in place of the media server's own signature. "
        "Default: that signature is forwarded unchanged. With mode pass, the backend then trusts hooks that the "
        "gateway has not checked.",
    )
