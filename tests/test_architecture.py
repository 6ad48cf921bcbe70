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
    __main__
    cli utils prediction
    bids
    research results
    report realism
    processing
    figure
    quality evaluation calibration ranking regions
    structures appearance
    changes tissues oddities
    shipped
    bundle
    croissant model_card
    training
    inference
    losses metrics generators
    models
    bayes data
    io provenance
    formats
    posthoc
    volume recipe
    json_records
    types registry memory system cores rounding naming glossary compat
    checks
    errors
"""
# The order inside packages, written in the same way. A package that stands here names
# every module that it has.
INSIDE = {
    "cli": """
        bids calibrate data demo evaluate models predict qc rank report research train
        info assessment study_table study_text
        bids_group bids_machine quality_folder study_view
        scans train_folds train_sources
        study_options train_options
        outputs options
    """,
    "bids": """
        run
        engines
        forecast
        scan group
        dataset draws sidecars subject_page
        names tables
        labelled
        layout
        filters
        entities
    """,
    "bids.engines": """
        jobs local
        dask pool serial
        engine
    """,
    "bids.group": """
        level
        columns page
        histograms sessions
        outliers people
        results
    """,
    "training": """
        members own_network
        loop adversarial
        checkpoint_folder validation
        checkpoint
        job fabric
        options tally watch
        averaging data_loss engine objective optimizer phases schedule state_file
    """,
    "croissant": """
        dataset model
        files vocabulary
    """,
    "model_card": """
        card generator
        search training
        markdown
    """,
    "shipped": """
        registry
    """,
    "bundle": """
        bundle
        generator place
        contents
    """,
    "glossary": """
        figures generators
        metric
    """,
    "generators": """
        dcgan
        progressive real label_maps
        layers registry
    """,
    "models": """
        bayesian
        check ensemble kwyk listing meshnet monai_nets unet vnet
        norm reach registry
    """,
    "bayes": """
        draws
        drawn_layers dropout kl warm_start
        layers
        posteriors ensemble
        priors transfer
    """,
    "data": """
        cohort convert file_patches
        patches store
        prepare
        stored
        prepared
        targets
        mapping synthesis
        augment entries labels samples shifts
        zarr_store
        axes freesurfer loading phantom preprocess table windows
        phantom_structures
    """,
    "io": """
        windows
        zarr_image
        pyramid
        reading writing nifti_zarr zarr_arrays
        headers order missing
    """,
    "recipe": """
        generator
        recipe
        settings
        cohort search statement synthesis
    """,
    "metrics": """
        calibration overlap region surface uncertainty
    """,
    "inference": """
        predictor finer
        predict
        field slabs
        windows
        stream
        plan blend constants
        results
        operations moments
        logits
        tiles intensities
    """,
    "figure": """
        charts samples
        slices
        outlines scale
    """,
    "evaluation": """
        compare
        rows
    """,
    "calibration": """
        fitting
        collected scaling intervals
    """,
    "report": """
        scan evaluation cohort subject
        facts viewer document
    """,
    "processing": """
        ensemble generation
        segmentation
        readings
        fitting
        folds
        assembly seen origins alike label_maps training_images
        learned generated prediction training_scans guard
        dataset progress
        plan
    """,
    "quality": """
        examples table outliers
        case
        reasons
        fit
        feature
    """,
    "results": """
        folder
        places records
    """,
    "research": """
        entry
        study task
        proposers ending forecast next_run split size
        llm results
        chat shared report
        endpoint trial_storage budget folder
        optuna_study storage_log database
        records space trial worker
        judge ranges child
        journal
    """,
    "research.report": """
        page
        words facts history importance parameters curves tradeoffs paired
        tables style
    """,
}
ENGINE = "nobrainer/training/engine.py"
FABRIC = "nobrainer/training/fabric.py"
# Whatever ends a trial is a row of the journal, whatever ends the work on a scan a
# line about the scan.
CATCHES_ALL = {"nobrainer/research/child.py", "nobrainer/processing/guard.py"}
PRINTS = "nobrainer/cli/outputs.py"
PLACE = re.compile(r"nobrainer(\.\w+)+:\w+")
ASKS_FOR_HARDWARE = re.compile(
    r"(cuda|mps|xpu|accelerator)\.(is_available|device_count|current_\w+|set_device)"
)
BROAD = {"bare except", "Exception", "BaseException"}

MODULES = {
    str(path.relative_to(SRC)): ast.parse(path.read_text())
    for path in sorted(SRC.glob("nobrainer/**/*.py"))
}
each_module = pytest.mark.parametrize("module", MODULES)


def ranks(lines: str) -> dict[str, int]:
    """The number of the line, from the top, on which each room stands."""
    numbered = enumerate(lines.strip().splitlines())
    return {room: rank for rank, line in numbered for room in line.split()}


RANKS = {"nobrainer": ranks(LAYERS)} | {
    f"nobrainer.{package}": ranks(lines) for package, lines in INSIDE.items()
}


def bindings(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    """The names that imports give to a module, and what each of them stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.partition(".")[0]
                yield alias.asname or root, alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                yield alias.asname or alias.name, f"{base}.{alias.name}"


def imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Dotted names of everything that a module imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
    yield from (name for _, name in bindings(tree, package))


def reached(tree: ast.Module, package: str) -> Iterator[str]:
    """What a module reaches without importing it.

    These are attributes of what it imports, such as `report.write` after
    `import nobrainer as nb` and `nb.report.write`, and places such as
    "nobrainer.models.unet:UNet" from which a registry loads later.
    """
    known = dict(bindings(tree, package))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            root, _, rest = text.partition(".")
            if root in known and re.fullmatch(r"[\w.]+", text):
                yield exported(f"{known[root]}.{rest}")
        elif isinstance(node, ast.Constant) and PLACE.fullmatch(str(node.value)):
            yield str(node.value).replace(":", ".")


def lazy_names() -> Iterator[tuple[str, str]]:
    """The names that packages load on first use, and where they come from."""
    for path in SRC.glob("nobrainer/**/__init__.pyi"):
        package = ".".join(path.relative_to(SRC).parts[:-1])
        for name, source in bindings(ast.parse(path.read_text()), package):
            yield f"{package}.{name}", source


LAZY = dict(lazy_names())


def exported(name: str) -> str:
    """The same name with its own module, where a package only hands it on."""
    parts = name.split(".")
    for end in range(len(parts), 1, -1):
        start = ".".join(parts[:end])
        if start in LAZY:
            return ".".join([LAZY[start], *parts[end:]])
    return name


def wrong_way(module: str, name: str) -> str:
    """What is wrong with the use of a name of nobrainer in a module, or nothing.

    Args:
        module: path of the module below `src`.
        name: dotted name of what it imports or reaches.

    """
    here = module.removesuffix(".py").removesuffix("/__init__").split("/")
    there = name.split(".")
    pairs = enumerate(zip(here, there, strict=False))
    shared = next((n for n, (own, other) in pairs if own != other), None)
    if shared is None:
        return ""  # A package gathers what is in it; a module may name itself.
    package = ".".join(here[:shared])
    order = RANKS.get(package)
    if order is None or name == "nobrainer.__version__":
        return ""
    if there[shared] not in order:
        return f"{module} imports {name}: import its own module"
    if order[here[shared]] >= order[there[shared]]:
        return f"{module} must not know {name}"
    return ""


def caught(node: ast.AST) -> list[ast.expr | None]:
    """The exception types that an `except` clause or a `suppress()` call names."""
    if isinstance(node, ast.ExceptHandler):
        return node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
        return node.args
    return []


@each_module
def test_imports_point_down(module: str) -> None:
    package = ".".join(Path(module).parts[:-1])
    uses = {*imports(MODULES[module], package), *reached(MODULES[module], package)}
    assert not [found for name in sorted(uses) if (found := wrong_way(module, name))]


