"""The gateway's metrics: cheap to record on the hot path, exposed in Prometheus's text format."""

from gateway.telemetry.metrics.registry import Metrics

__all__ = ["Metrics"]
