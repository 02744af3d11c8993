"""The front door: HTTP/1.1 as strictly as a security boundary reads it, with a deadline on everything."""

from gateway.http.server.limits import enforce_limits
from gateway.http.server.protocol import LINGER, FrontProtocol
from gateway.http.server.state import Answer, FrontLimits, FrontState

__all__ = ["LINGER", "Answer", "FrontLimits", "FrontProtocol", "FrontState", "enforce_limits"]
