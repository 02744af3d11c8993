"""The documents agree with the code."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from gateway.admin.decision_search import DecisionDetail, DecisionPage, HistoryScope
from gateway.admin.spool_views import AppView, EventDetail, SpoolView, StoreView, UpstreamView
from gateway.cli.main import app
from gateway.cli.reference_docs import SECTIONS, cure_table, reason_table, refusal_table, regenerate
from gateway.config import json_schema, loads
from gateway.config.source.document import parse
from gateway.http.tls.handshakes import HandshakeFault
from gateway.model.decision import Decision
from gateway.model.hooks import parse_hook
from gateway.model.verdicts import Annotations, Cause, Reason, backend_reject
from gateway.proxy.refusals import REFUSALS
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.log import LogWriter
from gateway.telemetry.metrics import Metrics

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PEM = ROOT / "tests/config/pem"
INSTALL = ROOT / "docs/install.md"
OBSERVABILITY = ROOT / "docs/observability.md"
TROUBLESHOOTING = ROOT / "docs/troubleshooting.md"
DOCUMENTS: Final = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")),
    *GUIDES,
    *sorted((ROOT / "deploy").rglob("*.md")),
    *sorted((ROOT / "tests").rglob("*.md")),
]
"""Every document."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def texts(*paths: Path) -> str:
    return "\n".join(path.read_text("utf-8") for path in paths)


# --- generated sections ---


@pytest.mark.parametrize("path", [README, *GUIDES], ids=name_of)
def test_the_generated_sections_are_those_of_the_code(path: Path) -> None:
    text = path.read_text("utf-8")
    assert regenerate(text) == text, "run `make docs`"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_generated_section_is_in_a_document(section: str) -> None:
    assert f"<!-- begin: {section} -->" in texts(README, *GUIDES)


def test_the_table_of_verdicts_has_a_row_for_each_cause() -> None:
    table = SECTIONS["verdicts"]()
    assert all(f"`{cause}`" in table for cause in Cause)


def test_the_tables_of_refusals_have_a_row_for_each_refusal() -> None:
    count = sum(len(refusals) for refusals in REFUSALS.values())
    assert len(refusal_table().splitlines()[2:]) == count
    assert len(cure_table().splitlines()[2:]) == count


def test_every_refusal_says_what_to_do() -> None:
    assert all(refusal.remedy.endswith(".") for refusals in REFUSALS.values() for refusal in refusals)


def test_the_table_of_reasons_has_a_row_for_each_reason() -> None:
    assert len(reason_table().splitlines()[2:]) == len(Reason)


# --- form ---


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").split()) <= 1000


@pytest.mark.parametrize("path", GUIDES, ids=name_of)
def test_every_document_begins_with_whom_it_is_for(path: Path) -> None:
    title, empty, purpose, *_ = path.read_text("utf-8").splitlines()
    assert (title[:2], empty) == ("# ", "")
    assert purpose.lstrip("*").startswith("For ")


def test_the_index_lists_every_document() -> None:
    index = ROOT / "docs/README.md"
    assert {guide.name for guide in GUIDES} - {index.name} - set(links(index)) == set()


# --- completeness ---


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_chapter_on_what_to_do(reason: Reason) -> None:
    assert f"\n### {reason}\n" in TROUBLESHOOTING.read_text("utf-8")


@pytest.mark.parametrize("fault", HandshakeFault)
def test_every_handshake_failure_is_documented(fault: HandshakeFault) -> None:
    assert f"`{fault}`" in TROUBLESHOOTING.read_text("utf-8")


@pytest.mark.parametrize(
    "answer", [DecisionPage, DecisionDetail, HistoryScope, SpoolView, StoreView, UpstreamView, AppView, EventDetail]
)
def test_every_field_of_these_answers_is_documented(answer: type[msgspec.Struct]) -> None:
    text = texts(ROOT / "docs/admin-api.md")
    assert [field for field in answer.__struct_fields__ if f"`{field}`" not in text] == []


