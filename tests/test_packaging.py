"""What a Space and a stranger rely on: README's front matter, requirements, the files beside the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from shotstream.story import read_story

ROOT = Path(__file__).parents[1]
REQUIREMENTS = (ROOT / "requirements.txt").read_text().splitlines()


@pytest.fixture(scope="module")
def front_matter() -> dict:
    _, header, body = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert body.strip()
    return yaml.safe_load(header)


def test_sdk_version_is_the_gradio_that_requirements_pin(front_matter):
    assert f"gradio=={front_matter['sdk_version']}" in REQUIREMENTS


def test_front_matter_makes_a_space(front_matter):
    assert front_matter["sdk"] == "gradio"
    assert (ROOT / front_matter["app_file"]).is_file()
    assert front_matter["python_version"] == "3.12"  # a string: YAML would read 3.10 as 3.1
    assert 0 < len(front_matter["short_description"]) <= 60
    assert front_matter["license"] == "apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_torch_stays_within_what_a_space_offers():
    """Without an upper bound a Space installs a torch that its GPUs do not run."""
    assert "torch>=2.9,<2.12" in REQUIREMENTS


def test_every_requirement_is_bounded_and_named_once():
    names = [re.match(r"[a-z0-9-]+", line).group() for line in REQUIREMENTS]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9-]+(==[\d.]+|>=[\d.]+,<[\d.]+)", line) for line in REQUIREMENTS)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["dependencies"]["file"] == ["requirements.txt"]


def test_packages_are_one_a_line():
    for line in (ROOT / "packages.txt").read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", line)


@pytest.mark.parametrize("path", sorted((ROOT / "assets" / "stories").glob("*.json")), ids=lambda path: path.stem)
def test_example_stories_are_stories(path):
    story = read_story(path)
    assert story.warning is None
    assert 2 <= len(story.shots) <= 12  # as many as the public endpoint takes