@pytest.mark.parametrize("package", RANKS)
def test_the_order_names_every_room(package: str) -> None:
    folder = SRC.joinpath(*package.split("."))
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert RANKS[package].keys() == modules | packages


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import nobrainer as nb\nnb.figure.draw(1).x", "nobrainer.figure.draw"),
        ("import nobrainer\nnobrainer.Dataset", "nobrainer.processing.dataset.Dataset"),
        ("import nobrainer.errors\nnobrainer.report.x", "nobrainer.report.x"),
        ("from . import bundle as b\nb.load()", "nobrainer.bundle.load"),
        ("add('unet', 'nobrainer.models.unet:UNet')", "nobrainer.models.unet.UNet"),
    ],
)
def test_what_is_reached_without_an_import_counts(source: str, name: str) -> None:
    assert name in reached(ast.parse(source), "nobrainer")
    wrong = "nobrainer/io.py must not know " + name
    assert wrong_way("nobrainer/io.py", name) == wrong
    assert not wrong_way("nobrainer/cli/info.py", name)


@each_module
def test_only_the_engine_knows_the_hardware(module: str) -> None:
    if module == ENGINE:
        return
    package = ".".join(Path(module).parts[:-1])
    roots = {name.split(".")[0] for name in imports(MODULES[module], package)}
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


TESTS = Path(__file__).parent
# These look at the whole house, not at one room of it.
OF_THE_HOUSE = {"architecture", "docs", "house", "journeys", "nonsense", "reference"}
OF_THE_HOUSE |= {"startup", "brains", "containers"}
TEST_FILES = {
    str(path.relative_to(TESTS)): path for path in sorted(TESTS.glob("**/test_*.py"))
}


def stands_apart(file: str, source: str) -> str:
    """What keeps a file of tests from mirroring the source, or nothing.

    It stands in the folder of a package, and is named after one of its modules or uses
    that package. Without a folder it is named after a module or package, or is one of
    the few that look at the whole house.

    Args:
        file: path of the file below `tests`.
        source: its text.

    """
    *folders, name = file.removesuffix(".py").split("/")
    package, stem = ".".join(["nobrainer", *folders]), name.removeprefix("test_")
    folder = SRC.joinpath("nobrainer", *folders)
    if not (folder / "__init__.py").exists():
        return f"{file}: there is no package {package}"
    rooms = {path.stem for path in folder.glob("*.py")}
    rooms |= {path.parent.name for path in folder.glob("*/__init__.py")}
    if any(f"{stem}_".startswith(f"{room}_") for room in rooms):
        return ""
    if not folders:
        known = stem in OF_THE_HOUSE
        return "" if known else f"{file}: nothing in nobrainer is called {stem}"
    tree = ast.parse(source)
    uses = {*imports(tree, "tests"), *reached(tree, "tests")}
    is_used = any(f"{name}.".startswith(f"{package}.") for name in uses)
    return "" if is_used else f"{file}: it uses nothing of {package}"


ROOT = TESTS.parent
PAGES = [*ROOT.glob("*.md"), ROOT / "Makefile", *ROOT.glob("docs/**/*.md")]
PAGES += [*ROOT.glob("findings/*"), *ROOT.glob("benchmarks/**/*.py")]


@pytest.mark.parametrize(
    "page", sorted(PAGES), ids=lambda page: str(page.relative_to(ROOT))
)
def test_files_of_tests_that_pages_name_are_there(page: Path) -> None:
    named = re.findall(
        r"(?<![\w/])(?:tests/)?((?:\w+/)*test_\w+\.py)", page.read_text()
    )
    assert set(named) <= TEST_FILES.keys()


@pytest.mark.parametrize("file", TEST_FILES)
def test_tests_mirror_the_source(file: str) -> None:
    text = TEST_FILES[file].read_text()
    problem, n_lines = stands_apart(file, text), len(text.splitlines())
    assert not problem, problem
    assert n_lines <= 500, f"{file} has {n_lines} lines: divide it by module"


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("bays/test_layers.py", ""),
        ("test_layers.py", "from nobrainer.bayes import layers"),
        ("bayes/test_dice.py", "from nobrainer.losses import dice"),
        ("bayes/test_dice.py", "import nobrainer as nb\nnb.losses.dice"),
    ],
)
def test_a_test_that_stands_elsewhere_is_found(file: str, source: str) -> None:
    assert stands_apart(file, source)
    assert not stands_apart("losses/test_dice.py", source)
    assert not stands_apart("bayes/test_layers_on_a_gpu.py", source)
