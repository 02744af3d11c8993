"""Tracing: spans of the hooks for an OpenTelemetry collector, made after the answer is sent, in a thread."""

from gateway.telemetry.tracing.switch import Tracing

__all__ = ["Tracing"]
