"""`nobrainer qc`: which of many segmentations to look at."""

from nobrainer.cli.assessment import make_command

qc = make_command(
    "qc",
    """Segment scans and say which results to look at.

DIR gets qc.tsv, a row per scan with its score and the reasons to look at it;
structures.tsv, the volumes of every structure with error bars; and regions.tsv,
the most uncertain areas and where they are. A .json beside each explains its
columns; provenance.json and the folder provenance say which model made them, and
how. From 10 scans on, each is also compared with the others. No maps are written.

Scans that are done are not done again, so that after an interruption the same
command goes on, and the tables hold all scans of DIR. Results of another model,
seed, number of draws or threshold are not mixed in.

A flag is a reason to look, not a verdict, and a scan without one can be wrong.
A scan that cannot be predicted does not stop the others; it is reported at the
end, and the exit code is 1.

\b
Examples:
  nobrainer qc sub-*_T1w.nii.gz --model model --output-dir qc
  nobrainer qc sub-*_T1w.nii.gz --model model --output-dir qc --threshold 0.9
""",
    with_pages=False,
)
