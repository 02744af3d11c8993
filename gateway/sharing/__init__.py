"""What several workers have in common besides sessions: duplicates, limits and ejections hold in sum.

All of it lies in one file in memory (a memfd) that the supervisor makes and every worker maps. What several of them
change is changed under a lock of the kernel's that nobody waits for, and that is released when its owner dies; what is
counted on every hook has a word of each worker's own, and only the sum is read. One worker alone has nothing of this.
"""

from gateway.sharing.breakers import SharedBreaker
from gateway.sharing.claims import Claim, Claims
from gateway.sharing.limits import AppLimits, Bucket, Places
from gateway.sharing.memory import Memory
from gateway.sharing.quotas import POLL_EVERY, Quota
from gateway.sharing.supervisor import SharedMemory
from gateway.sharing.worker import Shared

__all__ = [
    "POLL_EVERY",
    "AppLimits",
    "Bucket",
    "Claim",
    "Claims",
    "Memory",
    "Places",
    "Quota",
    "Shared",
    "SharedBreaker",
    "SharedMemory",
]
