"""What a study does about damaged files, a full disk, wrong types and passwords."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from landscape import Landscape
from landscape_study import SPACE, Notes, of, settings, values, work
from nobrainer.cli import main
from nobrainer.errors import InputError
from nobrainer.research import entry
from nobrainer.research.database import public_url
from nobrainer.research.entry import read
from nobrainer.research.folder import (
    JOURNAL,
    SETTINGS,
    SPLIT,
    STORAGE,
    TEST,
    StudyFolder,
)
from nobrainer.research.journal import Journal, Row, append_lines, read_journal
from nobrainer.research.judge import _Replay, judge
from nobrainer.research.trial_storage import TrialStorage
from nobrainer.research.worker import Presence


def rows(n: int) -> list[Row]:
    """A baseline with its repeat, then recipes that end in different ways."""
    states = ("done", "done", "pruned", "crash")
    return [
        Row(
            number,
            ("baseline", "repeat")[number] if number < 2 else "proposal",
            0 if number < 2 else number,
            values(1e-3 * (1 + number)),
            seed=0,
            proposer="list",
            state=states[number % 4] if number > 1 else "done",
            figures={"dice": 0.8 - number / 1000},
            curve=((0.0, 0.1), (0.5, 0.6)),
            worker="gone-1-0",
        )
        for number in range(n)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study with eight ended runs, whose storage knows them and one more."""
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / SETTINGS).write_text(json.dumps(asdict(settings())))
    split = {"train": [["a", "b"]], "validate": [], "test": []}
    (folder / SPLIT).write_text(json.dumps(split))
    append_lines(folder / JOURNAL, [row.to_json() for row in rows(8)])
    model = folder / "runs/0000/model"
    model.mkdir(parents=True)
    (model / "dice.json").write_text("0.8")
    storage = TrialStorage(folder / STORAGE, settings(), None)
    storage.restore(rows(8))
    number = storage.take_number()
    storage.start(replace(rows(9)[8], number=number, of=number, state="running"), SPACE)
    return folder


