"""The wheel brings the model: installed where there is no network, it segments."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import nibabel as nib
import pytest

from balls import write_ball
from boxes import box_of, state_of
from nobrainer.provenance import Method, checksum

pytestmark = pytest.mark.slow(seconds=13)
ROOT = Path(__file__).parent.parent
MOST_BYTES = 12_000_000
# Built by hand, because a front end would install the back end from the network.
BUILD = "from setuptools import build_meta as b; b.build_wheel('.'); b.build_sdist('.')"
# In a network of its own a process has no way out; some systems do not allow one.
ALONE = ("unshare", "--map-root-user", "--net")


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that finds no nobrainer but an installed one."""
    shut_out = {"PYTHONPATH", "PYTHONHOME"}
    env = {name: value for name, value in os.environ.items() if name not in shut_out}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


def without_network() -> tuple[str, ...]:
    """What comes before a command so that it has no network, if this system has it.

    Elsewhere the proxy that is not there has to do, see `conftest`.
    """
    found = shutil.which(ALONE[0])
    works = found and subprocess.run([*ALONE, "true"], capture_output=True)
    return ALONE if works and works.returncode == 0 else ()


def first_command() -> str:
    """The first command of the README that is one of this program."""
    found = re.search(r"```\w+\n(nobrainer .*)\n", (ROOT / "README.md").read_text())
    assert found
    return found[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which wheel and source distribution were built."""
    source = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=leave_out)
    box = source / "src" / "nobrainer" / "shipped"
    if not (box / "brain").exists():
        made = box_of(tmp_path_factory.mktemp("box"))
        shutil.copytree(made / "brain", box / "brain")
    run(sys.executable, "-c", BUILD, cwd=source)
    return source


def test_wheel_and_source_distribution_hold_the_model_and_are_small(
    built: Path,
) -> None:
    (wheel,) = built.glob("*.whl")
    (source,) = built.glob("*.tar.gz")
    box = built / "src" / "nobrainer" / "shipped"
    wanted = {path.name: path.read_bytes() for path in (box / "brain").iterdir()}
    in_wheel, inside = "nobrainer/shipped/brain/", {}
    with zipfile.ZipFile(wheel) as archive:
        packed = [one for one in archive.infolist() if "/shipped/" in one.filename]
        for one in packed:
            inside[one.filename.removeprefix(in_wheel)] = archive.read(one)
    modules = {f"nobrainer/shipped/{path.name}" for path in box.glob("*.py")}
    assert inside.keys() == wanted.keys() | modules
    assert {name: inside[name] for name in wanted} == wanted
    assert sum(one.compress_size for one in packed) <= MOST_BYTES
    with tarfile.open(source) as archive:
        names = archive.getnames()
        in_source = f"{names[0].split('/')[0]}/src/{in_wheel}"
        unpacked = {
            name.removeprefix(in_source): archive.extractfile(name)
            for name in names
            if name.startswith(in_source)
        }
        there = {name: file.read() for name, file in unpacked.items() if file}
    assert there == wanted


def test_installed_without_a_network_the_first_command_segments(
    built: Path, tmp_path: Path
) -> None:
    assert first_command() == "nobrainer predict scan.nii.gz --output-dir out"
    (wheel,) = built.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", "env", cwd=tmp_path)
    env = tmp_path / "env"
    (site,) = env.glob("lib/python*/site-packages")
    # What nobrainer needs, and not nobrainer itself: a `.pth` file adds this folder
    # and does not read the `.pth` files in it.
    (site / "needed.pth").write_text(sysconfig.get_path("purelib"))
    pip = (sys.executable, "-m", "pip", "--python", env / "bin" / "python")
    options = ("--no-deps", "--no-index", "--no-cache-dir", "--quiet")
    run(*pip, "install", *options, wheel, cwd=tmp_path)
    there = site / "nobrainer" / "shipped"
    before = state_of(there / "brain")
    work = tmp_path / "work"
    work.mkdir()
    image = nib.load(write_ball(work, 0)[0])
    nib.save(image, work / "scan.nii.gz")
    program, *words = first_command().split()
    run(*without_network(), env / "bin" / program, *words, cwd=work)
    written = {path.name for path in (work / "out").iterdir()}
    for kind in ("label.nii.gz", "entropy.nii.gz", "structures.tsv"):
        assert f"scan_{kind}" in written
    method = Method.from_json((work / "out" / "provenance.json").read_text())
    assert method.model_sha256 == checksum(there / "brain" / "SHA256SUMS")
    assert state_of(there / "brain") == before
