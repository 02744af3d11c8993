"""Orders of a fleet: every replica comes to the same, whatever it hears, how often and in which order."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from gateway.policy.orders import (
    KEEP_ENDED,
    MAX_ORDERS,
    Order,
    OrderBook,
    SpoolOrder,
    Subject,
    TargetOrder,
    read_order,
    read_subject,
    write_order,
    write_subject,
)

NOW = 1_700_000_000.0
texts = st.text(st.characters(codec="utf-8"), max_size=8)
orders = st.builds(Order, at=st.integers(0, 5), by=st.sampled_from("abc"), on=st.booleans())
subjects = st.builds(TargetOrder, texts, texts) | st.builds(SpoolOrder, st.none() | texts, st.none() | texts)


@given(subjects)
def test_a_subject_is_read_as_it_was_written(subject: Subject) -> None:
    assert read_subject(write_subject(subject)) == subject


@given(subjects, subjects)
def test_two_subjects_have_two_keys(one: Subject, other: Subject) -> None:
    assert (write_subject(one) == write_subject(other)) is (one == other)


@given(orders)
def test_an_order_is_read_as_it_was_written(order: Order) -> None:
    assert read_order(write_order(order)) == order


@given(st.binary(max_size=40))
def test_what_is_no_order_and_no_subject_is_none(data: bytes) -> None:
    assert read_order(data) is None or data.lstrip()[:1] == b"{"
    text = data.decode("latin-1")
    assert read_subject(text) is None or text.lstrip()[:1] == "["


@pytest.mark.parametrize("key", ['["drain","a","b"]', '["target",null,"http://a"]', '["target","php"]', "[]", "x", ""])
def test_a_key_of_another_version_has_no_subject_here(key: str) -> None:
    assert read_subject(key) is None


def test_an_order_of_a_later_version_with_more_fields_is_read() -> None:
    assert read_order(b'{"at":1,"by":"a","on":true,"why":"maintenance"}') == Order(1, "a", True)


@given(st.lists(orders, min_size=1), st.randoms(use_true_random=False))
def test_the_order_of_arrival_makes_no_difference(given_orders: list[Order], random: object) -> None:
    one, other = OrderBook(), OrderBook()
    for order in given_orders:
        one.merge("k", order)
    shuffled = given_orders * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for order in shuffled:
        other.merge("k", order)
    assert one.orders == other.orders


@given(orders, orders)
def test_of_two_orders_exactly_one_holds(one: Order, other: Order) -> None:
    assert one.beats(other) + other.beats(one) == (one != other)


@given(st.lists(st.tuples(st.booleans(), st.floats(-600, 600))))
def test_the_order_that_was_given_last_holds_even_where_clocks_differ(given_orders: list[tuple[bool, float]]) -> None:
    book = OrderBook()
    last = None
    for on, skew in given_orders:
        before = book.orders.get("k")
        last = book.give("k", on=on, now=NOW + skew, by=f"replica at {skew}")
        assert last.beats(before)
    assert book.orders.get("k") == last


def test_a_repeat_is_no_news() -> None:
    book = OrderBook()
    assert book.merge("k", Order(1, "a", True))
    assert not book.merge("k", Order(1, "a", True))
    assert not book.merge("k", Order(0, "z", False))
    assert book.merge("k", Order(1, "b", False))


def test_a_book_names_what_another_lacks() -> None:
    book = OrderBook()
    for key, at in (("older", 1), ("same", 2), ("newer", 3), ("mine", 4)):
        book.merge(key, Order(at, "a", True))
    theirs = {"older": Order(2, "a", True), "same": Order(2, "a", True), "newer": Order(2, "a", False)}
    assert book.lacking(theirs) == ["newer", "mine"]


def test_an_ended_order_is_forgotten_after_its_time_and_one_in_force_never() -> None:
    book = OrderBook()
    book.give("ended", on=False, now=NOW, by="a")
    book.give("in force", on=True, now=NOW, by="a")
    assert book.expired(NOW + KEEP_ENDED) == []
    assert book.expired(NOW + KEEP_ENDED + 1) == ["ended"]
    book.forget(book.expired(NOW + 10 * KEEP_ENDED))
    assert list(book.orders) == ["in force"]


def test_a_full_book_takes_no_new_subject_from_elsewhere_but_news_of_known_ones() -> None:
    book = OrderBook()
    for number in range(MAX_ORDERS):
        assert book.merge(str(number), Order(1, "a", True))
    assert not book.merge("one more", Order(1, "a", True))
    assert book.merge("0", Order(2, "a", False))
    book.give("one's own", on=True, now=NOW, by="a")
    assert "one's own" in book.orders


class Fleet(RuleBasedStateMachine):
    """Four replicas and a shared store that is emptied, partitioned and loses messages at random."""

    @initialize()
    def start(self) -> None:
        self.now = NOW
        self.books = [OrderBook() for _ in range(4)]
        self.skew = [0.0, 90.0, -90.0, 0.5]
        self.shared: dict[str, Order] = {}
        self.cut: set[int] = set()
        self.given: dict[str, list[Order]] = defaultdict(list)

    @rule(replica=st.integers(0, 3), key=st.sampled_from("xyz"), on=st.booleans(), passed=st.floats(0, 2))
    def give(self, replica: int, key: str, on: bool, passed: float) -> None:
        self.now += passed
        order = self.books[replica].give(key, on=on, now=self.now + self.skew[replica], by=str(replica))
        self.given[key].append(order)
        if replica not in self.cut:
            self.write(key, order)

    @rule(replica=st.integers(0, 3))
    def beat(self, replica: int) -> None:
        if replica in self.cut:
            return
        book = self.books[replica]
        for key, order in self.shared.items():
            book.merge(key, order)
        for key in book.lacking(self.shared):
            self.write(key, book.orders[key])

    @rule(replica=st.integers(0, 3))
    def cut_off(self, replica: int) -> None:
        self.cut ^= {replica}

    @rule()
    def empty(self) -> None:
        self.shared.clear()

    @rule(replica=st.integers(0, 3))
    def restart(self, replica: int) -> None:
        if replica not in self.cut:
            self.beat(replica)
            self.books[replica] = OrderBook()
            self.beat(replica)

    def write(self, key: str, order: Order) -> None:
        if order.beats(self.shared.get(key)):
            self.shared[key] = order

    def teardown(self) -> None:
        if not hasattr(self, "books"):
            return
        self.cut.clear()
        for _ in range(2):
            for replica in range(4):
                self.beat(replica)
        first, *others = (book.orders for book in self.books)
        assert all(other == first for other in others)
        for key, order in first.items():  # the one that holds was given, and nothing that was given beats it
            assert order in self.given[key]
            assert not any(other.beats(order) for other in self.given[key])
        assert set(first) == set(self.given)


TestFleet = Fleet.TestCase
