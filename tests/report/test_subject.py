import math
from pathlib import Path

from nobrainer.report.document import Picture
from nobrainer.report.subject import SubjectScan, write_subject


def test_a_participant_s_scans_stand_side_by_side(tmp_path: Path) -> None:
    picture = Picture("image/png", b"\x89PNG", "Slices")
    scans = [
        SubjectScan(
            "sub-1_ses-a_T1w",
            "Its score is 0.9.",
            (),
            picture,
            "sub-1/figures/a b.html",
            {"brain": (1_200_000.0, 3_000.0), "cortex": (500_000.0, math.nan)},
        ),
        SubjectScan(
            "sub-1_ses-<b>_T1w",
            "Its score is 0.1.",
            ("volume of brain is 4 SD below",),
            picture,
            "sub-1/figures/b.html",
            {"brain": (900_000.0, 4_000.0)},
        ),
    ]
    page = write_subject(tmp_path / "sub-1.html", "sub-1", scans).read_text()
    assert "<b>" not in page and "sub-1_ses-&lt;b&gt;_T1w" in page
    assert 'href="sub-1/figures/a%20b.html"' in page
    assert page.count("data:image/png;base64,iVBORw==") == 2
    assert page.count("Flagged: look at this scan yourself.") == 1
    cells = ("1200.00 ± 3.00", "900.00 ± 4.00", "500.00", "\N{EN DASH}")
    assert all(f"<td>{cell}</td>" in page for cell in cells)
