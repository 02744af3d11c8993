"""Blocks of decisions, and the terms by which blocks are found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.history import Bodies
from gateway.store.decisions import Prepared, Preparer, encode_sent
from gateway.store.history_blocks import (
    BLOCK,
    SHARDS,
    SPAN,
    bucket_for,
    bucket_of_row,
    bucket_rows,
    decode_block,
    encode_block,
    find_ordinals,
    has_term,
    join_data,
    make_blocks,
    make_shards,
    newest_of,
    pack_terms,
    shard_of,
    shard_row,
    unpack,
    unpack_terms,
    without_entries,
)
from tests.store.decided import decided

terms_ = st.integers(0, 2**32 - 1)
few_terms = st.sets(terms_ | st.sampled_from([0, 1, 255, 256, 1 << 24, 2**32 - 1]), max_size=30)
prepared_ = st.builds(
    Prepared,
    id=st.integers(0, 3 * SPAN),
    ordinary=st.booleans(),
    encoded=st.just(b"\x90"),
    terms=few_terms.map(list),
    bodies=st.none() | st.just(b"x"),
)


@given(st.lists(prepared_, max_size=40))
def test_every_decision_is_in_one_block_with_others_of_its_kind_and_time(prepared: list[Prepared]) -> None:
    blocks = make_blocks(prepared)
    assert sum(block.decisions for block in blocks) == len(prepared)
    assert sum(block.bodies for block in blocks) == sum(each.bodies is not None for each in prepared)
    for block in blocks:
        assert block.id - block.first <= SPAN
        assert block.decisions <= BLOCK
        mine = [each for each in prepared if each.ordinary is block.ordinary and block.first <= each.id <= block.id]
        assert set(unpack_terms(block.terms)) <= {term for each in mine for term in each.terms}
    for each in prepared:
        assert any(
            block.ordinary is each.ordinary
            and block.first <= each.id <= block.id
            and all(has_term(block.terms, term) for term in each.terms)
            for block in blocks
        )


def test_a_batch_is_cut_into_blocks() -> None:
    by = Preparer((), None)
    prepared = [by.prepare(encode_sent(decided(n % 7), Bodies.OFF, 1, "")) for n in range(2 * BLOCK + 1)]
    blocks = make_blocks(prepared)
    assert [block.decisions for block in blocks] == [BLOCK, BLOCK, 1]
    found = [each.id for block in blocks for each in decode_block(unpack(block.data))]
    assert found == sorted(each.id for each in prepared)


def test_blocks_are_joined_in_their_order_packed_or_not() -> None:
    by = Preparer((), None)
    encoded = [by.prepare(encode_sent(decided(n), Bodies.OFF, 1, "")).encoded for n in range(50)]
    plain = make_blocks([by.prepare(encode_sent(decided(50), Bodies.OFF, 1, ""))])[0].data
    joined = join_data([(50, encode_block(encoded)), (1, plain)])
    assert [each.request_id for each in decode_block(unpack(joined))] == [f"request-{n}" for n in range(51)]
    assert len(joined) < 0.5 * sum(map(len, encoded))


@pytest.mark.parametrize("data", [b"", b"x", b"\x78\x01"])
def test_a_damaged_block_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        unpack(data)


@given(few_terms, terms_)
def test_a_block_says_whether_it_has_a_term(terms: set[int], other: int) -> None:
    packed = pack_terms(terms)
    assert set(unpack_terms(packed)) == terms
    assert all(has_term(packed, term) for term in terms)
    assert has_term(packed, other) == (other in terms)


@given(st.lists(few_terms, max_size=6), terms_)
def test_a_bucket_says_which_of_its_blocks_have_a_term(blocks: list[set[int]], other: int) -> None:
    shards = make_shards(enumerate(blocks))
    assert len(shards) == SHARDS
    for term in {other}.union(*blocks):
        having = [ordinal for ordinal, terms in enumerate(blocks) if term in terms]
        assert find_ordinals(shards[shard_of(term)], term) == having


@given(st.lists(few_terms, min_size=1, max_size=6), st.data())
def test_entries_are_removed_of_these_blocks_alone(blocks: list[set[int]], data: st.DataObject) -> None:
    gone = data.draw(st.frozensets(st.integers(0, len(blocks) - 1)))
    term = data.draw(st.sampled_from(sorted({0}.union(*blocks))))
    shard = without_entries(make_shards(enumerate(blocks))[shard_of(term)], term, gone)
    for other in {term}.union(*blocks):
        if shard_of(other) == shard_of(term):
            having = [n for n, terms in enumerate(blocks) if other in terms and not (other == term and n in gone)]
            assert find_ordinals(shard, other) == having


@given(st.integers(0, SHARDS - 1), st.integers(0, 2**63 - 1))
def test_rows_of_a_shard_lie_beside_each_other(shard: int, newest: int) -> None:
    bucket = bucket_for(newest)
    row = shard_row(shard, bucket)
    assert row < 2**63
    assert bucket_of_row(row) == bucket
    assert newest_of(bucket) >= newest
    assert row < shard_row(shard + 1, 0)
    assert row in set(bucket_rows(bucket))
