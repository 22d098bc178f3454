"""What a Space and a stranger rely on: README's front matter, requirements, the files beside the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from shotstream.cards import SPEEDS, UTILISATIONS, empty_model, expected_fps, shot_work
from shotstream.models.published import preloaded_files
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


def test_front_matter_is_complete(front_matter):
    """What the Hub shows of a Space, and what it lets it wait for."""
    known = {"title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "app_file", "python_version", "license"}
    known |= {"short_description", "suggested_hardware", "models", "preload_from_hub", "startup_duration_timeout"}
    assert set(front_matter) == known | {"tags", "thumbnail"}
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {front_matter["colorFrom"], front_matter["colorTo"]} <= colours
    assert (ROOT / front_matter["thumbnail"]).is_file()
    assert re.fullmatch(r"\d+[mh]", front_matter["startup_duration_timeout"])


def test_what_is_preloaded_is_what_is_loaded(front_matter):
    """Repositories, exact files and revisions are those that the program asks the Hub for; only a commit can be named
    there."""
    files = preloaded_files()
    assert front_matter["models"] == [part.repo for part in files]
    expected = [
        " ".join([part.repo, ",".join(part.files), *([part.revision] if part.revision != "main" else [])])
        for part in files
    ]
    assert front_matter["preload_from_hub"] == expected
    assert all(re.fullmatch(r"[0-9a-f]{40}|main", part.revision) for part in files)
    assert not any("*" in name for part in files for name in part.files)


def test_the_table_on_paper_is_what_the_program_computes():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    work = shot_work(empty_model(None, torch.bfloat16), 480, 832, 7)
    for name, speed in SPEEDS.items():
        slow, fast = (expected_fps(work, speed, share) for share in UTILISATIONS)
        assert f"| {name} | {speed.tflops:.0f} | {speed.tbytes:.2f} | {slow:.1f} | {fast:.1f} |" in readme
    assert "computed from data sheets and not measured" in readme


def test_variables_and_extras_that_are_named_are_the_program_s():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "shotstream").rglob("*.py"))
    for variable in set(re.findall(r"SHOTSTREAM_[A-Z0-9_]+", readme)):
        assert variable in code, variable
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    hints = re.findall(r"pip install (?!-r|scenedetect)([^;`\n]*)", readme + code)
    named = {re.match(r"-e '\.\[(\w+)\]'", hint).group(1) for hint in hints}  # the name on the index is not ours
    assert named == extras.keys() - {"dev"}


def test_messages_that_the_readme_explains_are_the_program_s():
    """Whatever stands in the first column of its tables of troubles, between the parts that change."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told = " ".join(text for path in (ROOT / "shotstream").rglob("*.py") for text in _texts(path))
    tables = re.findall(r"^\| (?:what )?it says \| what to do \|\n\|---\|---\|\n((?:\|.*\n)+)", readme, re.MULTILINE)
    cells = [row.split(" | ")[0].strip("| ") for table in tables for row in table.splitlines()]
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell) or [cell]]
    assert len(tables) == 2 and len(messages) > 20
    for message in messages:
        for part in re.split(r"\.\.\.|\bN\b|\d+", message):
            assert part.strip() in told, message


def _texts(path: Path) -> Iterator[str]:
    """The strings of a file as they are told, without what is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_nothing_is_too_large_for_plain_git():
    """A Space refuses larger files from plain git; ours could be pushed either way."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    assert not [path for path in paths if path.is_file() and path.stat().st_size > 10_000_000]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_requirements_resolve_for_python_3_12_with_every_torch_of_a_space(tmp_path):
    """Asks the package index; installs nothing."""
    for torch_version in ("2.9.1", "2.10.0", "2.11.0"):
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--python-version", "3.12", "--only-binary", ":all:", "--target", str(tmp_path)]
        command += ["-r", str(ROOT / "requirements.txt"), f"torch=={torch_version}"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=700)
        assert result.returncode == 0, result.stderr[-1000:]


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
