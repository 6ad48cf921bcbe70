"""The rules that keep the house in order, checked on the source with `ast`."""

import ast
import re
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"
# Imports point strictly down; siblings on a line do not know each other.
LAYERS = """
    cli utils
    research
    report
    processing
    figure
    quality evaluation calibration ranking regions
    structures appearance
    bundle
    croissant model_card
    training
    inference
    losses metrics
    models
    bayes data
    io provenance
    formats
    fitted
    volume recipe
    json_records
    types registry memory system naming glossary
    errors
"""
RANK = {
    room: rank
    for rank, line in enumerate(LAYERS.strip().splitlines())
    for room in line.split()
}
ENGINE = "nobrainer/training/engine.py"
FABRIC = "nobrainer/training/fabric.py"
# Whatever ends a trial is a row of the journal, whatever ends the work on a scan a
# line about the scan.
CATCHES_ALL = {"nobrainer/research/trial.py", "nobrainer/processing/guard.py"}
PRINTS = "nobrainer/cli/outputs.py"
ASKS_FOR_HARDWARE = re.compile(
    r"(cuda|mps|xpu|accelerator)\.(is_available|device_count|current_\w+|set_device)"
)
BROAD = {"bare except", "Exception", "BaseException"}

MODULES = {
    str(path.relative_to(SRC)): ast.parse(path.read_text())
    for path in sorted(SRC.glob("nobrainer/**/*.py"))
}
each_module = pytest.mark.parametrize("module", MODULES)


def imports(module: str) -> Iterator[str]:
    """Dotted names of everything that a module imports, wherever the import stands."""
    package = ".".join(Path(module).parts[:-1])
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def caught(node: ast.AST) -> list[ast.expr | None]:
    """The exception types that an `except` clause or a `suppress()` call names."""
    if isinstance(node, ast.ExceptHandler):
        return node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
        return node.args
    return []


@each_module
def test_imports_point_down(module: str) -> None:
    room = Path(module).parts[1].removesuffix(".py")
    for name in imports(module):
        if not name.startswith("nobrainer.") or name == "nobrainer.__version__":
            continue
        target = name.split(".")[1]
        assert target in RANK, f"{module} imports {name}: import its own module"
        if room not in (target, "__init__"):
            assert RANK[room] < RANK[target], f"{module} must not import {name}"


@each_module
def test_only_the_engine_knows_the_hardware(module: str) -> None:
    if module == ENGINE:
        return
    roots = {name.split(".")[0] for name in imports(module)}
    known = "lightning_fabric" not in roots or module == FABRIC
    assert known, f"{module}: leave it to {FABRIC}"
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Attribute):
            assert not ASKS_FOR_HARDWARE.search(ast.unparse(node)), ast.unparse(node)
        elif isinstance(node, ast.Call):
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            named = {v.value for v in values if isinstance(v, ast.Constant)}
            assert not named & {"cuda", "mps"}, ast.unparse(node)
            assert not ast.unparse(node).endswith(".cuda()"), ast.unparse(node)


@each_module
def test_no_import_inside_a_function_and_no_broad_except(module: str) -> None:
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in ast.walk(node):
                late = isinstance(inner, ast.Import | ast.ImportFrom)
                assert not late, f"{ast.unparse(inner)} stands inside {node.name}"
        for kind in caught(node):
            name = ast.unparse(kind) if kind else "bare except"
            if module in CATCHES_ALL and name == "Exception":
                continue
            assert name not in BROAD, f"{module}: {name} is too broad"


@each_module
def test_the_command_line_prints_in_one_place(module: str) -> None:
    if not module.startswith("nobrainer/cli/") or module == PRINTS:
        return
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("print", "click.echo", "click.secho"), (
                f"{module}: {name}"
            )
