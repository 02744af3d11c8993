"""The configuration of tracing: where spans go, and of how many hooks."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Final

from pydantic import Field

from gateway.config.sections.fields import URL_PATTERN, Headers, Section, parse_target_url
from gateway.config.sections.types import checked_text, number, text

_NEEDED: Final = "opentelemetry.proto.collector.trace.v1.trace_service_pb2"


def is_installed() -> bool:
    """Whether the packages of the optional extra ``otel`` are there; the module that needs them is not loaded."""
    try:
        return find_spec(_NEEDED) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def _endpoint(text: str) -> str:
    if "@" in text:
        raise ValueError("must not contain a user name or password: write Authorization under headers")
    url = parse_target_url(text)
    if url.endswith("/v1/traces"):
        raise ValueError("must not end with /v1/traces: the gateway appends that")
    return url


class Tracing(Section):
    """OpenTelemetry traces of the hooks, sent to a collector in batches."""

    endpoint: Annotated[str, checked_text(_endpoint, URL_PATTERN, "http://127.0.0.1:4318")] = Field(
        description="URL of a collector that accepts OTLP over HTTP; /v1/traces is appended. Required. The spans name "
        "apps, calls and sessions, so use https outside a trusted network."
    )
    sample: Annotated[float, number(0.0, 1.0)] = Field(
        default=0.1,
        description="Share of the hooks without a traceparent of their own that is traced, from 0 to 1; the others "
        "are traced if their traceparent says sampled. Default 0.1. A traced hook takes about two and a half times "
        "the CPU time of another.",
    )
    headers: Headers = Field(
        default={},
        description="Headers of the requests to the collector, such as Authorization. Default none. The values are "
        "secret.",
    )
    service_name: Annotated[
        str, text(r"^[^\x00-\x1f\x7f-\x9f]+$", "must be a name: 1 to 256 characters, no control characters", 256)
    ] = Field(
        default="wcs-gateway",
        description="Service name of the spans. Default wcs-gateway. With the same name, gateways that serve "
        "different media servers look like one.",
    )