def test_every_metric_is_documented() -> None:
    text = texts(OBSERVABILITY)
    assert [family.name for family in Metrics("x").families if f"`{family.name}`" not in text] == []


def test_every_metric_that_a_document_names_is_one() -> None:
    names = {family.name for family in Metrics("x").families}
    named = set(re.findall(r"`(gateway_\w+)", texts(README, *GUIDES)))
    histograms = {f"{name}_{part}" for name in names for part in ("bucket", "sum", "count")}
    assert named - names - histograms == set()


def test_every_alert_that_a_document_names_is_one() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", texts(ROOT / "deploy/prometheus/alerts.yml")))
    named = set(re.findall(r"`(Wcs\w+)`", texts(README, *GUIDES)))
    assert named - alerts == set()
    assert named & alerts


async def test_a_document_names_every_field_of_an_access_line_and_no_other(tmp_path: Path) -> None:
    annotations: dict[str, Any] = {name: name == "ineffective" or "missing" for name in Annotations.__struct_fields__}
    ruling = backend_reject().annotate(**annotations)
    hook = parse_hook(b'{"appKey":"a"}')
    decision = Decision(ruling, 0.0, "id", "a", "OnCallEvent", 1.5, 0.1, "u", "http://t/", 1, 0.1, hook)
    path = tmp_path / "log"
    with path.open("wb") as file:
        writer = LogWriter(file.fileno())
        log = AccessLog(writer)
        log.configure(access="all", console=False, mask=())
        log.record(decision)
        log.flush()
        writer.close(20.0)
    (chapter,) = re.findall(r"each hook has one access line: (.*?)\. ", OBSERVABILITY.read_text("utf-8"), re.DOTALL)
    assert set(re.findall(r"`(\w+)`", chapter)) == set(json.loads(path.read_text("utf-8")))


def test_a_document_names_every_event_of_the_log_and_no_other() -> None:
    (chapter,) = re.findall(r"carry an `event` field: (.*?)\.\n", OBSERVABILITY.read_text("utf-8"), re.DOTALL)
    told = set(re.findall(r"`(\w+)`", chapter))
    source = code()
    found = [value for value in re.findall(r'"event": ([^,}]+)', source) if value not in ("result", "event")]
    found += re.findall(r'_fields\(("\w+")', source)
    found += re.findall(r"\bresult = (.*)", (ROOT / "gateway/admin/api.py").read_text("utf-8"))[:1]
    assert told == {name for value in found for name in re.findall(r'"(\w+)"', value)}


def test_every_command_is_documented() -> None:
    commands = [command.name for command in app.registered_commands] + [group.name for group in app.registered_groups]
    assert "run" in commands
    text = (ROOT / "docs/cli.md").read_text("utf-8")
    assert [name for name in commands if f"`gateway {name}" not in text] == []


def test_every_path_of_the_admin_port_is_documented() -> None:
    sources = texts(*sorted((ROOT / "gateway").rglob("*.py")))
    paths = {path.replace(":path}", "}") for path in re.findall(r"\bRoute\(\s*\"(/[^\"]*)\"", sources)}
    assert {"/metrics", "/-/reload", "/api/status"} <= paths
    text = texts(ROOT / "docs/admin-api.md")
    assert [path for path in paths if f" {path}`" not in text and not path.startswith("/console/")] == []


def test_the_first_configuration_of_the_readme_is_a_valid_one() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert loads(blocks[0]).config.apps


