"""Tracing: spans of the hooks for an OpenTelemetry collector, made after the answer is out, sent by a thread."""

from gateway.telemetry.tracing.switch import Tracing

__all__ = ["Tracing"]
