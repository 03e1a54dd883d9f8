"""What a release says of itself: one version everywhere, workflows that build it, pages whose paths exist."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch_versions
import yaml

ROOT = Path(__file__).parents[2]
PAGES = ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]


def read(path: str) -> str:
    return (ROOT / path).read_text()


def parsed(path: str) -> Any:
    return yaml.safe_load(read(path))


VERSION = re.search(r'^version = "(.*)"$', read("Cargo.toml"), re.MULTILINE)[1]


@pytest.mark.parametrize("lock", ["Cargo.lock", "fuzz/Cargo.lock"])
def test_locks_have_the_version(lock):
    assert f'name = "koopflow"\nversion = "{VERSION}"\n' in read(lock)


def test_the_changelog_begins_with_the_version():
    assert re.findall(r"^## (.*)$", read("CHANGELOG.md"), re.MULTILINE)[0] in {VERSION, "Unreleased"}


def test_the_citation_names_the_version_and_the_paper_first():
    citation = parsed("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == VERSION
    assert " OR ".join(citation["license"]) in read("Cargo.toml")
    paper = citation["preferred-citation"]
    assert paper["authors"][0]["family-names"] == "Turan"
    assert paper["doi"].endswith("arXiv.2506.22304")


class TestWorkflows:
    @pytest.fixture
    def jobs(self):
        return parsed(".github/workflows/release.yml")["jobs"]

    def step(self, job, name, **environment):
        run = next(step["run"] for step in job["steps"] if step.get("name") == name)
        environment |= {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        return subprocess.run(["bash", "-e", "-c", run], cwd=ROOT, env=environment).returncode

    def test_every_check_runs_on_changes(self):
        workflow = parsed(".github/workflows/ci.yml")
        # YAML 1.1 reads the key `on` as a truth value.
        assert set(workflow[True]) == {"push", "pull_request"}
        assert workflow["jobs"]["checks"]["steps"][-1]["run"] == ".ci/run"

    def test_only_a_tag_of_this_version_is_released(self, jobs):
        assert self.step(jobs["parts"], "The tag names the version", GITHUB_REF_NAME=f"v{VERSION}") == 0
        assert self.step(jobs["parts"], "The tag names the version", GITHUB_REF_NAME="v0.0.9") != 0
        assert jobs["publish"]["if"] == "github.ref_type == 'tag'"
        assert [name for name, job in jobs.items() if "permissions" in job] == ["publish"]

    def test_every_torch_and_the_source_distribution_are_built(self, jobs, tmp_path):
        output = tmp_path / "output"
        assert self.step(jobs["parts"], "What there is to build", GITHUB_OUTPUT=str(output)) == 0
        name, parts = output.read_text().split("=", 1)
        assert name == "parts"
        assert json.loads(parts) == [*torch_versions.SUPPORTED, "sdist"]
        assert any(step.get("run") == 'release/build.sh "$PART"' for step in jobs["build"]["steps"])


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_issues_ask_for_versions(form):
    fields = parsed(f".github/ISSUE_TEMPLATE/{form}.yml")["body"]
    asked = [field for field in fields if "`koopflow versions`" in field["attributes"].get("label", "")]
    assert [field["validations"]["required"] for field in asked] == [True]


def anchors(page: str) -> set[str]:
    """Names that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", read(page)):
        path, _, anchor = link.partition("#")
        assert (ROOT / path).is_file(), link
        assert not anchor or anchor in anchors(read(path)), link


class TestContributing:
    text = read("CONTRIBUTING.md")

    def test_the_files_to_touch_are_there(self):
        named = re.findall(r"`((?:src|python|tests|docs|fuzz|experiments|release)/[^` ]*)`", self.text)
        assert len(named) > 50
        assert [path for path in named if not (ROOT / path).exists()] == []

    @pytest.mark.parametrize(
        ("heading", "variants"),
        [
            ("A generator", r"\bGenerator(?:Kind)?::([A-Z]\w+)"),
            ("A teacher", r"\bFieldDescription::([A-Z]\w+)"),
            ("A term of the loss", r'"(re_encoding|inverse|phase|unitarity|latent_moments)"'),
            ("A baseline", r"\b(?:Networks|Method)::(PlainNetwork|Plain|Kdm|MeanVelocity)\b"),
        ],
    )
    def test_whatever_tells_variants_apart_is_among_them(self, heading, variants):
        section = self.text.split(f"\n### {heading}\n")[1].split("\n### ")[0]
        telling = [
            str(path.relative_to(ROOT))
            for path in sorted((ROOT / "src").rglob("*.rs"))
            if len(set(re.findall(variants, path.read_text()))) > 1
        ]
        assert telling
        assert [path for path in telling if f"`{path}`" not in section] == []
