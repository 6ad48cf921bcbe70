"""Every snippet of the README and the pages runs, page by page, in a fresh folder."""

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

pytestmark = pytest.mark.slow(seconds=150)
ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def commands(language: str, snippet: str) -> list[str]:
    """The command lines of a shell snippet; in a console one, those after `$ `."""
    lines = snippet.replace("\\\n", " ").splitlines()
    if language == "console":
        return [line[2:] for line in lines if line.startswith("$ ")]
    return [line for line in lines if line and not line.startswith("#")]


def run_command(command: str) -> None:
    """Run `nobrainer ...`; of `make ...` only look the target up (it installs)."""
    program, *words = command.split()
    if program == "make":
        assert set(words) <= set(TARGETS), command
        return
    assert program == "nobrainer", f"{command!r} cannot be run here: fence it as text"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run(
    page: Path,
    sample_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": "__main__"}
    fences = list(FENCE.finditer(text))
    assert 2 * len(fences) == text.count("```"), "a fence is not closed"
    for fence in fences:
        language, snippet = fence[2], dedent(fence[3])
        if language == "python":
            # Blank lines before the snippet make tracebacks name the page's line.
            above = "\n" * (text[: fence.start()].count("\n") + 1)
            exec(compile(above + snippet, page, "exec"), namespace)
        elif language in ("bash", "shell", "console"):
            for command in commands(language, snippet):
                run_command(command)
        else:
            assert language == "text", f"{language!r}: fence it as python, bash or text"
