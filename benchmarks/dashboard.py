"""How long the page of a large cohort takes to write and to open, and its size.

The results of the scans are made up: 33 structures with sizes, spreads and intervals
as in adults, three sites, ages from 18 to 90, and some scans that went wrong.

    python benchmarks/dashboard.py --n-scans 2000
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from cohorts import make_source, named, write_results
from nobrainer.bids.group.level import write_group
from nobrainer.bids.layout import read_layout

SIDES = {
    "Cerebral-White-Matter": 230_000,
    "Cerebral-Cortex": 240_000,
    "Lateral-Ventricle": 9_000,
    "Inf-Lat-Vent": 450,
    "Cerebellum-White-Matter": 14_500,
    "Cerebellum-Cortex": 52_000,
    "Thalamus": 7_200,
    "Caudate": 3_500,
    "Putamen": 4_900,
    "Pallidum": 1_950,
    "Hippocampus": 4_000,
    "Amygdala": 1_650,
    "Accumbens-area": 520,
    "VentralDC": 4_000,
}
MIDDLE = {
    "3rd-Ventricle": 1_100,
    "4th-Ventricle": 1_700,
    "Brain-Stem": 21_000,
    "CSF": 260_000,
}
N_DRAWS = 10


def make_cohort(root: Path, results: Path, n_scans: int, n_sessions: int) -> None:
    """Write a data set without voxels, and the results of all scans but a few."""
    rng = np.random.default_rng(0)
    n_people = -(-n_scans // n_sessions)
    people = [f"sub-{number:05d}" for number in range(1, n_people + 1)]
    sessions = (
        [f"_ses-{n}" for n in range(1, n_sessions + 1)] if n_sessions > 1 else [""]
    )
    age = rng.uniform(18, 90, n_people)
    site = rng.choice(["Aachen", "Boston", "Cape Town"], n_people)
    sex = rng.choice(["F", "M"], n_people)
    table = "participant_id\tage\tsex\tsite\n" + "".join(
        f"{who}\t{a:.1f}\t{s}\t{at}\n"
        for who, a, s, at in zip(people, age, sex, site, strict=True)
    )
    scans = [f"{who}{session}_T1w" for who in people for session in sessions]
    make_source(root, scans[:n_scans], {"participants.tsv": table})
    typical = {
        f"{side}-{name}": mm3
        for name, mm3 in SIDES.items()
        for side in ("Left", "Right")
    } | MIDDLE
    for number, (name, names) in enumerate(named(root).items()):
        if number % 401 == 400:
            continue  # not done
        who = people.index(name.split("_")[0])
        size = np.exp(rng.normal(0, 0.09))
        draws = {}
        for part, mm3 in typical.items():
            old = (age[who] - 50) / 40
            change = 0.8 * old if "Vent" in part else -0.12 * old
            spread = 0.3 if "Vent" in part else 0.08
            mean = mm3 * size * np.exp(change + rng.normal(0, spread))
            if rng.random() < 0.001:
                mean *= rng.choice([0.3, 0.0, 2.5])
            wide = 8 if rng.random() < 0.002 else 1
            draws[part] = mean * (1 + wide * 0.01 * rng.normal(size=N_DRAWS))
        brain = sum(draws[part] for part in typical if part != "CSF")
        draws |= {"brain": brain, "intracranial": brain + draws["CSF"]}
        score = 1 - 0.3 * rng.beta(2, 12)
        flags = ["the predicted Dice is below 0.9"] if score < 0.9 else []
        write_results(results, names, draws, score=float(score), flags=flags)


def open_page(page: Path, width: int, folder: Path) -> float:
    """Seconds until a fresh Chromium has drawn a page; the least of three times.

    What is left in the folder is a picture of the page.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser, "needs Chromium"
    command = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}", f"--window-size={width},1400",
        f"--screenshot={folder / f'{page.stem}-{width}.png'}", page.as_uri(),
    ]  # fmt: skip
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-scans", type=int, default=2000)
    parser.add_argument("--n-sessions", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder in which everything stays")
    args = parser.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    root, results = folder / "source", folder / "results"
    if not root.exists():
        make_cohort(root, results, args.n_scans, args.n_sessions)
    started = time.process_time()
    group = write_group(read_layout(root), results)
    seconds = time.process_time() - started
    print(f"group level: {seconds:.1f} CPU-s, {len(group.scans)} scans")
    page = results / "group.html"
    print(f"page: {page.stat().st_size / 1e6:.2f} MB")
    blank = folder / "blank.html"
    blank.write_text("<!DOCTYPE html><title>blank</title>")
    for width in (1280, 400):
        # Most of it is the start of the browser, which the other page shows.
        seconds, alone = (open_page(one, width, folder) for one in (page, blank))
        print(
            f"{width} px: {seconds:.2f} s in Chromium, {alone:.2f} s for a blank page"
        )
    if not args.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
