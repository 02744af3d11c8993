"""What several workers have in common besides sessions: duplicates, limits and ejections hold in sum.

All of it lies in one file in memory (a memfd) that the supervisor makes and every worker maps. What several of them
change is changed under a lock of the kernel's that nobody waits for, and that is released when its owner dies; what is
counted on every hook has a word of each worker's own, and only the sum is read. One worker alone has nothing of this.
"""

from gateway.policy.shared.breakers import SharedBreaker
from gateway.policy.shared.claims import Claim, Claims
from gateway.policy.shared.limits import AppLimits, HookCount, RescaledLimiter, SharedLimiter
from gateway.policy.shared.memory import Memory
from gateway.policy.shared.quotas import POLL_EVERY, Quota
from gateway.policy.shared.supervisor import SharedMemory
from gateway.policy.shared.worker import SharedState

__all__ = [
    "POLL_EVERY",
    "AppLimits",
    "Claim",
    "Claims",
    "HookCount",
    "Memory",
    "Quota",
    "RescaledLimiter",
    "SharedBreaker",
    "SharedLimiter",
    "SharedMemory",
    "SharedState",
]
