"""The group level of `nobrainer bids`."""

from dataclasses import asdict
from pathlib import Path

from nobrainer import bids
from nobrainer.bids.layout import Layout
from nobrainer.cli.outputs import echo, to_json
from nobrainer.errors import list_problems


def gather_scans(layout: Layout, out_dir: Path, *, as_json: bool) -> None:
    """Write the tables and the page of all scans, and print what is missing.

    Args:
        layout: the scans of the data set.
        out_dir: folder of the results.
        as_json: whether to print it as JSON.

    Raises:
        InputError: no scan is done, or a file cannot be written.
    """
    group = bids.write_group(layout, out_dir)
    lines = list_problems(
        (gap.where, f"{gap.state}: {gap.reason}") for gap in group.gaps
    )
    for line in (*lines.splitlines(), *group.problems):
        echo(f"nobrainer: {line}", err=True)
    if as_json:
        story = {
            "scans": [scan.names.scan for scan in group.scans],
            "missing": [asdict(gap) for gap in group.gaps],
            "problems": group.problems,
            "files": list(map(str, group.files)),
        }
        echo(to_json(story))
        return
    echo(f"done      {len(group.scans)}")
    if group.gaps:
        echo(f"missing   {len(group.gaps)}, see standard error and group_quality.tsv")
    echo(f"flagged   {sum(bool(scan.flags) for scan in group.scans)}")
    if group.follow_ups:
        echo(f"sessions  {len(group.follow_ups)} compared with the first one")
    echo(f"tables    {out_dir / 'group_*.tsv'}")
    echo(f"page      {group.files[-1]}")
