"""Every snippet of the README and the pages runs, page by page, in a fresh folder."""

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import nbformat
import pytest

from notebooks import TUTORIALS, colab_address, execute, on_page_markdown, read

pytestmark = pytest.mark.slow(seconds=150)
ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
each_tutorial = pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
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


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page not in TUTORIALS],
    ids=lambda page: str(page.relative_to(ROOT)),
)
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


@each_tutorial
def test_a_tutorial_runs_as_a_notebook(
    page: Path, sample_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MPLBACKEND")
    notebook = read(page)
    execute(notebook, tmp_path)
    made = nbformat.read(page.with_suffix(".ipynb"), 4)
    shown, expected = (list(map(kinds, code_cells(one))) for one in (notebook, made))
    assert shown == expected
    assert any("image/png" in kind for kind in shown)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell: nbformat.NotebookNode) -> set[str]:
    """Whether a cell prints and whether it draws; warnings do not count."""
    names = {output.get("name") for output in cell.outputs} - {"stderr", None}
    return names | {kind for o in cell.outputs for kind in o.get("data", {})}


@each_tutorial
def test_the_notebook_beside_a_tutorial_is_made_of_it(page: Path) -> None:
    path, text = page.with_suffix(".ipynb"), page.read_text()
    made, expected = nbformat.read(path, 4), read(page)
    assert [cell.source for cell in made.cells] == [
        cell.source for cell in expected.cells
    ], "call make notebooks"
    fences = [fence[2] for fence in FENCE.finditer(text)]
    assert fences == ["python"] * len(code_cells(made))
    assert [cell.execution_count for cell in code_cells(made)] == [
        *range(1, len(fences) + 1)
    ]
    # Nothing of the machine that made it.
    assert not re.search(
        r"/(tmp|home|root|work|Users)/|site-packages", path.read_text()
    )
    assert f"]({path.name})" in text
    assert f"(../images/colab.svg)]({colab_address(page)})" in text


@each_tutorial
def test_the_page_shows_the_outputs_of_its_notebook(page: Path) -> None:
    site_page = SimpleNamespace(file=SimpleNamespace(abs_src_path=str(page)))
    shown = on_page_markdown(page.read_text(), site_page)
    assert shown.count("](data:image/png;base64,") >= 1
    after = shown.split("```python")[2].split("```", 1)[1]
    printed = code_cells(nbformat.read(page.with_suffix(".ipynb"), 4))[1].outputs
    assert all(o.text.rstrip() in after for o in printed if "text" in o)
    with pytest.raises(SystemExit, match="call make notebooks"):
        on_page_markdown(page.read_text().replace("import csv", "import re"), site_page)


def test_colab_opens_the_notebook_where_the_project_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notebooks.ROOT", tmp_path)
    project = tmp_path / "pyproject.toml"
    project.write_text("[project]\nname = 'nobrainer'\n")
    colab = "https://colab.research.google.com/"
    assert colab_address(Path("a.md")) == colab
    with project.open("a") as file:
        file.write("urls = { Repository = 'https://github.com/some/one/' }\n")
    there = f"{colab}github/some/one/blob/main/docs/tutorials/a.ipynb"
    assert colab_address(Path("a.md")) == there
