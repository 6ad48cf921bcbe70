from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine_acts import do, make_unit
from nobrainer.bids.engines import local
from nobrainer.bids.engines.engine import SetAside
from nobrainer.bids.engines.pool import Pool
from nobrainer.bids.engines.serial import Serial


def needs(labels: list[str], size: int = 1) -> dict[str, int]:
    return {f"sub-{label}_T1w": size for label in labels}


def begun(folder: Path, label: str) -> list[str]:
    """The processes that have begun a unit, one for each time, and their threads."""
    return (folder / label).read_text().splitlines()


def test_a_unit_that_kills_its_process_twice_is_set_aside_and_the_others_are_done(
    tmp_path: Path,
) -> None:
    labels = ["01", "once", "02", "ever"]
    units = list(map(make_unit, labels))
    done = Pool(2, 3, 10, needs(labels)).run(partial(do, tmp_path), units)
    ended = {unit.source.subject: outcome for unit, outcome in done}
    assert set(ended) == set(labels)
    lost = [one for one, outcome in ended.items() if isinstance(outcome, SetAside)]
    assert lost == ["ever"] and "ended twice" in ended["ever"].reason
    assert len(begun(tmp_path, "ever")) == len(begun(tmp_path, "once")) == 2
    # Who was at work beside one that died is done once more, alone.
    assert all(len(begun(tmp_path, label)) <= 2 for label in labels)
    threads = {line.split()[1] for one in labels for line in begun(tmp_path, one)}
    assert threads == {"3"}


def test_units_that_do_not_fit_into_the_memory_together_are_done_one_by_one(
    tmp_path: Path,
) -> None:
    labels = ["01", "02", "03"]
    units = list(map(make_unit, labels))
    # Two of size 6 do not fit into 10: one process does all, the other waits.
    for _ in Pool(2, 1, 10, needs(labels, 6)).run(partial(do, tmp_path), units):
        pass
    processes = {begun(tmp_path, label)[0].split()[0] for label in labels}
    assert len(processes) == 1


def test_one_process_does_units_in_order(tmp_path: Path) -> None:
    units = [make_unit(label) for label in ("02", "01")]
    outcomes = Serial().run(partial(do, tmp_path), units)
    assert [unit.source.subject for unit, _ in outcomes] == ["02", "01"]


@pytest.mark.parametrize(("told", "wanted"), [(None, "2"), ("1", "1"), ("8", "2")])
def test_processes_share_the_cores_that_they_may_use(
    told: str | None, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    if told is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    monkeypatch.setattr(local, "forecast_bytes", lambda settings, unit: 1)
    settings = SimpleNamespace(device="cpu")
    units = [make_unit(label) for label in ("01", "02")]
    # Five cores for two processes, of which nobody gets more than a half.
    engine = local.Local(settings, n_cpus=5, cap_bytes=2**50)  # type: ignore[arg-type]
    for _ in engine.run(partial(do, tmp_path), units):
        pass
    threads = {begun(tmp_path, one)[0].split()[1] for one in ("01", "02")}
    assert threads == {wanted}
