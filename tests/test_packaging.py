"""What an installation has, and what of it a process loads: packages of store and state only where there is one."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest
from flit_core import buildapi  # type: ignore[import-untyped]

from tests.support.gateways import LISTEN, ROOT, running_gateway, wait_until

HEAVY: Final = ("sqlalchemy", "alembic", "psycopg", "redis", "hiredis")
SITE: Final = f"""
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        package, dot, _ = name.partition(".")
        if dot and package in {HEAVY!r}:  # it is not only looked for
            with open(os.environ["LOADED"], "a") as file:
                file.write(f"{{package}} {{' '.join(sys.orig_argv[1:3])}}\\n")

sys.meta_path.insert(0, Watch())
"""
"""A module that Python imports at the start of each process."""
APPS: Final = "upstreams: {u: {url: 'http://127.0.0.1:9'}}\napps: {a: {static: allow}, b: {upstream: u}}\n"
KEPT: Final = "store: {url: 'sqlite:store.db'}\nhistory: {}\ndefaults: {spool: on}\n"
SHARED: Final = (
    KEPT.replace("sqlite:store.db", "postgresql://u:p@127.0.0.1:9/d") + "state: {url: 'redis://127.0.0.1:9'}\n"
)


def test_the_wheel_has_every_file_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / buildapi.build_wheel(str(tmp_path))) as wheel:
        packed = {name for name in wheel.namelist() if name.startswith("gateway/")}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gateway").rglob("*") if path.is_file()}
    wanted = {name for name in files if "__pycache__" not in name}
    assert any(name.startswith("gateway/store/migrations/") for name in wanted)
    assert packed == wanted


def watched(directory: Path) -> tuple[Path, dict[str, str]]:
    """A file that gets a line for each of these packages that a process loads, and the environment for that."""
    loaded = directory / "loaded"
    loaded.touch()
    (directory / "sitecustomize.py").write_text(SITE)
    return loaded, {"PYTHONPATH": f"{directory}:{ROOT}", "LOADED": str(loaded)}


@pytest.mark.parametrize(
    ("command", "kept"),
    [(["check"], SHARED), (["explain", "-", "-m", "CallStatusEvent"], KEPT)],
    ids=["check", "explain"],
)
def test_check_and_explain_load_nothing_of_the_store(command: list[str], kept: str, tmp_path: Path) -> None:
    loaded, environment = watched(tmp_path)
    (tmp_path / "gateway.yaml").write_text(kept + APPS)
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *command],
        cwd=tmp_path, env=environment, input='{"appKey":"b"}', capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert loaded.read_text() == ""
    assert list(tmp_path.glob("store*")) == []


def test_without_store_and_state_nothing_of_them_is_loaded(tmp_path: Path) -> None:
    """In one process; that supervisor and workers load none is shown below, where there is a store."""
    loaded, environment = watched(tmp_path)
    with running_gateway(LISTEN + APPS, tmp_path, environment=environment) as gateway:
        assert gateway.hook("CallStatusEvent", appKey="a").status_code == 200
        assert gateway.get("/api/decisions").status_code == 200
        assert gateway.stop() == 0
    assert loaded.read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_with_a_store_its_own_process_alone_loads_it(workers: int, tmp_path: Path) -> None:
    loaded, environment = watched(tmp_path)
    config = LISTEN.replace("{listen", f"{{workers: {workers}, listen") + KEPT + APPS
    with running_gateway(config, tmp_path, environment=environment) as gateway:
        assert wait_until(lambda: gateway.metric("gateway_store_up") == 1, 30)
        assert gateway.hook("CallStatusEvent", appKey="a").status_code == 200
        gateway.hook("CallStatusEvent", appKey="b")  # it cannot be delivered
        assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("store.*")} == {0o600}
        assert gateway.get("/api/decisions").status_code == 200
        assert gateway.stop() == 0
    assert set(loaded.read_text().splitlines()) == {
        f"{package} -m gateway.server.store_process" for package in ("sqlalchemy", "alembic")
    }
