"""The hot path's price in CPU instructions, held to the figure on record; see ``bench/instructions.py``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.instructions import ALLOWED, Recorded, build_key, count, figure_for, record, recorded, regression
from tests.support.programs import require

FIGURE = Recorded(100_000, "3.11.2 (GCC 12.2.0)", "valgrind-3.19.0", "2024-01-02")


@pytest.mark.slow
@pytest.mark.real
def test_a_hook_takes_no_more_than_a_fifth_above_the_instructions_on_record(tmp_path: Path) -> None:
    require("valgrind", "valgrind")
    figure = figure_for(build_key(), recorded())
    if figure is None:
        pytest.skip(f"no figure on record for anything like {build_key()}; `make bench-record` records one")
    counted = count(tmp_path)
    complaint = regression(counted.per_hook, figure)
    assert complaint is None, complaint


def test_more_than_a_fifth_above_the_record_is_a_regression_and_says_how_to_record_anew() -> None:
    limit = FIGURE.instructions_per_hook * (1 + ALLOWED)
    assert regression(limit, FIGURE) is None
    complaint = regression(limit + 1000, FIGURE)
    assert complaint is not None
    assert "121,000 instructions, 21% more than the 100,000" in complaint
    assert "make bench-record" in complaint


def test_a_python_without_a_figure_of_its_own_is_held_to_the_highest_of_its_kind() -> None:
    own, low, high = (FIGURE._replace(instructions_per_hook=n) for n in (300, 100, 200))
    figures = {"cpython-3.11.2-x86_64": own, "cpython-3.12.1-x86_64": low, "cpython-3.12.2-x86_64": high}
    assert figure_for("cpython-3.11.2-x86_64", figures) is own
    assert figure_for("cpython-3.12.9-x86_64", figures) is high
    assert figure_for("cpython-3.12.1-aarch64", figures) is None
    assert figure_for("cpython-3.1.2-x86_64", figures) is None


@pytest.mark.real
def test_a_new_figure_takes_the_place_of_this_python_s_own_and_leaves_the_others(tmp_path: Path) -> None:
    require("valgrind", "valgrind")  # its version is recorded
    path = tmp_path / "instructions.json"
    assert recorded(path) == {}
    others = {"instructions_per_hook": 7, "python": "", "valgrind": "", "date": ""}
    path.write_text(json.dumps({"cpython-3.99.0-pdp11": others}))
    for per_hook in (1000.4, 2000.6):
        record(per_hook, path)
    figures = recorded(path)
    assert {key: figure.instructions_per_hook for key, figure in figures.items()} == {
        "cpython-3.99.0-pdp11": 7,
        build_key(): 2001,
    }
