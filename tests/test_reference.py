"""The reference says what the code has: signatures, options and their defaults."""

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import click
import pytest
import torch

import nobrainer
from nobrainer import cli
from nobrainer.glossary import OF_REGIONS, OF_SEVERAL_SCANS, OF_STRUCTURES, SCORES

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
API = (REFERENCE / "api.md").read_text()
CLI = (REFERENCE / "cli.md").read_text()
NAMES = {"torch": torch, "nullcontext": nullcontext}
CALL = re.compile(r"[A-Za-z.][\w.]*\(")


def sections(text: str) -> Iterator[tuple[str, str]]:
    """The heading of each section of a page, up to the third level, and its text."""
    parts = re.split(r"^##+ (.*)\n", text, flags=re.MULTILINE)
    yield from zip(parts[1::2], parts[2::2], strict=True)


def calls(text: str) -> Iterator[str]:
    """What looks like `name(arguments)` in fences of text and in first cells."""
    for fence in re.findall(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines = re.sub(r"#.*", "", fence)
        # A call goes on over lines that are indented.
        for call in re.split(r"\n(?=\S)", lines):
            if CALL.match(call):
                yield " ".join(call.split()).split(" -> ")[0]
    for cell in re.findall(r"^\| (.*?) \| ", text, re.MULTILINE):
        yield from (span for span in re.findall(r"`([^`]*)`", cell) if CALL.match(span))


def documented() -> Iterator[tuple[str, str, str]]:
    """Of each signature on the page: where to look, the name, the arguments."""
    owner = ""
    place = {"The classes": "data.labels.LabelTable", "`Prediction`": "Prediction"}
    for heading, text in sections(API):
        if heading in ("Dataset", "Segmentation", "Generation"):
            owner = heading
        tables = re.split(
            r"^\| function (?:of|in) `nobrainer\.(\w+)` ", text, flags=re.M
        )
        named = [(place.get(heading, owner), tables[0])]
        named += list(zip(tables[1::2], tables[2::2], strict=True))
        for where, part in named:
            for call in calls(part):
                if call.startswith("len("):
                    continue
                name, _, arguments = call.partition("(")
                yield where, name, arguments.removesuffix(")")


SIGNATURES = sorted(set(documented()))


def find(where: str, name: str) -> Callable[..., object]:
    """The function or class that a name on the page stands for."""
    path = name.removeprefix("nobrainer.")
    if path == name and not name.startswith("Segmentation."):
        path = f"{where}.{name.removeprefix('.')}"
    found: object = nobrainer
    for part in path.split("."):
        if not hasattr(found, part) and inspect.ismodule(found):
            import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    assert callable(found)
    return found


def test_the_page_of_python_has_signatures_to_check() -> None:
    names = {f"{where}{name}" for where, name, _ in SIGNATURES}
    for name in ("Segmentation.fit", "Segmentation.predict", "Dataset.patches"):
        assert name in names
    assert len(SIGNATURES) > 40


@pytest.mark.parametrize(("where", "name", "arguments"), SIGNATURES)
def test_signatures_are_those_of_the_code(
    where: str, name: str, arguments: str
) -> None:
    there = inspect.signature(find(where, name))
    parameters = [p for p in there.parameters.values() if p.name != "self"]
    (function,) = ast.parse(f"def f({arguments}): ...").body
    assert isinstance(function, ast.FunctionDef)
    written = function.args
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    positional = [p for p in parameters if p.kind not in named]
    by_name = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    others = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
    assert [a.arg for a in written.args] == [p.name for p in positional]
    assert [a.arg for a in written.kwonlyargs] == [p.name for p in by_name]
    assert ([written.kwarg.arg] if written.kwarg else []) == others
    first = len(written.args) - len(written.defaults)
    defaults = [None] * first + list(written.defaults) + list(written.kw_defaults)
    for parameter, default in zip([*positional, *by_name], defaults, strict=True):
        if default is None:
            assert parameter.default is parameter.empty, parameter
        else:
            value = eval(ast.unparse(default), dict(NAMES))
            assert parameter.default == value, parameter


def test_every_figure_of_an_evaluation_is_on_the_page() -> None:
    text = dict(sections(API))["`evaluate`"]
    # The first cells of the tables of metrics.
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    named = {name for cell in rows for name in re.findall(r"`([^`]*)`", cell)}
    there = {one.replace("<score>", score) for one in named for score in SCORES}
    assert there == set(OF_STRUCTURES | OF_REGIONS)
    for name in OF_SEVERAL_SCANS:
        assert f"`{name}`" in text
    for score in SCORES:
        assert f"`{score}`" in text


def commands(
    group: Mapping[str, click.Command], prefix: str = ""
) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.items():
        if isinstance(command, click.Group):
            yield from commands(command.commands, f"{prefix}{name} ")
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield f"{prefix}{name}", command


COMMANDS = dict(commands(cli.COMMANDS))
ROW = re.compile(r"^\| `(--[\w-]+)[^|]*` \|(.*?)\|", re.MULTILINE)
# Commands whose options the page gives in the line that shows how to call them.
IN_LINE = {"info", "models", "research status", "research show", "research space"}


NO_COMMANDS = {"Draws", "research", "What made the results", "Tables of scans"}


def test_every_command_has_a_section_and_every_section_a_command() -> None:
    assert {heading for heading, _ in sections(CLI)} - NO_COMMANDS == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_options_are_those_of_the_command(name: str) -> None:
    text = dict(sections(CLI))["qc" if name == "report" else name]
    options = {
        option.opts[0]: option
        for option in COMMANDS[name].params
        if isinstance(option, click.Option)
    }
    if name in IN_LINE:
        written = set(re.findall(r"--[\w-]+", text.split("```")[1]))
        assert written == set(options)
        return
    # In a row's first cell a bar stands behind a backslash.
    rows = dict(ROW.findall(text.replace("\\|", "/")))
    assert rows.keys() == options.keys()
    for flag, cell in rows.items():
        option, written_default = options[flag], cell.strip()
        default = option.to_info_dict()["default"]
        if option.required:
            assert written_default == "required", flag
        elif option.is_flag or default in (None, ()):
            # What happens without the option, in words.
            assert written_default != "required", flag
        else:
            is_one = option.nargs == 1 and not option.multiple
            values = (default,) if is_one else default
            said = [f"{v:g}" if isinstance(v, float) else str(v) for v in values]
            assert written_default.strip("`") == " ".join(said), flag


SOURCE = Path(nobrainer.__file__).parent
WALK = REFERENCE.parent.joinpath("explanation", "architecture.md").read_text()
# `name` (`place.py`) and `name` in `place.py`.
HOPS = re.findall(r"`([\w.]+)`\s+(?:in\s+|\()`([\w/]+\.py)`", WALK)


def test_the_walk_through_the_architecture_has_hops_to_check() -> None:
    assert len(HOPS) > 30


@pytest.mark.parametrize(("name", "place"), HOPS)
def test_each_hop_of_the_walk_is_where_the_page_says(name: str, place: str) -> None:
    found: ast.AST = ast.parse((SOURCE / place).read_text())
    for part in name.split("."):
        inner = {
            node.name: node
            for node in ast.iter_child_nodes(found)
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        assert part in inner, f"{place} has no {name}"
        found = inner[part]
