"""A person's right, as the command does it: beside a gateway that runs, and nothing of the number is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.policy.history import Bodies
from gateway.store.engine import open_databases
from gateway.store.forgetting import forget_number
from gateway.store.migrate import migrate
from tests.store.decided import NOW, decided
from tests.store.histories import NUMBER, SETTINGS, Kept

OTHER = "+1555000111"


@pytest.mark.parametrize("mask", [(), ("caller", "callee")])
def test_nothing_of_the_number_is_left_in_the_files(tmp_path: Path, mask: tuple[str, ...]) -> None:
    url = f"sqlite:{tmp_path}/store.db"
    database = open_databases(url).history
    migrate(database)
    kept = Kept(database, SETTINGS._replace(bodies=Bodies.ALL), mask=mask, bucket=20)
    for n in range(30):  # some are sealed, and have left their bytes in free pages
        kept.add(decided(n, fields={"caller": NUMBER if n % 3 else OTHER, "callee": OTHER}))
        kept.maintain(NOW)
    hasher = kept.history._hasher
    assert hasher is not None
    hashed = hasher.hash(NUMBER)
    assert hashed is not None
    traces = [hashed] if mask else [hashed, NUMBER.encode()]
    assert any(trace in whole(tmp_path) for trace in traces)
    steps: list[int] = []
    assert forget_number(url, SETTINGS, mask, "0049 30 12345", steps.append) == 20
    assert steps[-1] == 20
    assert not any(trace in whole(tmp_path) for trace in traces)
    assert len(kept.ids()) == 30
    assert len(kept.ids(callee=OTHER)) == 30
    assert forget_number(url, SETTINGS, mask, NUMBER) == 0
    database.close()


def whole(directory: Path) -> bytes:
    """All bytes of the files."""
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()))


def test_a_store_without_tables_has_nothing_to_forget(tmp_path: Path) -> None:
    assert forget_number(f"sqlite:{tmp_path}/store.db", SETTINGS, (), NUMBER) == 0
