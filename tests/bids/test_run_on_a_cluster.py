"""The script for Slurm on the page, as tasks of an array would run it."""

import os
import re
import subprocess
from pathlib import Path

import dask
import pytest
import yaml

from bids_sets import contents
from commands import nobrainer_
from nobrainer.bids.engines.jobs import Jobs

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "bids-on-a-cluster.md"
SNIPPETS = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(), re.M | re.DOTALL)
(SETTINGS,) = (one for one in SNIPPETS if one.startswith("jobqueue:"))


@pytest.mark.parametrize("snippet", [one for one in SNIPPETS if one != SETTINGS])
def test_bash_reads_the_snippets(snippet: str) -> None:
    done = subprocess.run(["bash", "-n"], input=snippet, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_tasks_of_the_array_do_all_scans_between_them_as_one_process_does(
    data: Path, derivative: Path, bids_model: Path, tmp_path: Path
) -> None:
    """The script calls a program that notes its arguments, which are then used."""
    link, out = tmp_path / "the data", tmp_path / "out"
    link.symlink_to(data)
    script = SNIPPETS[0]
    for name, place in (("data", link), ("out", out), ("model", bids_model)):
        script, n = re.subn(rf"^{name}=.*$", f"{name}='{place}'", script, flags=re.M)
        assert n == 1
    program = tmp_path / "bin" / "nobrainer-bids"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o755)
    taken = []
    # Three tasks, of which the last has no participant.
    for task in range(3):
        environment = {
            "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_ARRAY_TASK_COUNT": "3",
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_MEM_PER_NODE": "2048",
        }
        done = subprocess.run(
            ["bash"], input=script, env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        taken.append(done.stdout.splitlines())
    assert taken.pop() == []
    assert [one[-5] for one in taken] == ["sub-01", "sub-02"]
    assert all(one[-4:] == ["--n-cpus", "1", "--mem-mb", "1843"] for one in taken)
    for arguments in taken:
        options = ("--n-samples", 2, "--suffix", "T1w", "T2w", "--tissues")
        result = nobrainer_("bids", *arguments, *options)
        assert result.exit_code == 0, result.stderr
    assert contents(out) == contents(derivative)


def test_the_file_of_settings_decides_on_what_is_no_option() -> None:
    # Networks have other names here.
    settings = yaml.safe_load(SETTINGS.replace("ib0", "lo"))
    settings["jobqueue"]["slurm"]["log-directory"] = None
    with dask.config.set(dask.config.merge(dask.config.config, settings)):
        with Jobs(None, "slurm", "normal", 2, 10**10).cluster([]) as cluster:
            script = cluster.job_script()
        with Jobs(None, "sge", "normal", 2, 10**10).cluster([]) as cluster:
            assert "\n#$ -l h_vmem=6G\n" in cluster.job_script()
    for line in ("#SBATCH -A my-lab", "#SBATCH -t 04:00:00", "module load python"):
        assert f"\n{line}\n" in script
