"""The bench's own arithmetic: what it reads off its programs, and what it makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench import fill, store
from tests.bench.contenders import Kind
from tests.bench.hooks import APP_MARK, CALL_MARK, STRIDE, call_body, raw_request
from tests.bench.load import Answers, LoadError, parse_wrk, percentile
from tests.bench.plot import Bar, Panel, drawing
from tests.bench.procstat import cpu_seconds, family, memory, parse_rollup, parse_stat
from tests.bench.rate import is_whole
from tests.bench.readme import BEGIN, END, section, summary
from tests.bench.scenarios import SCENARIOS, Measurement, Outcome, Result, hooks_total
from tests.bench.targets import Measured, judged


def outcome(name: str, **cpu_us: list[float]) -> Outcome:
    results = [
        Result(each, Kind(each), "", [Measurement(cpu, 1.0, 1.0, 1.0, 1.0) for cpu in rounds], 1, 1, 1)
        for each, rounds in cpu_us.items()
    ]
    return Outcome(name, name, 16, 3614, results)


def test_a_programs_name_in_proc_may_hold_anything() -> None:
    line = "17 (odd) name (R) ) S 4 17 17 0 -1 4194560 100 0 0 0 250 75 9 9 20 0 1 0 100 1000 10"
    assert parse_stat(line) == (4, 325)


def test_memory_is_read_in_bytes() -> None:
    text = "5500-7fff ---p 00000000 00:00 0   [rollup]\nRss:    2048 kB\nPss:     1000 kB\nPss_Dirty:  8 kB\n"
    assert parse_rollup(text) == (2048 * 1024, 1000 * 1024)


def test_a_process_counts_with_its_children() -> None:
    spin = "import time\nwhile time.process_time() < 0.2: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin + chr(10) + 'input()'!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 20
        while len(family(process.pid)) < 2 or cpu_seconds(process.pid) < 0.2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        held = memory(process.pid)
        assert 0 < held.pss <= held.rss
        process.communicate(b"\n", timeout=20)


def test_this_process_is_the_first_of_its_family() -> None:
    assert family(os.getpid())[0] == os.getpid()


def test_wrks_figures_are_found_among_its_words() -> None:
    figures = {"hooks": 9, "seconds": 1.5, "p50_us": 1, "p99_us": 2, "p999_us": 3, "refused": 4, "broken": 5}
    load = parse_wrk(f"Running 1s test\n  Latency  1.00ms\nbench {json.dumps(figures)}\n")
    assert vars(load) == figures


def test_wrk_without_figures_is_an_error() -> None:
    with pytest.raises(LoadError, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1:1")


@given(st.lists(st.floats(0, 10), min_size=1), st.sampled_from([50.0, 99.0, 99.9, 100.0]))
def test_a_percentile_is_the_least_value_that_so_many_keep_within(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    within = sum(value <= found for value in values)
    below = sum(value < found for value in values)
    assert within * 100 >= percent * len(values) > below * 100


def test_a_hook_that_waits_through_a_stall_counts_for_it() -> None:
    answers = Answers(due=[1.0, 2.0, 5.0], latencies=[3.0, 0.5, 9.0], statuses={}, unanswered=0)
    assert answers.longest(3.5, 4.5) == 3.0


def test_a_round_is_compared_with_the_same_round() -> None:
    measured = outcome("any", gateway=[90.0, 300.0, 60.0], haproxy=[30.0, 100.0, 30.0])
    assert measured.ratio("gateway", "haproxy") == 3.0


@pytest.mark.parametrize(("cpu", "verdict"), [(30.0, "aim reached"), (40.0, "reached"), (40.1, "missed")])
def test_a_target_is_judged_by_what_is_shown(cpu: float, verdict: str) -> None:
    measured = Measured([outcome("keepalive-16", gateway=[cpu], haproxy=[10.0], aiohttp=[1000.0])])
    against_haproxy, against_aiohttp = judged(measured)
    assert against_haproxy.verdict == verdict
    assert against_aiohttp.verdict == "aim reached"


@given(st.integers(1000, 40_000))
def test_a_hook_is_as_long_as_asked_and_has_room_for_its_names(size: int) -> None:
    body = call_body(size)
    assert len(body) == size
    assert body.count(APP_MARK) == body.count(CALL_MARK) == 1
    assert json.loads(body)["appKey"] == "app-{APP}"
    assert raw_request(body, "h").index(APP_MARK) < raw_request(body, "h").index(CALL_MARK)
    assert (len(APP_MARK), len(CALL_MARK)) == (len(f"{0:05}"), len(f"{0:06}-{0:09}"))


@pytest.mark.parametrize("apps", sorted({entrant.setting.apps for each in SCENARIOS for entrant in each.entrants}))
def test_every_app_has_its_turn(apps: int) -> None:
    assert len({number * STRIDE % apps for number in range(apps)}) == apps


def test_counters_are_read_by_their_labels() -> None:
    text = '# TYPE gateway_hooks_total counter\ngateway_hooks_total{app="a",source="backend"} 12.0\nother{} 1\n'
    assert hooks_total(text) == {'app="a",source="backend"': 12.0}


@pytest.mark.parametrize("cut", [10, 38, 44])
def test_an_answer_is_whole_with_its_last_byte(cut: int) -> None:
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}'
    assert not is_whole(answer[:cut])
    assert is_whole(answer)


def test_the_plot_is_drawn_to_scale() -> None:
    bars = [Bar("one & two", 50.0, "gateway"), Bar("other", 200.0, "haproxy")]
    tree = ElementTree.fromstring(drawing("title", "under it", [Panel("panel", bars)]))
    small, large = (float(bar.attrib["width"]) for bar in tree.iter("{http://www.w3.org/2000/svg}rect"))
    assert large == 4 * small


@pytest.mark.parametrize(("document", "made"), [("README.md", summary), ("docs/performance.md", section)])
def test_the_documents_say_what_the_last_run_measured(document: str, made: Callable[[Any], str]) -> None:
    root = Path(__file__).parent.parent
    data = json.loads((root / "tests/bench/results/latest.json").read_text("utf-8"))
    text = (root / document).read_text("utf-8")
    assert text.split(BEGIN)[1].split(END)[0] == made(data), "run `make bench`"


def test_every_target_of_the_benchmark_is_reported() -> None:
    root = Path(__file__).parent.parent
    data = json.loads((root / "tests/bench/results/latest.json").read_text("utf-8"))
    text = (root / "docs/performance.md").read_text("utf-8")
    assert all(target["title"] in text for target in data["targets"])


# --- the store's ---


def test_events_that_fill_a_store_are_of_as_many_calls_and_as_long_as_is_asked_for() -> None:
    made = list(fill.events(3, "off-00000", "off", 3600))
    assert len({event.key for event in made}) == len({event.digest for event in made}) == 3
    assert {len(event.body) for event in made} == {3600}
    assert [json.loads(event.body)["callId"] for event in made] == [event.call_id for event in made]
    assert json.loads(made[0].body)["appKey"] == "off-00000"
    assert sorted(event.received for event in made) == [event.received for event in made]


def test_a_figure_of_the_store_is_a_table() -> None:
    assert store.table([("what", "kept"), ("1/s", 7)]) == "| what | kept |\n| --- | --: |\n| 1/s | 7 |"
