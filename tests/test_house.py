"""The figures of the house, counted on two made-up modules."""

from pathlib import Path

from house import Measure, measure

THERE = '''\
"""A module of twenty-one lines."""

from typing import Any

from made.here import short


class Thing:
    def __call__(self, one, *rest: Any, two: dict[str, Any], **more) -> Any | None:
        """Have four parameters and six lines."""
        import os

        def inner(many, hidden, names, of, no, one):
            return os

        return inner


class _Hidden:
    def method(self, anything: Any) -> Any:
        return short(anything)
'''
HERE = """\
import made.there
def short(x): return made.there
"""
TESTS = """\
def test_shapes(x):
    assert x.shape == (1, 2) and not len(x) > 3
    assert isinstance(x, list)

def test_values(x):
    assert x.shape == (1, 2)
    assert x.sum() == 3

def test_calls(x):
    assert x.shape[0] == 1
    np.testing.assert_allclose(x, 3)

def test_refuses(x):
    assert len(x) == 1
    with pytest.raises(ValueError):
        x.sum()

def test_nothing(x):
    x.sum()

def look(x):
    assert len(x) == 1
"""


CALL = "made.there.Thing.__call__"


def test_the_house_is_counted(tmp_path: Path) -> None:
    for name, text in (
        ("src/made/__init__.py", '"""Made up."""\n'),
        ("src/made/there.py", THERE),
        ("src/made/here.py", HERE),
        ("tests/test_made.py", TESTS),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = measure(tmp_path / "src", tmp_path / "tests")
    # Modules of 1, 2 and 21 lines; functions of 1, 2, 2 and 8 lines, whose bodies have
    # 1, 1, 1 and 6. The 90th percentile lies at 0.8 and 0.7 of the way to the largest.
    assert [(one.name, one.value, one.where) for one in found] == [
        ("lines of a module, median", 2, ""),
        ("lines of a module, 90th percentile", 17.2, ""),
        ("lines of a module, largest", 21, "made.there (0 above the goal)"),
        ("lines of a function, median", 2, ""),
        ("lines of a function, 90th percentile", 6.2, ""),
        ("lines of a function, largest", 8, f"{CALL} (0 above the goal)"),
        ("lines of a body, median", 1, ""),
        ("lines of a body, 90th percentile", 4.5, ""),
        ("lines of a body, largest", 6, f"{CALL} (0 above the goal)"),
        (
            "parameters of a public function, most",
            4,
            f"{CALL} (4), made.here.short (1)",
        ),
        ("bare Any in public signatures", 2, CALL),
        ("import cycles", 1, "made.here, made.there"),
        ("imports inside functions", 1, ""),
        ("% of tests look at shapes only", 20.0, ""),
        ("lines of a file of tests, largest", 22, "test_made"),
    ]


def test_a_goal_may_be_reached_exactly() -> None:
    met, missed = Measure("lines", 80, 80), Measure("lines", 80.5, 80, "here")
    assert str(met).split()[0] == "met"
    assert str(missed).split() == [
        "missed",
        "80.5",
        "at",
        "most",
        "80",
        "lines:",
        "here",
    ]
