"""Every input that a fuzzer has found, and the seeds that it begins with, keep the promises of their target."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.fuzz.fuzz_targets import TARGETS

FOUND: Final = Path(__file__).parent / "found"
INPUTS: Final = sorted(path for path in FOUND.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_input_that_was_found_keeps_the_promises(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


def test_every_target_has_inputs() -> None:
    assert {path.parent.name for path in INPUTS} == set(TARGETS)
