"""A person's right to be forgotten: a number leaves the history, with its hashes and the bodies that may say more.

The decisions stay, for they are the gateway's own; who called whom is gone from them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

import msgspec
import sqlalchemy as sa

from gateway.store.decisions import KeptDecision, callee_term, caller_term
from gateway.store.history_blocks import (
    decode_block,
    encode_block,
    pack_terms,
    shard_of,
    shard_row,
    unpack,
    unpack_terms,
    without_entries,
)
from gateway.store.history_search import Number, check_findable
from gateway.store.numbers import NumberHasher
from gateway.store.schema import history_block, history_body, history_shard

_STEP: Final = 32
"""Blocks that one step reads."""

_b, _shards, _bodies = history_block.c, history_shard.c, history_body.c
_encode = msgspec.msgpack.Encoder().encode


class Forgotten(NamedTuple):
    """What a step has done."""

    decisions: int
    """How many had the number."""
    next: int | None
    """Where the next step begins; None at the end."""


def forget_some(
    connection: sa.Connection, number: str, hasher: NumberHasher | None, mask: Collection[str], after: int | None
) -> Forgotten:
    """One step, from the oldest decisions to the newest. Raises StoreError where the number cannot be found.

    In this order, since blocks that are sealed meanwhile only come later: none is missed.
    """
    check_findable(hasher, mask)
    wanted = Number(number, hasher)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete = ON")  # what is removed is overwritten
    else:
        connection.exec_driver_sql("LOCK TABLE history_block IN SHARE ROW EXCLUSIVE MODE")
    query = sa.select(history_block).order_by(_b.id).limit(_STEP)
    if after is not None:
        query = query.where(_b.id > after)
    blocks = connection.execute(query).all()
    forgotten = 0
    sealed: dict[int, set[int]] = {}
    for block in blocks:
        count = _rewrite(connection, block, wanted)
        forgotten += count
        if count and block.bucket is not None:
            sealed.setdefault(block.bucket, set()).add(block.ordinal)
    for term in _terms(wanted):
        for bucket, ordinals in sealed.items():
            _remove_entries(connection, term, bucket, frozenset(ordinals))
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete = OFF")
    return Forgotten(forgotten, blocks[-1].id if len(blocks) == _STEP else None)


def _rewrite(connection: sa.Connection, block: sa.Row[tuple[int, ...]], wanted: Number) -> int:
    """Write a block without the number, if it has it; how many of its decisions had it."""
    kept = decode_block(unpack(block.data))
    forgotten = [_forget(each, wanted) for each in kept]
    changed = [each for each, after in zip(kept, forgotten, strict=True) if after is not each]
    if not changed:
        return 0
    with_bodies = [each.id for each in changed if each.has_bodies]
    if with_bodies:
        connection.execute(sa.delete(history_body).where(_bodies.id.in_(with_bodies)))
    terms = block.terms
    if terms is not None:
        terms = pack_terms(set(unpack_terms(terms)) - set(_terms(wanted)))
    connection.execute(
        sa.update(history_block)
        .where(_b.id == block.id)
        .values(
            data=encode_block([_encode(each) for each in forgotten]),
            terms=terms,
            bodies=block.bodies - len(with_bodies),
        )
    )
    return len(changed)


def _forget(kept: KeptDecision, wanted: Number) -> KeptDecision:
    """The decision without the number; the same object where it does not have it."""
    is_caller = wanted.is_in(kept.caller, kept.caller_hash)
    is_callee = wanted.is_in(kept.callee, kept.callee_hash)
    if is_caller:
        kept = msgspec.structs.replace(kept, caller=b"", caller_hash=None, has_bodies=False)
    if is_callee:
        kept = msgspec.structs.replace(kept, callee=b"", callee_hash=None, has_bodies=False)
    return kept


def _terms(wanted: Number) -> list[int]:
    return [] if wanted.hash is None else [caller_term(wanted.hash), callee_term(wanted.hash)]


def _remove_entries(connection: sa.Connection, term: int, bucket: int, ordinals: frozenset[int]) -> None:
    row = shard_row(shard_of(term), bucket)
    data = connection.scalar(sa.select(_shards.data).where(_shards.id == row))
    if data is not None:
        connection.execute(
            sa.update(history_shard).where(_shards.id == row).values(data=without_entries(data, term, ordinals))
        )