def nobrainer_(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stderr


# --- lines


def test_a_half_last_line_is_cut_off_and_said(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_lines(path, ["one", "two"])
    with path.open("a") as file:
        file.write("thr")
    with pytest.warns(UserWarning, match="lines: its last line was cut short"):
        append_lines(path, ["four"])
    assert path.read_text() == "one\ntwo\nfour\n"


FULL = """
import resource, sys
from pathlib import Path
from nobrainer.errors import InputError
from nobrainer.research.journal import append_lines

path = Path(sys.argv[1])
append_lines(path, ["a" * 50])
resource.setrlimit(resource.RLIMIT_FSIZE, (80, 80))
try:
    append_lines(path, ["b" * 50])
except InputError as error:
    print(error)
"""


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    done = subprocess.run(
        [sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{path}: cannot be written: File too large: free")
    assert path.read_text() == "a" * 50 + "\n"


def test_a_journal_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    journal, wanted = Journal(path), rows(6)
    assert journal.read() == []
    lines = [row.to_json() for row in wanted]
    append_lines(path, lines[:3])
    with path.open("a") as file:
        file.write(lines[3][:20])
    assert journal.read() == wanted[:3] and journal.is_torn
    with pytest.warns(UserWarning):
        append_lines(path, lines[3:])
    # What was read before is not read again: it may be gone.
    with path.open("r+b") as file:
        file.write(b"x" * 9)
    assert journal.read() == wanted and not journal.is_torn


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[" * 10**6, "too deep"),
        ('{"number": ' + "9" * 5000 + "}", "5000 digits"),
        (rows(1)[0].to_json(), "run 0 stands there twice"),
        (rows(9)[8].to_json().replace("0.792", "NaN"), "must be finite"),
        (rows(9)[8].to_json().replace("[0.5, 0.6]", "[0.5]"), "pairs of share"),
        (replace(rows(9)[8], number=10**9).to_json(), "so many runs"),
        (replace(rows(9)[8], started="tomorrow").to_json(), "is no time"),
    ],
)
def test_a_damaged_line_is_named_with_the_way_on(
    folder: Path, line: str, why: str
) -> None:
    path = folder / JOURNAL
    before = path.read_text().splitlines()
    path.write_text("\n".join([*before[:4], line, *before[4:]]) + "\n")
    for command in (["status"], ["show", 0], ["export"]):
        code, said = nobrainer_("research", *command, "--working-dir", folder)
        assert code == 2 and said.count("\n") == 1, said
        assert f"{path} line 5: " in said and why in said and "remove the line" in said


def test_a_line_that_was_removed_comes_back_from_the_storage(folder: Path) -> None:
    path = folder / JOURNAL
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    assert read(folder).standing.champion is None  # A repeat of what is not there.
    # No time for a run, but for taking note.
    with pytest.raises(InputError, match="too short for a single run"):
        work(folder, propose=of([]), n=9, budget_s=5.5)
    found = {row.number: row for row in read_journal(path)}
    assert found[0] == rows(1)[0]
    assert found[8].state == "lost"


def test_a_figure_that_is_missing_is_named(folder: Path) -> None:
    bad = replace(rows(9)[8], state="done", figures={"nll": 0.1})
    append_lines(folder / JOURNAL, [bad.to_json()])
    with pytest.raises(InputError, match=f"{JOURNAL}: run 8 is done, but .* 'dice'"):
        read(folder)


def test_a_long_journal_is_judged_in_linear_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """2000 recipes that all wait for a repeat take at most two decisions each."""
    n_decided = 0
    decide = _Replay._decide

    def count(replay: _Replay, challenger: int) -> None:
        nonlocal n_decided
        n_decided += 1
        decide(replay, challenger)

    monkeypatch.setattr(_Replay, "_decide", count)
    many = rows(2) + [
        replace(rows(3)[2], number=n, of=n, state="done", figures={"dice": 0.9})
        for n in range(2, 2000)
    ]
    standing = judge(many, ("dice",))
    assert len(standing.waiting) == 1998
    assert n_decided < 2 * 2000


# --- the storage


def test_a_half_line_in_the_storage_does_not_kill_a_study(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    work(folder, n=3)
    (folder / TEST).unlink()
    before = read_journal(folder / JOURNAL)
    with (folder / STORAGE).open("a") as file:
        file.write('{"op_code":8,"worker_id":"x')
    assert read(folder).standing.champion is not None
    with pytest.warns(UserWarning, match=r"optuna.log: its last line was cut short"):
        work(folder, n=4)
    assert read_journal(folder / JOURNAL)[: len(before)] == before
    for line in (folder / STORAGE).read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param('{"op_code":8,"wor{"op_code":4}', id="two in one"),
        pytest.param("7", id="a number"),
        pytest.param("{}", id="nothing"),
        pytest.param('{"op_code":99,"worker_id":"x"}', id="unknown"),
        pytest.param('{"op_code":6,"worker_id":"x"}', id="incomplete"),
        pytest.param("[" * 10**6, id="deep"),
        pytest.param('{"op_code": ' + "9" * 5000 + "}", id="digits"),
        pytest.param("\0" * 100, id="zeros"),
    ],
)
def test_a_damaged_storage_is_named(folder: Path, line: str) -> None:
    path = folder / STORAGE
    before = path.read_text().splitlines()
    path.write_text("\n".join([*before[:5], line, *before[5:]]) + "\n")
    with (
        Presence(folder / "workers"),
        pytest.warns(UserWarning, match="no run under way is shown"),
    ):
        assert len(read(folder).rows) == 8
    with pytest.raises(InputError, match=rf"{path} line 6: is damaged: .* remove this"):
        work(folder, propose=of([]), n=9)


def test_a_storage_that_was_removed_is_made_anew(folder: Path) -> None:
    (folder / STORAGE).unlink()
    notes = Notes()
    work(folder, propose=of([]), n=9, view=notes)
    assert "made anew from journal.jsonl: 8 runs" in notes.said[0]
    storage = TrialStorage(folder / STORAGE, settings(), None)
    known = {row.number: row for row in storage.ended()}
    assert [known[number] for number in range(8)] == rows(8)
    # The next number is free.
    assert storage.take_number() == max(known) + 1


def test_numbers_without_a_row_are_lost(folder: Path) -> None:
    (folder / STORAGE).unlink()
    storage = TrialStorage(folder / STORAGE, settings(), None)
    storage.restore([row for row in rows(8) if row.number != 3])
    assert [row.state for row in storage.ended() if row.number == 3] == ["lost"]
    assert storage.take_number() == 8


# --- settings and kinds


@pytest.mark.parametrize("name", [SETTINGS, TEST])
@pytest.mark.parametrize(
    "text", ["{", "[" * 10**6, '{"seed": ' + "1" * 5000 + "}", "7", "", "\xff"]
)
def test_damaged_files_are_one_line(folder: Path, name: str, text: str) -> None:
    (folder / name).write_bytes(text.encode("latin-1"))
    for command in (["status"], ["show", 0], ["export"]):
        code, said = nobrainer_("research", *command, "--working-dir", folder)
        assert code == 2 and said.count("\n") == 1 and f"{folder / name}" in said


@pytest.mark.parametrize("objectives", [[], ["dise"], ["dice", "dice"]])
def test_objectives_are_known(folder: Path, objectives: list[str]) -> None:
    changed = asdict(settings()) | {"objectives": objectives}
    (folder / SETTINGS).write_text(json.dumps(changed))
    with pytest.raises(InputError, match=f"{SETTINGS}: .*objective"):
        read(folder)


@pytest.mark.parametrize("split", [[], {}, {"train": 1, "validate": [], "test": []}])
def test_a_split_has_its_parts(folder: Path, split: object) -> None:
    (folder / SPLIT).write_text(json.dumps(split))
    with pytest.raises(InputError, match=f"{SPLIT}: must have the scans"):
        StudyFolder(folder).read_split()


@pytest.mark.parametrize("name", ["workers", ".lock"])
def test_what_is_of_the_wrong_kind_is_one_line(folder: Path, name: str) -> None:
    if name == "workers":
        (folder / name).touch()
    else:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()
    assert len(read(folder).rows) == 8
    with (
        pytest.raises(InputError, match="cannot be used for a study"),
        StudyFolder(folder).refusing(),
    ):
        work(folder, n=9)


def test_what_the_system_refuses_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(entry, "read_journal", refuse)
    code, said = nobrainer_("research", "status", "--working-dir", folder)
    assert code == 2 and said.count("\n") == 1
    assert f"{folder / JOURNAL}: cannot be used for a study: Permission denied" in said


# --- a command that is refused


def test_a_refused_run_leaves_nothing(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    table = tmp_path / "scans.csv"
    table.write_text("features,labels\nnone.nii,none.nii\n")
    for place in (foreign, tmp_path / "new"):
        code, _ = nobrainer_(
            *("research", "run", "--working-dir", place, "--data", table)
        )
        assert code == 2
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://me:hunter2@host/db", "postgresql://me:***@host/db"),
        ("sqlite:////data/ab.db", "sqlite:////data/ab.db"),
        (
            "postgresql://host/db?user=me&password=hunter2&sslmode=require",
            "postgresql://host/db?password=***&sslmode=require&user=me",
        ),
    ],
)
def test_a_password_is_not_shown(url: str, shown: str) -> None:
    assert public_url(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql//me:hunter2@host/db",
        "me:hunter2@host",
        "postgresql://me:hunter2@host:port/db",
        "postgresql://me:hunt/er2@host/db",
        "postgresql://me:hunter2@nowhere.invalid/db",
        "nonsense+driver://me:hunter2@host/db",
        "sqlite:////no/such/folder/x.db?password=hunter2",
    ],
)
def test_no_message_shows_a_password(tmp_path: Path, url: str) -> None:
    table = tmp_path / "scans.csv"
    table.write_text("features,labels\n")
    args = ("run", "--working-dir", tmp_path / "s", "--data", table, "--storage", url)
    code, said = nobrainer_("research", *args)
    assert code == 2 and "hunt" not in said and "er2" not in said
    try:
        TrialStorage(tmp_path / STORAGE, settings(), url)
    except InputError as error:
        assert "hunt" not in str(error) and "er2" not in str(error)
    else:
        raise AssertionError("no error")


# --- what fits


def test_the_test_stays_locked_without_a_challenger(tmp_path: Path) -> None:
    folder, notes = tmp_path / "s", Notes()
    snapshot = work(folder, n=1, view=notes)
    assert [row.role for row in snapshot.rows] == ["baseline", "repeat"]
    assert snapshot.test is None and not (folder / TEST).exists()
    assert "stays locked and the study open" in notes.said[-1]
    assert work(folder, n=2).test is not None


def test_a_search_that_time_cuts_keeps_the_test_for_a_champion(tmp_path: Path) -> None:
    folder, notes = tmp_path / "s", Notes()
    worse = [values(1e-2 * (1 + n)) for n in range(9)]
    task = Landscape(seconds=2)
    kept = work(folder, task=task, propose=of(worse), n=9, budget_s=62, view=notes)
    assert kept.standing.champion == kept.standing.baseline
    assert len(kept.rows) >= 3
    assert kept.test is None and "stays locked" in notes.said[-1]
    # All that is wanted has been tried: that nothing is better is the result.
    n_tried = sum(row.role != "repeat" for row in kept.rows)
    assert work(folder, propose=of(worse), n=n_tried).test is not None
