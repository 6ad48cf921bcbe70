"""The findings of a study in plain sentences, for its page and for the terminal."""

import math
from collections import Counter
from collections.abc import Sequence

from nobrainer.glossary import OF_RUNS
from nobrainer.research.journal import STATES, Row
from nobrainer.research.judge import Standing
from nobrainer.research.records import FinalResult, Snapshot

_FEW_SUBJECTS = 10
"""Number of test subjects below which a bootstrap interval is usually too short."""


def summarise_findings(snapshot: Snapshot) -> list[str]:
    """Describe a study in plain sentences, the most important one first.

    Args:
        snapshot: the study as it stands.

    Returns: paragraphs of one or more sentences.
    """
    paragraphs = [_news(snapshot), _effort(snapshot.rows)]
    if snapshot.standing.champion is not None:
        paragraphs.append(_validation(snapshot))
        paragraphs.append(_test(snapshot))
    return [paragraph for paragraph in paragraphs if paragraph]


def _news(snapshot: Snapshot) -> str:
    rows, standing = snapshot.rows, snapshot.standing
    if not rows:
        return "Nothing has been run yet."
    if standing.champion is None or standing.baseline is None:
        baseline = next((row for row in rows if row.role == "baseline"), None)
        if baseline is None or baseline.state == "running":
            return (
                "The default recipe is still being trained: there is nothing to "
                "compare others with yet."
            )
        return (
            "The default recipe was not trained to its end, so nothing can be compared "
            f"with it: {baseline.reason or STATES[baseline.state]}."
        )
    if standing.champion != standing.baseline:
        return _name_winner(standing.champion, snapshot.test)
    if len(standing.means) == 1:
        return "No recipe but the default has been trained to its end yet."
    return "No recipe was found that is better than the default."


def _name_winner(champion: int, test: FinalResult | None) -> str:
    """Say that a better recipe was found, as far as the test split supports it."""
    won = f"Run {champion} is better than the default recipe on the validation split"
    if test is None or test.champion != champion:
        return f"{won}; the test split has not been asked yet."
    if test.difference.n_subjects > 1 and test.difference.low > 0:
        return f"A recipe better than the default was found: run {champion}."
    if test.difference.n_subjects > 1 and test.difference.high < 0:
        return f"{won}, but worse on the test split."
    return f"{won}, but the test split does not confirm it."


def _effort(rows: Sequence[Row]) -> str:
    """Say how many recipes were tried in how much time, and how they ended."""
    ended = [row for row in rows if row.state != "running"]
    if not ended:
        return ""
    states = Counter(row.state for row in ended if row.role != "repeat")
    failed = sum(states[s] for s in ("memory", "diverged", "timeout", "crash"))
    tried = states["done"] + states["pruned"] + failed
    untried = (
        (states["skipped"], "not started (predicted not to fit)"),
        (states["refused"], "refused (not valid)"),
        (states["lost"], "lost with the worker"),
    )
    parts = (
        (states["done"], "trained to the end"),
        (states["pruned"], "stopped early as hopeless"),
        (failed, "failed"),
    )
    time = _duration(math.fsum(row.seconds for row in ended))
    text = (
        f"{_count(tried, 'recipe')} {'was' if tried == 1 else 'were'} tried in {time} "
        f"of training and judging, the default among them: {_listed(parts)}."
    )
    if any(n for n, _ in untried):
        text += f" Besides: {_listed(untried)}."
    repeats = sum(row.role == "repeat" and row.state == "done" for row in ended)
    if repeats:
        text += (
            f" {_count(repeats, 'more training')} with another seed "
            f"{'tells' if repeats == 1 else 'tell'} how much the seed alone changes."
        )
    return text


