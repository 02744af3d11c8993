"""Metrics of several processes: what each has counted is in one scrape, and stays when it dies."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.decision import UNKNOWN_APP
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.metrics.cells import Counter, MetricCells
from gateway.telemetry.metrics.shared import WorkerMetrics
from tests.support.gateways import ROOT
from tests.support.samples import (
    LONGEST_HOOK,
    Clock,
    apps_of,
    assert_histograms_hold,
    decision,
    label_values,
    samples_of,
    values,
)


def worker_of(foreign: WorkerMetrics) -> Metrics:
    """The metrics of a worker that counts into this memory."""
    return Metrics("1", MetricCells(foreign.values_fd, foreign.names_fd))


@pytest.fixture
def others() -> Iterator[list[WorkerMetrics]]:
    """The memory of three workers."""
    made = [WorkerMetrics() for _ in range(3)]
    yield made
    for foreign in made:
        foreign.close()


def test_a_scrape_adds_up_what_all_processes_have_counted(others: list[WorkerMetrics]) -> None:
    ours = Metrics("1")
    ours.configure({"a", "b"}, set())
    ours.record(decision("a", duration=0.3))
    for number, foreign in enumerate(others):
        worker = worker_of(foreign)
        worker.configure({"a", "b"}, set())
        for _ in range(number):
            worker.record(decision("a", duration=0.3, upstream_duration=0.0))
    worker.record(decision("b"))
    read = samples_of(ours.render(others))
    assert_histograms_hold(read)
    assert values(read, "gateway_hooks_total", app="a") == [1 + 0 + 1 + 2]
    assert values(read, "gateway_hooks_total", app="b") == [1]
    assert values(read, "gateway_hook_duration_seconds_bucket", app="a", le="0.25") == [0]
    assert values(read, "gateway_hook_duration_seconds_bucket", app="a", le="0.5") == [4]
    (total,) = values(read, "gateway_hook_duration_seconds_sum", app="a")
    assert math.isclose(total, 1.2)


def test_what_a_worker_goes_on_counting_is_in_the_next_scrape(others: list[WorkerMetrics]) -> None:
    ours, worker = Metrics("1"), worker_of(others[0])
    for expected in (1, 2, 3):
        worker.worker_deaths.inc()
        assert values(samples_of(ours.render(others)), "gateway_worker_deaths_total") == [expected]


def test_a_scrape_changes_nothing_of_what_is_counted(others: list[WorkerMetrics]) -> None:
    ours, worker = Metrics("1"), worker_of(others[0])
    worker.record(decision(UNKNOWN_APP))
    ours.record(decision(UNKNOWN_APP))
    wanted = values(samples_of(ours.render(others)), "gateway_hooks_total")
    assert wanted == values(samples_of(ours.render(others)), "gateway_hooks_total") == [2]
    assert values(samples_of(ours.render()), "gateway_hooks_total") == [1]


def test_hooks_in_flight_add_up_over_the_processes(others: list[WorkerMetrics]) -> None:
    for number, foreign in enumerate(others):
        worker_of(foreign).in_flight.with_labels("a").set(number + 1)
    assert values(samples_of(Metrics("1").render(others)), "gateway_hooks_in_flight", app="a") == [6]


@pytest.mark.parametrize(("said", "shown"), [((1, 1, 1), 1), ((1, 0, 1), 0), ((0, 0, 0), 0)])
def test_a_target_is_down_where_one_process_has_it_ejected(
    others: list[WorkerMetrics], said: tuple[int, ...], shown: int
) -> None:
    for foreign, up in zip(others, said, strict=True):
        worker_of(foreign).target_up.with_labels("u", "t").set(up)
    assert values(samples_of(Metrics("1").render(others)), "gateway_target_up", target="t") == [shown]


def test_the_configuration_s_load_and_the_build_are_told_once_and_not_added_up(others: list[WorkerMetrics]) -> None:
    ours = Metrics("1")
    ours.record_load(successful=True)
    before = values(samples_of(ours.render()), "gateway_config_last_reload_success_timestamp_seconds")
    for foreign in others:
        worker_of(foreign)
    read = samples_of(ours.render(others))
    assert values(read, "gateway_config_last_reload_successful") == [1]
    assert values(read, "gateway_config_last_reload_success_timestamp_seconds") == before
    assert values(read, "gateway_build_info", version="1") == [1]


def test_what_a_dead_worker_had_counted_stays_and_its_gauges_end(others: list[WorkerMetrics]) -> None:
    ours, worker = Metrics("1"), worker_of(others[0])
    ours.record(decision(UNKNOWN_APP))
    worker.record(decision(UNKNOWN_APP, "connect"))
    worker.record(decision(UNKNOWN_APP))
    worker.in_flight.with_labels(UNKNOWN_APP).inc()
    before = samples_of(ours.render(others[:1]))
    ours.inherit(others[0])
    after = samples_of(ours.render())
    counted = {key: value for key, value in before.items() if key[0].startswith(("gateway_hook", "gateway_overhead"))}
    level = {key for key in counted if key[0] == "gateway_hooks_in_flight"}
    assert {key: after[key] for key in counted.keys() - level} == {key: counted[key] for key in counted.keys() - level}
    assert values(before, "gateway_hooks_in_flight") == [1]
    assert sum(values(after, "gateway_hooks_in_flight")) == 0


def test_a_worker_that_is_killed_has_counted_all_the_same(others: list[WorkerMetrics]) -> None:
    foreign = others[0]
    program = (
        "import os, signal\n"
        "from gateway.telemetry.metrics import Metrics\n"
        "from gateway.telemetry.metrics.cells import MetricCells\n"
        f"metrics = Metrics('1', MetricCells({foreign.values_fd}, {foreign.names_fd}))\n"
        "metrics.attempts.with_labels('u', 't', 'ok').inc(3)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    fds = (foreign.values_fd, foreign.names_fd)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, pass_fds=fds, timeout=60)
    assert done.returncode == -signal.SIGKILL
    ours = Metrics("1")
    ours.inherit(foreign)
    assert values(samples_of(ours.render()), "gateway_upstream_attempts_total", upstream="u") == [3]


def test_series_that_a_worker_removed_are_not_read_from_it(others: list[WorkerMetrics]) -> None:
    ours, worker = Metrics("1"), worker_of(others[0])
    worker.configure({"a", "b"}, set())
    worker.record(decision("a"))
    worker.record(decision("b"))
    assert apps_of(samples_of(ours.render(others)), "gateway_hooks_total") == {"a", "b"}
    worker.configure({"b"}, set())
    assert apps_of(samples_of(ours.render(others)), "gateway_hooks_total") == {"b"}


def test_cells_that_a_worker_used_again_count_for_their_new_series_alone(others: list[WorkerMetrics]) -> None:
    clock, foreign = Clock(), others[0]
    counter = Counter(MetricCells(foreign.values_fd, foreign.names_fd, clock), "c_total", "C.", ("a",))
    for number in range(3):
        name = f"series-{number}"
        counter.with_labels(name).inc(number + 1)
        foreign.refresh()
        assert [(one.labels, list(one.values)) for one in foreign.series(counter)] == [((name,), [number + 1])]
        counter.keep(("a",), ())
        clock.now += 10 * LONGEST_HOOK
    counter.with_labels("last").inc(7)
    counter.with_labels("more").inc(8)
    foreign.refresh()
    assert {one.labels: list(one.values) for one in foreign.series(counter)} == {("last",): [7], ("more",): [8]}


journals = st.lists(st.tuples(st.sampled_from("+-"), label_values, st.integers(64, 5000)), max_size=12)


@given(journals, st.data())
def test_a_journal_that_is_read_while_it_is_written_reads_as_it_does_whole(
    entries: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    lines = [json.dumps([sign, "c_total", [label], index]).encode() + b"\n" for sign, label, index in entries]
    journal = b"".join(lines)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(journal)), max_size=8)))
    counter = Counter(MetricCells(), "c_total", "C.", ("a",))
    whole, piecemeal = WorkerMetrics(), WorkerMetrics()
    try:
        os.write(whole.names_fd, journal)
        whole.refresh()
        for start, end in itertools.pairwise([0, *cuts, len(journal)]):
            os.write(piecemeal.names_fd, journal[start:end])
            piecemeal.refresh()
        assert {one.labels for one in piecemeal.series(counter)} == {one.labels for one in whole.series(counter)}
        model: dict[str, int] = {}
        for sign, label, index in entries:
            model.pop(label, None)
            model.update({label: index} if sign == "+" else {})
        assert {one.labels[0] for one in whole.series(counter)} == model.keys()
    finally:
        whole.close()
        piecemeal.close()


def test_a_journal_whose_last_line_was_never_finished_is_read_up_to_it(others: list[WorkerMetrics]) -> None:
    ours, foreign = Metrics("1"), others[0]
    worker_of(foreign).attempts.with_labels("u", "t", "ok").inc()
    os.write(foreign.names_fd, b'["+","gateway_hooks_to')
    for _ in range(2):
        assert values(samples_of(ours.render(others)), "gateway_upstream_attempts_total") == [1]
    ours.inherit(foreign)
    assert values(samples_of(ours.render()), "gateway_upstream_attempts_total") == [1]


def test_a_dead_worker_s_memory_is_let_go() -> None:
    foreign = WorkerMetrics()
    worker_of(foreign)
    foreign.refresh()
    foreign.close()
    for fd in (foreign.values_fd, foreign.names_fd):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
