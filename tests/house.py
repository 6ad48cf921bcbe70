"""Print how large the rooms of the house are, beside their goals: `make house`."""

import ast
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import resolve_name
from pathlib import Path

ROOT = Path(__file__).parent.parent
Function = ast.FunctionDef | ast.AsyncFunctionDef
# The most that the house allows: at the median, at the 90th percentile, at all.
MODULE, FUNCTION = (149, 349, 499), (10, 35, 80)
PARAMETERS, SHAPE_ONLY, TESTS = 12, 1.6, 500
# A layer that stands in for one of PyTorch's, or a network for one of MONAI's, takes
# its arguments beside our own.
LIKE_OTHERS = {
    "nobrainer.bayes.layers.BayesianConv3d.__init__",
    "nobrainer.models.unet.UNet.__init__",
}


@dataclass(frozen=True)
class Measure:
    """A figure of the house, what it may be at most, and where the figure comes from.

    `value` and `most` have the unit that `name` says.
    """

    name: str
    value: float
    most: float
    where: str = ""

    def __str__(self) -> str:
        verdict = "met" if self.value <= self.most else "missed"
        line = f"{verdict:6}  {self.value:7g}  at most {self.most:4g}  {self.name}"
        return f"{line}: {self.where}" if self.where else line


@dataclass(frozen=True)
class Module:
    """A module of the source: its dotted name, its tree and its number of lines."""

    name: str
    tree: ast.Module
    n_lines: int
    is_package: bool = False

    @property
    def package(self) -> str:
        """The package that a relative import of this module starts at."""
        return self.name if self.is_package else self.name.rpartition(".")[0]


def read_modules(folder: Path) -> list[Module]:
    """Every module below a folder of source, in order of name."""
    modules = []
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        parts = path.relative_to(folder).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        n_lines = len(text.splitlines())
        modules.append(Module(name, ast.parse(text), n_lines, is_package))
    return modules


def functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Every function, method and nested function, with its dotted name."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, Function | ast.ClassDef):
                name = f"{prefix}.{child.name}" if prefix else child.name
            if isinstance(child, Function):
                yield name, child
            yield from walk(child, name)

    return walk(tree, "")


def public_functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Functions of the module and methods of its classes that others may call.

    Names that begin with an underscore are private, those such as `__call__` are not;
    a function inside a function is no one else's.
    """

    def is_public(name: str) -> bool:
        return not name.startswith("_") or name.endswith("__")

    for name, owner in [("", tree), *_classes(tree)]:
        if name and not is_public(name):
            continue
        for node in owner.body:
            if isinstance(node, Function) and is_public(node.name):
                yield f"{name}.{node.name}" if name else node.name, node


def _classes(tree: ast.Module) -> list[tuple[str, ast.ClassDef]]:
    return [(node.name, node) for node in tree.body if isinstance(node, ast.ClassDef)]


def n_lines(function: Function) -> int:
    """Lines of a function with signature and docstring, without decorators."""
    return function.end_lineno - function.lineno + 1


def n_body_lines(function: Function) -> int:
    """Lines of a function from its first statement to its last, without docstring."""
    body = function.body
    if ast.get_docstring(function, clean=False) is not None:
        body = body[1:]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def _parameters(function: Function) -> list[ast.arg]:
    args = function.args
    starred = [arg for arg in (args.vararg, args.kwarg) if arg is not None]
    return [*args.posonlyargs, *args.args, *args.kwonlyargs, *starred]


def n_parameters(function: Function) -> int:
    """Parameters that a caller may give: all but `self` and `cls`."""
    return sum(arg.arg not in ("self", "cls") for arg in _parameters(function))


def n_bare_any(function: Function) -> int:
    """How many parameters and results of a function may be anything at all.

    `Any` and `Any | None` count; `dict[str, Any]` says more, and does not.
    """

    def is_bare(node: ast.expr | None) -> bool:
        if isinstance(node, ast.BinOp):
            return is_bare(node.left) or is_bare(node.right)
        return node is not None and ast.unparse(node) in ("Any", "typing.Any")

    hints = [function.returns, *(arg.annotation for arg in _parameters(function))]
    return sum(map(is_bare, hints))


def late_imports(tree: ast.Module) -> int:
    """Imports that stand inside a function."""
    found = {
        inner
        for _, function in functions(tree)
        for inner in ast.walk(function)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    }
    return len(found)


def import_cycles(modules: Iterable[Module]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    by_name = {module.name: module for module in modules}
    needs = {name: _imported(by_name[name], set(by_name)) for name in by_name}
    reached = {name: _reached(name, needs) for name in by_name}
    cycles: list[list[str]] = []
    for name in by_name:
        group = sorted(other for other in reached[name] if name in reached[other])
        if group and group not in cycles:
            cycles.append(group)
    return cycles


def _imported(module: Module, known: set[str]) -> set[str]:
    """The modules that a module's imports name: not the packages they stand in."""
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            base = resolve_name(dots + (node.module or ""), module.package)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in known else base)
    return found & known


