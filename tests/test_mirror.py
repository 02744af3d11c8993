"""Every module has its tests where a reader looks for them: in the same room, by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parent
PACKAGE: Final = TESTS.parent / "gateway"
MODULES: Final = sorted(
    str(path.relative_to(PACKAGE).with_suffix(""))
    for path in PACKAGE.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)

ELSEWHERE: Final = {
    "http/client/answer_parser": "http/client/test_connection.py",
    "admin/dry_run": "config/test_load.py",
    "admin/fleet_view": "admin/test_fleet_api.py",
    "admin/overview": "admin/test_api.py",
    "cli/commands/replay": "recording/replay/test_replay.py",
    "cli/render_replay": "recording/replay/test_replay.py",
    "cli/commands/serve": "cli/test_entry.py",
    "cli/reference_docs": "test_documents.py",
    "proxy/runtime": "admin/test_reload_faults.py",
    "recording/replay/player": "recording/replay/test_replay.py",
    "recording/replay/reader": "recording/replay/test_replay.py",
    "recording/replay/report": "recording/replay/test_replay.py",
    "recording/settings": "recording/test_pseudonyms.py",
    "server/ipc": "server/workers/test_worker_handle.py",
    "store/migrations/history/v0001": "store/test_migrate.py",
    "store/migrations/spool/v0001": "store/test_migrate.py",
    "store/records": "store/test_messages.py",
    "store/repeats": "store/test_spool.py",
    "store/schema": "store/test_migrate.py",
    "store/settings": "server/test_store_process.py",
    "store/spool_keeper": "store/test_assembly.py",
    "store/spool_queries": "store/test_spool_model.py",
    "store/spool_rows": "store/test_spool_model.py",
    "telemetry/tracing/records": "telemetry/tracing/test_exporter.py",
    "upstreams/registry": "upstreams/test_upstream_targets.py",
    "upstreams/status": "admin/test_rpc.py",
    "upstreams/target": "upstreams/test_upstream_targets.py",
}
"""Modules whose tests have another name: which, below ``tests``."""


def own_tests(module: str) -> list[Path]:
    """``test_NAME.py`` or ``test_NAME_….py`` in the module's room."""
    room, *_, name = module.split("/")
    found = (TESTS / room).rglob(f"test_{name}*.py")
    return [path for path in found if path.stem == f"test_{name}" or path.stem.startswith(f"test_{name}_")]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_tests(module: str) -> None:
    if module not in ELSEWHERE:
        assert own_tests(module), f"no tests/{module.split('/')[0]}/**/test_{module.rsplit('/', 1)[-1]}.py"
    else:
        assert (TESTS / ELSEWHERE[module]).is_file(), "the table names a file that is not there"
        assert not own_tests(module), "it has tests of its own: the table need not name it"


def test_the_table_names_only_modules_that_are_there() -> None:
    assert set(ELSEWHERE) <= set(MODULES)
