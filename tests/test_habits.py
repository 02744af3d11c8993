"""What a newcomer and the forge lean on agrees with the project: licence, workflow, hooks, targets, versions."""

from __future__ import annotations

import datetime
import importlib.resources
import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import yaml

from gateway import __version__
from tests.test_documents import is_there, links

ROOT: Final = Path(__file__).parent.parent
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CONTRIBUTING: Final = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
CHANGELOG: Final = (ROOT / "CHANGELOG.md").read_text("utf-8")
WORKFLOW: Final = ".github/workflows/ci.yml"
FORMS: Final = {
    WORKFLOW: "github-workflows",
    ".github/ISSUE_TEMPLATE/bug.yml": "github-issue-forms",
    ".github/ISSUE_TEMPLATE/idea.yml": "github-issue-forms",
    ".github/ISSUE_TEMPLATE/config.yml": "github-issue-config",
}
CHANGES: Final = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
"""The kinds of changes of https://keepachangelog.com/en/1.1.0/."""


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def jobs() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(WORKFLOW)["jobs"]
    return found


def steps() -> Iterator[dict[str, Any]]:
    for job in jobs().values():
        yield from job["steps"]


def make_targets() -> set[str]:
    """The phony targets of the Makefile, each of which has a rule."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    phony = {name for line in re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE) for name in line.split()}
    return {name for name in phony if re.search(rf"^{name}:", makefile, re.MULTILINE)}


# --- the licence ---


def test_the_licence_is_the_one_that_the_package_names() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert text.startswith(f"{PROJECT['license']} License\n\nCopyright 2026 ")
    assert "THE SOFTWARE IS PROVIDED" in text
    assert PROJECT["license-files"] == ["LICENSE"]


# --- versions ---


def python_versions() -> list[str]:
    """The Pythons that the classifiers list."""
    prefix = "Programming Language :: Python :: "
    return [name.removeprefix(prefix) for name in PROJECT["classifiers"] if name.startswith(prefix)]


def test_the_workflow_runs_on_every_python_that_is_supported_and_no_other() -> None:
    (job,) = jobs().values()
    assert job["strategy"]["matrix"]["python"] == python_versions()
    assert PROJECT["requires-python"] == f">={python_versions()[0]}"


def test_package_and_code_have_the_same_version() -> None:
    assert PROJECT["version"] == __version__


def test_the_manifests_of_kubernetes_have_that_version() -> None:
    texts = [path.read_text("utf-8") for path in (ROOT / "deploy/kubernetes").rglob("*.yaml")]
    tags = [tag for text in texts for tag in re.findall(r"(?:newTag: |image: wcs-gateway:)(\S+)", text)]
    assert tags == [__version__] * 2


# --- the changelog ---


def test_the_changelog_has_a_dated_heading_for_the_version_and_a_place_for_what_comes() -> None:
    headings = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", heading) for heading in headings[1:]]
    assert all(released)
    assert __version__ in {match[1] for match in released if match}
    dates = [datetime.date.fromisoformat(match[2]) for match in released if match]
    assert dates == sorted(dates, reverse=True)


def test_the_changelog_groups_changes_as_keep_a_changelog_does() -> None:
    for release in re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (.*)$", release, re.MULTILINE)
        assert set(kinds) <= CHANGES
        assert len(kinds) == len(set(kinds))


# --- commands and links ---


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CODE_OF_CONDUCT.md"])
def test_every_link_leads_somewhere(name: str) -> None:
    assert [target for target in links(ROOT / name) if not is_there(ROOT / name, target)] == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", ".github/PULL_REQUEST_TEMPLATE.md", ".pre-commit-config.yaml"])
def test_every_make_target_that_is_named_exists(name: str) -> None:
    named = set(re.findall(r"(?:`|entry: |^)make ([a-z][\w-]*)", (ROOT / name).read_text("utf-8"), re.MULTILINE))
    assert named
    assert named - make_targets() == set()


def test_every_file_that_contributing_names_exists() -> None:
    named = re.findall(r"(?<![\w/])((?:tests|gateway|deploy|docs)/[\w./-]*\w)", CONTRIBUTING)
    assert len(named) > 4
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_workflow_runs_commands_of_the_makefile() -> None:
    runs = [step["run"] for step in steps() if "run" in step]
    assert {"make lint", "make test"} <= set(runs)
    assert {run.removeprefix("make ") for run in runs} <= make_targets()


def test_the_workflow_s_actions_are_pinned_to_commits() -> None:
    uses = re.findall(r"uses: (.*)", (ROOT / WORKFLOW).read_text("utf-8"))
    assert uses
    assert [use for use in uses if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use)] == []


def test_the_hooks_before_a_commit_run_commands_that_are_there() -> None:
    for repo in read_yaml(".pre-commit-config.yaml")["repos"]:
        assert repo["repo"] == "local"  # else its versions are not those of the lock
        for hook in repo["hooks"]:
            program = hook["entry"].split()[0]
            assert shutil.which(ROOT / program if "/" in program else program), program


# --- forms ---


@pytest.mark.parametrize(("name", "schema"), FORMS.items())
def test_what_the_forge_reads_is_valid(name: str, schema: str) -> None:
    vendored = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / f"{schema}.json"
    jsonschema.validate(json.loads(json.dumps(read_yaml(name))), json.loads(vendored.read_text("utf-8")))


def test_a_report_asks_for_what_an_operator_can_give() -> None:
    fields = {field.get("id"): field for field in read_yaml(".github/ISSUE_TEMPLATE/bug.yml")["body"]}
    assert {"what", "version", "config", "check", "log"} <= set(fields)
    assert "secrets removed" in fields["config"]["attributes"]["description"]