def _reached(start: str, needs: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        new = needs[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached


def is_shape_only(test: Function) -> bool:
    """Whether a test asserts, but about nothing except shapes, lengths and types.

    A test that expects an exception or calls an assertion of numpy or torch, or one of
    its own, looks at more.
    """
    asserts = []
    for node in ast.walk(test):
        if isinstance(node, ast.Assert):
            asserts.append(node.test)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called == "raises" or called.lstrip("_").startswith("assert"):
                return False
    return bool(asserts) and all(map(_looks_at_shape, asserts))


def _looks_at_shape(node: ast.expr) -> bool:
    if isinstance(node, ast.BoolOp):
        return all(map(_looks_at_shape, node.values))
    if isinstance(node, ast.UnaryOp):
        return _looks_at_shape(node.operand)
    if isinstance(node, ast.Compare):
        return any(map(_is_shape, (node.left, *node.comparators)))
    return _calls(node, "isinstance")


def _is_shape(node: ast.expr) -> bool:
    if isinstance(node, ast.Subscript):
        return _is_shape(node.value)
    of_array = isinstance(node, ast.Attribute) and node.attr in ("shape", "ndim")
    return of_array or _calls(node, "len")


def _calls(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == name


def measure(source: Path, tests: Path) -> list[Measure]:
    """Every figure of the house, from its source and its tests.

    Args:
        source: folder that holds the package.
        tests: folder that holds its tests.

    """
    modules = read_modules(source)
    written = [(f"{m.name}.{n}", f) for m in modules for n, f in functions(m.tree)]
    public = [
        (f"{m.name}.{n}", f) for m in modules for n, f in public_functions(m.tree)
    ]
    test_modules = read_modules(tests)
    checks = [
        function
        for module in test_modules
        for name, function in functions(module.tree)
        if name.rpartition(".")[2].startswith("test_")
    ]
    loose = [(name, n_bare_any(f)) for name, f in public if n_bare_any(f)]
    cycles = [", ".join(cycle) for cycle in import_cycles(modules)]
    late = sum(late_imports(module.tree) for module in modules)
    shape_only = 100 * sum(map(is_shape_only, checks)) / len(checks)
    longest = max(test_modules, key=lambda module: module.n_lines)
    own = [(name, f) for name, f in public if name not in LIKE_OTHERS]
    widths = sorted([(n_parameters(f), name) for name, f in own], reverse=True)
    widest = ", ".join(f"{name} ({n})" for n, name in widths[:3])
    return [
        *_spread("lines of a module", [(m.name, m.n_lines) for m in modules], MODULE),
        *_spread(
            "lines of a function", [(n, n_lines(f)) for n, f in written], FUNCTION
        ),
        *_spread(
            "lines of a body", [(n, n_body_lines(f)) for n, f in written], FUNCTION
        ),
        Measure(
            "parameters of a public function, most", widths[0][0], PARAMETERS, widest
        ),
        Measure(
            "bare Any in public signatures",
            sum(n for _, n in loose),
            0,
            ", ".join(name for name, _ in loose),
        ),
        Measure("import cycles", len(cycles), 0, "; ".join(cycles)),
        Measure("imports inside functions", late, 0),
        Measure("% of tests look at shapes only", round(shape_only, 1), SHAPE_ONLY),
        Measure(
            "lines of a file of tests, largest", longest.n_lines, TESTS, longest.name
        ),
    ]


def _spread(
    what: str, sizes: list[tuple[str, int]], most: tuple[int, int, int]
) -> list[Measure]:
    """Median, 90th percentile and largest of sizes, each beside its goal."""
    values = [size for _, size in sizes]
    name, largest = max(sizes, key=lambda pair: pair[1])
    over = sum(value > most[2] for value in values)
    # Interpolated between neighbours, so that two modules have a percentile, too.
    ninth = statistics.quantiles(values, n=10, method="inclusive")[-1]
    return [
        Measure(f"{what}, median", statistics.median(values), most[0]),
        Measure(f"{what}, 90th percentile", round(ninth, 1), most[1]),
        Measure(
            f"{what}, largest", largest, most[2], f"{name} ({over} above the goal)"
        ),
    ]


if __name__ == "__main__":
    print(*measure(ROOT / "src", ROOT / "tests"), sep="\n")
