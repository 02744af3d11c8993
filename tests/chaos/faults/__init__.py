"""The faults, by class. Each begins, lasts a while, and is over when its function returns: it leaves nothing behind."""

# In this order, for a seed draws from the classes as they were entered.
from tests.chaos.faults import process_faults, file_faults, client_faults, surroundings  # isort: skip
from tests.chaos.faults.registry import FAULTS

__all__ = ["FAULTS", "client_faults", "file_faults", "process_faults", "surroundings"]
