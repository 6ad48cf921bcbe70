"""The tutorials as notebooks: made of the pages, executed, and their outputs shown.

    python tests/notebooks.py

executes the pages of docs/tutorials and writes a notebook beside each. MkDocs takes
`on_page_markdown` from here, which shows the outputs on the page itself.
"""

import os
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parent.parent
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))
COLAB = "https://colab.research.google.com/"
_CODE = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
# What differs from machine to machine: where a warning comes from.
_WHERE = re.compile(r"\S*/ipykernel_\d+/\d+\.py:\d+: ")
_CACHE = "~/.cache/nobrainer"


def read(page: Path) -> NotebookNode:
    """The notebook that a page is, without outputs."""
    notebook = jupytext.read(page)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # a random one would change with every run
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(kernel))
    return notebook


def execute(notebook: NotebookNode, folder: Path) -> None:
    """Run every cell in a folder and keep what it shows; an error stops it."""
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook,
        timeout=200,
        kernel_name="python3",
        resources=where,
        record_timing=False,
    )
    client.execute()


def colab_address(page: Path) -> str:
    """Where Colab opens a page's notebook; itself while the project has no address."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address = project.get("urls", {}).get("Repository")
    if address is None:
        return COLAB
    repository = address.removeprefix("https://github.com/").strip("/")
    return f"{COLAB}github/{repository}/blob/main/docs/tutorials/{page.stem}.ipynb"


def as_markdown(outputs: list[NotebookNode]) -> str:
    """What a cell shows, as it stands on a page: its text, then its pictures."""
    texts, pictures = [], []
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            image = data["image/png"].replace("\n", "")
            pictures.append(f"\n![the picture](data:image/png;base64,{image})\n")
        else:
            texts.append(output.get("text") or data["text/plain"])
    text = "".join(texts).rstrip()
    fence = f'\n``` text title="Output"\n{text}\n```\n' if text else ""
    return "".join([fence, *pictures])


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Show the outputs of a tutorial's notebook below its code; called by MkDocs."""
    path = Path(page.file.abs_src_path).with_suffix(".ipynb")
    if not path.is_file():
        return markdown
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    sources = [match[1].rstrip("\n") for match in _CODE.finditer(markdown)]
    if [cell.source for cell in cells] != sources:
        raise SystemExit(f"{path}: is not that of the page: call make notebooks")
    remaining = iter(cells)

    def with_outputs(match: re.Match[str]) -> str:
        return match[0] + as_markdown(next(remaining).outputs)

    return _CODE.sub(with_outputs, markdown)


def _without_places(notebook: NotebookNode, folder: Path, cache: Path) -> None:
    """Take out of the outputs what is true of this machine alone."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                text = output.text.replace(str(cache), _CACHE)
                output.text = _WHERE.sub("", text.replace(f"{folder}/", ""))


def main() -> None:
    """Make all notebooks anew."""
    os.environ.pop("MPLBACKEND", None)
    # Where no widgets are installed, tqdm says so.
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    for page in TUTORIALS:
        with tempfile.TemporaryDirectory() as name:
            folder, cache = Path(name, "work"), Path(name, "cache")
            folder.mkdir()
            os.environ["NOBRAINER_CACHE"] = str(cache)
            notebook = read(page)
            execute(notebook, folder)
            _without_places(notebook, folder, cache)
        nbformat.write(notebook, page.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