def shown_configurations() -> Iterator[str]:
    """What the documents show of configurations; the reference has tests of its own."""
    for path in (README, *(guide for guide in GUIDES if guide.name != "configuration.md")):
        blocks = re.findall(r"^( *)```yaml\n(.*?)^\1```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)
        yield from (textwrap.dedent(block) for _, block in blocks)


@pytest.mark.parametrize("block", [*shown_configurations()])
def test_every_configuration_that_is_shown_is_a_valid_one(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in re.findall(r"\$\{env:(\w+)\}", block):
        monkeypatch.setenv(variable, "x")
    for file in re.findall(r"[\w-]+\.pem", block):
        shutil.copy(PEM / ("key.pem" if file.startswith("k") else "certificate.pem"), tmp_path / file)
    shown = parse(block, "gateway.yaml").plain()
    if "upstream" in shown:  # an app's setting
        shown = {"apps": {"defaultApp": shown}}
    if "record" in shown:
        shown["record"]["path"] = str(tmp_path / Path(shown["record"]["path"]).name)
    names = ("legacy-php", "php", "new", "night")
    upstreams = {name: {"url": f"http://{name}.example.net/rest/my_api"} for name in names}
    whole = {"upstreams": upstreams, "apps": {"defaultApp": {"upstream": "php"}}} | shown
    assert loads(json.dumps(whole), str(tmp_path / "gateway.yaml")).config.apps


def test_the_configuration_to_begin_with_has_no_warnings() -> None:
    blocks = re.findall(r" +```yaml\n(.*?) +```", INSTALL.read_text("utf-8"), re.DOTALL)
    assert loads(blocks[0]).warnings == ()


def test_every_section_of_the_configuration_is_documented() -> None:
    text = texts(README, ROOT / "gateway.yaml", ROOT / "docs/configuration.md")
    assert [key for key in json_schema()["properties"] if f"{key}:" not in text and f"`{key}" not in text] == []


# --- quotations ---


def code() -> str:
    """The package's sources, with the strings that go over several lines in one piece."""
    return re.sub(r'"\s*\n\s*f?"', "", texts(*sorted((ROOT / "gateway").rglob("*.py"))))


def quoted_messages() -> Iterator[str]:
    """What stands in backticks in the first column of the tables of errors and messages."""
    for table in re.findall(
        r"\| (?:`error`|message) \|.*\n\|[-| ]+\n((?:\|.*\n)+)", TROUBLESHOOTING.read_text("utf-8")
    ):
        for row in table.splitlines():
            yield from re.findall(r"`([^`]+)`", row.split("|")[1])


def test_every_message_that_is_explained_can_be_met() -> None:
    messages = list(quoted_messages())
    assert len(messages) > 30
    source = code()
    assert [it for it in messages if not all(part.strip() in source for part in it.split("…"))] == []


def test_every_failure_of_a_backend_that_the_code_can_tell_of_is_explained() -> None:
    source = code()
    found = re.findall(r'\b(?:_bad|_lost|_too_large)\(f?"([^"]+)"', source)
    found += re.findall(r'\bwhat(?:, error)? = "([^"]+)"', (ROOT / "gateway/upstreams/answers.py").read_text("utf-8"))
    found += re.findall(r'errno\.E\w+: "([^"]+)"', source)
    assert len(found) > 20
    text = TROUBLESHOOTING.read_text("utf-8")

    def is_explained(message: str) -> bool:
        parts = (part.strip(" ()") for part in re.split(r"\{[^}]*\}", message))
        return any(part in text for part in parts if len(part) > 5)

    assert [message for message in found if not is_explained(message)] == []


# --- links ---


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    found: Counter[str] = Counter()
    made: set[str] = set()
    for heading in re.findall(
        r"^#{1,6} (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    ):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        made.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return made


def links(path: Path) -> Iterator[str]:
    text = re.sub(r"`[^`\n]*`", "", without_code(path.read_text("utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            yield target


def is_there(path: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    file = path.parent / name if name else path
    if not file.exists():
        return False
    return not anchor or (file.suffix == ".md" and anchor in anchors(file.read_text("utf-8")))


def test_anchors_are_made_as_github_makes_them() -> None:
    assert anchors("# What happened → what it gets\n## `server.tls` keys\n## A\n## A\n```\n# no\n```\n") == {
        "what-happened--what-it-gets",
        "servertls-keys",
        "a",
        "a-1",
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_link_leads_somewhere(path: Path) -> None:
    assert [target for target in links(path) if not is_there(path, target)] == []
