"""What proves who sends a hook: HTTP Basic credentials, and the media server's signature of the body."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from gateway.config.sections.fields import Password, Section, SigningKey, Username
from gateway.config.sections.types import ListLength, NotNull

MAX_KEYS: Final = 8


class Credentials(Section):
    """HTTP Basic credentials."""

    username: Username = Field(
        description="User name, without a colon. Required; with another than the other side's, every hook is refused."
    )
    password: Password = Field(
        description="Password, best written as ${env:NAME} or ${file:/path}. Required; in the file itself, it is in "
        "every copy of the file."
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
        "pass: nothing is checked here, the header goes on for the backend to check. Default verify; with pass, "
        "whoever can connect is believed, unless the backend checks.",
    )
    keys: Annotated[tuple[SigningKey, ...], ListLength(1, MAX_KEYS, "keys")] = Field(
        default=(),
        description="The media server's rest_hook_secret_key; up to 8, so that a new one can be in place before the "
        "old one goes. Required to verify; best written as ${env:NAME} or ${file:/path}. Remove the old one "
        "afterwards, for whoever has it can sign hooks.",
    )
    upstream_key: Annotated[SigningKey | None, NotNull()] = Field(
        default=None,
        description="Key with which hooks are signed anew for the backend, in place of the media server's own "
        "signature. Default: that goes on as it came. With mode pass, the backend then trusts hooks that nobody has "
        "checked.",
    )
