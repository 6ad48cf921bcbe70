"""The recipes of the containers, read: no container is built here."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
DEFINITION = (ROOT / "nobrainer.def").read_text()
HADOLINT = shutil.which("hadolint", path=Path(sys.executable).parent)


def instructions(name: str) -> list[str]:
    """What stands after an instruction of the Dockerfile, each time that it stands."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{name} +(.+)$", joined, re.MULTILINE)


def section(name: str) -> str:
    """The text of a section of Apptainer's definition."""
    found = re.search(
        rf"^%{name}\n(.*?)(?=^%|\Z)", DEFINITION, re.DOTALL | re.MULTILINE
    )
    assert found, name
    return found[1]


def copied() -> set[str]:
    """What the Dockerfile takes from the project."""
    own = [one for one in instructions("COPY") if not one.startswith("--from")]
    return {source for one in own for source in one.split()[:-1]}


def test_both_take_what_the_wheel_is_built_from_and_the_pins() -> None:
    needed = {"src", "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]}
    assert copied() == needed | {"constraints.txt"}
    pairs = [line.split() for line in section("files").splitlines() if line.strip()]
    assert dict(pairs) == {one: f"/source/{one}" for one in copied()}
    assert all((ROOT / one).exists() for one in copied())


def test_what_docker_is_given_leaves_out_all_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    first, *rest = [line for line in lines if not line.startswith("#")]
    assert first == "*"
    assert {line[1:] for line in rest if line.startswith("!")} == copied()


def test_both_install_the_same_pins_for_cpus_into_the_same_python() -> None:
    base = {line.split()[0] for line in instructions("FROM")}
    assert base == set(re.findall(r"^From: (.+)$", DEFINITION, re.MULTILINE))
    (image,) = base
    python = re.fullmatch(r"python:(\d+\.\d+)-slim", image)
    assert python and PROJECT["requires-python"] == f">={python[1]}"
    install = "/opt/nobrainer/bin/pip install --constraint constraints.txt ."
    index = "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"
    for recipe in (DOCKERFILE, section("post")):
        assert install in recipe and index in recipe


def test_both_run_the_entry_point_of_bids_apps() -> None:
    (entry,) = json.loads(instructions("ENTRYPOINT")[0])
    assert entry in PROJECT["scripts"]
    assert section("runscript").rstrip().endswith(f'exec {entry} "$@"')
    environment = instructions("ENV")[-1].split()
    assert environment[0] == "PATH=/opt/nobrainer/bin:$PATH"
    assert set(environment) <= set(section("environment").split())


def test_the_image_runs_as_a_user_that_is_not_root() -> None:
    last_stage = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    users = re.findall(r"^USER (\d+):(\d+)$", last_stage, re.MULTILINE)
    assert len(users) == 1 and 0 not in map(int, users[0])
    assert f"--uid {users[0][0]} " in last_stage
    # What follows is done as this user, and installs nothing any more.
    assert "RUN" not in last_stage[last_stage.index("\nUSER") :]


@pytest.mark.parametrize("name", ["post", "environment", "runscript", "test"])
def test_the_shell_reads_each_section_of_the_definition(name: str) -> None:
    done = subprocess.run(
        ["sh", "-n"], input=section(name), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(HADOLINT is None, reason="there is none for this system")
def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(
        [HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
