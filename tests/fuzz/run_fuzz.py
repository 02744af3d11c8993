"""Runs one target under atheris: ``python tests/fuzz/run_fuzz.py TARGET CORPUS… [-max_total_time=180 …]``.

The options are libFuzzer's. What makes a target fail is written to ``crash-*``; ``-minimize_crash=1 -runs=10000
crash-…`` makes it smaller. A small one that was mended goes into ``found/TARGET/``, where ``test_found.py`` keeps it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # has a venv of its own: make fuzz

HERE = Path(__file__).parent

with atheris.instrument_imports(include=["gateway", "tests.fuzz", "yaml", "json"]):
    targets = importlib.import_module("tests.fuzz.fuzz_targets").TARGETS


def main() -> None:
    """Fuzz the named target until libFuzzer's options say stop."""
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        raise SystemExit(f"which target? one of: {', '.join(targets)}")
    name = sys.argv.pop(1)
    words = HERE / "words" / f"{name}.dict"
    if words.exists():
        sys.argv.append(f"-dict={words}")
    atheris.Setup(sys.argv, targets[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
