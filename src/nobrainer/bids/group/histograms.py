"""Small histograms as SVG elements, coloured by the style of the page."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from nobrainer.bids.group.outliers import LIMIT
from nobrainer.naming import count

_WIDTH, _HEIGHT, _FOOT = 240, 36, 7
_REACH = 7.0
"""Largest z-score of the axis; larger ones are drawn at its end."""
_MANY = 300
"""With so many scans the bins are half as wide."""


def draw_z(scores: np.ndarray) -> Markup:
    """Draw the distribution of the robust z-scores of one structure.

    Args:
        scores: (n_scans,), robust z-scores; NaN where not known.

    Returns:
        A histogram with shaded ends beyond the limit, and a tick for each outlier;
        nothing where no score is known.
    """
    known = scores[~np.isnan(scores)]
    if not len(known):
        return Markup("")
    clipped = np.clip(known, -_REACH, _REACH)
    step = 0.5 if len(known) < _MANY else 0.25
    edges = np.arange(-_REACH, _REACH + step, step)
    counts, _ = np.histogram(clipped, edges)
    height = (_HEIGHT - _FOOT - 1) / counts.max()
    size = _place(step) - _place(0)
    bars = "".join(
        f"M{_place(edge):.1f} {_HEIGHT - _FOOT}v{-high * height:.1f}"
        f"h{size:.1f}V{_HEIGHT - _FOOT}z"
        for edge, high in zip(edges, counts, strict=False)
        if high
    )
    # Outliers at the same point of the picture are one tick.
    beyond = clipped[np.abs(known) > LIMIT]
    at = np.clip([_place(z) for z in beyond], 1, _WIDTH - 1)
    out = sorted(set(np.round(at, 1).tolist()))
    ticks = "".join(f"M{x} {_HEIGHT - _FOOT + 1}v{_FOOT - 1}" for x in out)
    low, high = _place(-LIMIT), _place(LIMIT)
    return Markup(
        '<svg class="spread" viewBox="0 0 {} {}" preserveAspectRatio="none" '
        'aria-hidden="true">'
        '<path class="beyond" d="M0 0H{}V{}H0zM{} 0H{}V{}H{}z"/>'
        '<path class="bars" d="{}"/><path class="middle" d="M{} 0V{}"/>'
        '<path class="out" d="{}"/></svg>'
    ).format(
        *(_WIDTH, _HEIGHT, low, _HEIGHT - _FOOT, high, _WIDTH, _HEIGHT - _FOOT, high),
        *(bars, _WIDTH // 2, _HEIGHT - _FOOT, ticks),
    )


def draw_scores(scores: Sequence[float], flagged: Sequence[bool]) -> Markup:
    """Draw the distribution of the scores, the flagged scans at the bottom.

    Args:
        scores: score of each scan, 0 to 1; NaN where not known.
        flagged: whether there are reasons to look at it.

    Returns: a histogram; nothing where no score is known.
    """
    known = np.isfinite(scores)
    values, marked = np.asarray(scores)[known], np.asarray(flagged, bool)[known]
    if not len(values):
        return Markup("")
    low = np.floor(20 * values.min()) / 20
    edges = np.linspace(min(low, 0.95), 1, 41)
    every, _ = np.histogram(values, edges)
    odd, _ = np.histogram(values[marked], edges)
    width, height = 640, 120
    unit, size = (height - 2) / every.max(), width / len(every)

    def stack(counts: np.ndarray, start: np.ndarray) -> str:
        return "".join(
            f"M{n * size + 0.5:.1f} {height - 1 - under * unit:.1f}"
            f"v{-high * unit:.1f}h{size - 1:.1f}v{high * unit:.1f}z"
            for n, (high, under) in enumerate(zip(counts, start, strict=True))
            if high
        )

    label = (
        f"Scores of {count(len(values), 'scan')}, median {np.median(values):.3f}, "
        f"{marked.sum()} flagged"
    )
    return Markup(
        '<div class="scores"><svg viewBox="0 0 {} {}" preserveAspectRatio="none" '
        'role="img" aria-label="{}"><path class="bars" d="{}"/>'
        '<path class="odd" d="{}"/><path class="axis" d="M0 {}H{}"/></svg>'
        "<p><span>{:.2f}</span><span>the highest bar: {}</span>"
        "<span>{:.2f}</span></p></div>"
    ).format(
        *(width, height, label, stack(every - odd, odd), stack(odd, 0 * odd)),
        *(height - 0.5, width),
        *(edges[0], count(int(every.max()), "scan"), edges[-1]),
    )


def _place(z: float) -> float:
    """Horizontal position of a z-score."""
    return (z + _REACH) / (2 * _REACH) * _WIDTH
