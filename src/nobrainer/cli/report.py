"""`nobrainer report`: a page per scan, and one that lists them."""

from nobrainer.cli.assessment import make_command

report = make_command(
    "report",
    """Segment scans and write pages to look at in a browser.

For a scan STEM.nii.gz, DIR gets STEM.html: slices, volumes with error bars, and
why to look closer, if there is a reason. index.html lists all scans and leads to
their pages. The tables of `nobrainer qc` are written, too. A page is one file
of a few MB that loads nothing: it can be sent to somebody.

Scans that are done are not done again, as in `nobrainer qc`.

A scan that cannot be predicted does not stop the others; it is reported at the
end, and the exit code is 1.

\b
Examples:
  nobrainer report sub-01_T1w.nii.gz --model model --output-dir pages
  nobrainer report sub-*_T1w.nii.gz --model model --output-dir pages
""",
    with_pages=True,
)
