"""The front door: HTTP/1.1 as strictly as a security boundary reads it, with a deadline on everything."""

from gateway.front.protocol import LINGER, FrontLimits, FrontProtocol, FrontState

__all__ = ["LINGER", "FrontLimits", "FrontProtocol", "FrontState"]
