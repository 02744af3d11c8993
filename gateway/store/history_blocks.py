"""How decisions lie in the database: in blocks, by age, and in an index that is written only in large sorted pieces.

A row for each decision, with an index for each thing that it is searched by, costs 40 µs of CPU time and 16 kB of
writing for each decision once there are half a million: random places of large indexes. So decisions of one
transaction become a **block**, one row. Its decisions are found by their **terms**: numbers of 32 bits, made of ids and
hashes; at first they lie in the row. Once there are some thousand decisions in such blocks, these are *sealed*: small
ones are put together, all become a **bucket**, and their terms are sorted into SHARDS rows, each for a range of terms.
A search for a term reads the rows of one shard, one for each bucket, which lie beside each other.

Ordinary decisions and others have blocks and buckets of their own, since they are kept for different times: what is
too old goes block by block.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from gateway.store.decisions import ID_STEP, KeptDecision, Prepared

BLOCK: Final = 256
"""Decisions in a block, at most."""
SPAN: Final = 600 * 1_000_000 * ID_STEP
"""Ten minutes as a difference of ids: between a block's first and last decision there is no more."""
SHARDS: Final = 256
_SHARD_SHIFT: Final = 55
LAST_BUCKET: Final = 2**_SHARD_SHIFT - 1
_TERM_SHIFT: Final = 32
_HEADER: Final = b"\xdd"
"""Begins an array of MessagePack, with its length in the next four bytes."""
_HEADER_SIZE: Final = 5
_WORTH_PACKING: Final = 32
"""Decisions of a block that is compressed at once; smaller ones are put together first."""

_decode = msgspec.msgpack.Decoder(list[KeptDecision]).decode


class NewBlock(NamedTuple):
    """A block that is to be written."""

    id: int
    """The highest of its decisions."""
    first: int
    """The lowest one."""
    ordinary: bool
    decisions: int
    bodies: int
    """How many of them have bodies."""
    terms: bytes
    data: bytes


def make_blocks(prepared: Iterable[Prepared]) -> list[NewBlock]:
    """Blocks of these decisions, which may be in any order."""
    blocks: list[NewBlock] = []
    gathered: list[Prepared] = []
    for each in sorted(prepared, key=lambda each: (each.ordinary, each.id)):
        if gathered and (
            len(gathered) == BLOCK or each.ordinary != gathered[0].ordinary or each.id - gathered[0].id > SPAN
        ):
            blocks.append(_make_block(gathered))
            gathered = []
        gathered.append(each)
    if gathered:
        blocks.append(_make_block(gathered))
    return blocks


def _make_block(prepared: Sequence[Prepared]) -> NewBlock:
    """A block of decisions that are in order and of one kind."""
    terms: set[int] = set()
    for each in prepared:
        terms.update(each.terms)
    return NewBlock(
        id=prepared[-1].id,
        first=prepared[0].id,
        ordinary=prepared[0].ordinary,
        decisions=len(prepared),
        bodies=sum(each.bodies is not None for each in prepared),
        terms=_pack("I", terms),
        data=encode_block([each.encoded for each in prepared]),
    )


def _join(encoded: Iterable[bytes], count: int) -> bytes:
    return b"".join((_HEADER, count.to_bytes(4, "big"), *encoded))


def encode_block(encoded: Sequence[bytes]) -> bytes:
    """The data of a block of these encoded decisions, compressed where there are so many that it is worth it."""
    data = _join(encoded, len(encoded))
    return data if len(encoded) < _WORTH_PACKING else zlib.compress(data, 1)


def join_data(parts: Sequence[tuple[int, bytes]]) -> bytes:
    """The data of several blocks as that of one, compressed; each with its number of decisions."""
    if len(parts) == 1 and not parts[0][1].startswith(_HEADER):
        return parts[0][1]
    count = sum(decisions for decisions, _ in parts)
    return zlib.compress(_join((unpack(data)[_HEADER_SIZE:] for _, data in parts), count), 1)


def unpack(data: bytes) -> bytes:
    """A block's data as MessagePack. Raises ValueError where it is damaged."""
    if data.startswith(_HEADER):
        return data
    try:
        return zlib.decompress(data)
    except zlib.error as exc:
        raise ValueError(f"a block is damaged: {exc}") from exc


def decode_block(unpacked: bytes) -> list[KeptDecision]:
    """The decisions of a block. Raises ValueError where it is damaged."""
    return _decode(unpacked)


# --- terms ---


def _pack(code: str, numbers: Iterable[int]) -> bytes:
    """Numbers as little-endian bytes."""
    packed = array(code, numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _unpack(code: str, data: bytes) -> array[int]:
    unpacked: array[int] = array(code)
    unpacked.frombytes(data)
    if sys.byteorder == "big":
        unpacked.byteswap()
    return unpacked


def pack_terms(terms: Iterable[int]) -> bytes:
    """The terms of a block that is in no bucket."""
    return _pack("I", terms)


def unpack_terms(data: bytes) -> array[int]:
    """The terms of a block that is in no bucket."""
    return _unpack("I", data)


def has_term(terms: bytes, term: int) -> bool:
    """Whether the block with these packed terms has this one."""
    wanted = term.to_bytes(4, "little")
    at = terms.find(wanted)
    while at >= 0 and at % 4:
        at = terms.find(wanted, at + 1)
    return at >= 0


def make_shards(blocks: Iterable[tuple[int, Iterable[int]]]) -> list[bytes]:
    """The packed entries of a bucket, by shard; *blocks*: each one's ordinal in the bucket and its terms."""
    shards: list[list[int]] = [[] for _ in range(SHARDS)]
    for ordinal, terms in blocks:
        for term in terms:
            shards[term >> 24].append(term << _TERM_SHIFT | ordinal)
    return [_pack("Q", sorted(entries)) for entries in shards]


def find_ordinals(shard: bytes, term: int) -> list[int]:
    """The ordinals of the blocks that have this term, of a shard's packed entries."""
    entries = _unpack("Q", shard)
    found = []
    for at in range(bisect_left(entries, term << _TERM_SHIFT), len(entries)):
        if entries[at] >> _TERM_SHIFT != term:
            break
        found.append(entries[at] & 0xFFFF_FFFF)
    return found


def without_entries(shard: bytes, term: int, ordinals: frozenset[int]) -> bytes:
    """A shard's packed entries without this term's of these blocks."""
    removed = {term << _TERM_SHIFT | ordinal for ordinal in ordinals}
    return _pack("Q", (entry for entry in _unpack("Q", shard) if entry not in removed))


def shard_of(term: int) -> int:
    """The shard that has this term."""
    return term >> 24


def shard_row(shard: int, bucket: int) -> int:
    """The number of the row with a bucket's entries of a shard: a shard's rows lie beside each other."""
    return shard << _SHARD_SHIFT | bucket


def bucket_of_row(row: int) -> int:
    """The bucket of a shard's row."""
    return row & LAST_BUCKET


def bucket_rows(bucket: int) -> Iterator[int]:
    """The numbers of all rows of a bucket."""
    return (shard_row(shard, bucket) for shard in range(SHARDS))


def bucket_for(newest: int) -> int:
    """A bucket's number, of the id of its newest block: microseconds."""
    return newest // ID_STEP


def newest_of(bucket: int) -> int:
    """An id that no block of this bucket exceeds."""
    return bucket * ID_STEP + ID_STEP - 1