def _validation(snapshot: Snapshot) -> str:
    """Say how the champion, or the recipe that came closest, did on validation."""
    standing, names = snapshot.standing, snapshot.settings.objectives
    champion, baseline = standing.champion, standing.baseline
    assert champion is not None and baseline is not None
    waiting = [run for run in standing.waiting if run != baseline]
    if champion != baseline:
        text = (
            f"On the validation split it reaches "
            f"{_compare(standing, champion, names)}. It was chosen by these figures, "
            "which therefore flatter it; the test split was not."
        )
    else:
        others = [run for run in standing.means if run != baseline]
        if not others:
            own = ", ".join(f"{_told(n, standing.means[baseline][n])}" for n in names)
            return f"On the validation split the baseline reaches {own}."
        sign = OF_RUNS[names[0]].sign
        best = max(others, key=lambda run: sign * standing.means[run][names[0]])
        text = (
            f"On the validation split the best other recipe, run {best}, reaches "
            f"{_compare(standing, best, names)}."
        )
        if standing.verdicts.get(best) == "within the spread":
            text += " So small a gain may be luck of the seed, and it does not count."
    if standing.spread is None:
        text += " The spread between seeds is not known yet."
    if waiting:
        text += (
            f" {'Run' if len(waiting) == 1 else 'Runs'} "
            f"{', '.join(map(str, waiting))} may be better "
            f"{'than it' if champion == baseline else 'still'}; "
            "a repeat with another seed must confirm that."
        )
    return text


def _compare(standing: Standing, run: int, names: Sequence[str]) -> str:
    """Compare the means of a run with those of the baseline."""
    assert standing.baseline is not None
    parts = []
    for name in names:
        new, old = standing.means[run][name], standing.means[standing.baseline][name]
        gain = OF_RUNS[name].sign * (new - old)
        part = (
            f"{_told(name, new)} against the baseline's "
            f"{_value(name, old)}, {_value(name, abs(gain))} "
            f"{'better' if gain >= 0 else 'worse'}"
        )
        spread = (standing.spread or {}).get(name, 0.0)
        if spread > 0:
            part += (
                f" ({abs(gain) / spread:.1f} times the spread between seeds, "
                f"{_fine(name, spread)})"
            )
        parts.append(part)
    return "; ".join(parts)


def _test(snapshot: Snapshot) -> str:
    """Say what the test split shows, or that it is not scored yet."""
    test, settings = snapshot.test, snapshot.settings
    if test is None:
        return (
            f"The locked test split ({_count(settings.n_test, 'subject')}) is not "
            "scored yet; that is done once, at the end."
        )
    found, dice = test.difference, {n: f["dice"] for n, f in test.figures.items()}
    text = (
        f"On the locked test split, {_count(found.n_subjects, 'subject')} scored once "
        f"({test.scored[:10]}), "
    )
    if test.champion == test.baseline:
        return (
            f"{text}the baseline's Dice is {_value('dice', dice['baseline'])}; there "
            "was no champion to compare with it."
        )
    text += (
        f"the champion's Dice is {_value('dice', dice['champion'])} and the baseline's "
        f"{_value('dice', dice['baseline'])}: a difference of {found.mean:+.3f}"
    )
    if found.n_subjects == 1:
        text += ", of which one subject allows no interval."
    else:
        text += (
            f", 95 % bootstrap interval over subjects {found.low:+.3f} to "
            f"{found.high:+.3f}."
        )
        if found.low > 0:
            text += " The gain holds on subjects by which nothing was chosen."
        elif found.high < 0:
            text += (
                " There the champion is worse than the baseline, whatever the "
                "validation split says."
            )
        else:
            text += (
                " The interval contains 0: these subjects do not show that the "
                "champion is better."
            )
        if found.n_subjects < _FEW_SUBJECTS:
            text += " From so few subjects the interval is rough, and rather too short."
    if test.champion != snapshot.standing.champion:
        text += (
            f" The champion then was run {test.champion}; now it is run "
            f"{snapshot.standing.champion}, which the test split has not seen."
        )
    return text


def _told(name: str, value: float) -> str:
    """A figure's title and value."""
    return f"{OF_RUNS[name].heading} {_value(name, value)}"


def _value(name: str, value: float) -> str:
    return f"{value:.{OF_RUNS[name].digits}f}"


def _fine(name: str, value: float) -> str:
    """A spread with one digit more than its figure, because it is small."""
    return f"{value:.{OF_RUNS[name].digits + 1}f}"


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"


def _listed(parts: Sequence[tuple[int, str]]) -> str:
    return ", ".join(f"{n} {text}" for n, text in parts if n)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{minutes} min"
