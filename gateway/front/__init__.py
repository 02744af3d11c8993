"""The front door: HTTP/1.1 as strictly as a security boundary reads it, with a deadline on everything."""

from gateway.front.lowering import put_in_force
from gateway.front.protocol import LINGER, FrontLimits, FrontProtocol, FrontState

__all__ = ["LINGER", "FrontLimits", "FrontProtocol", "FrontState", "put_in_force"]
