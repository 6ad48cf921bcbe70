"""How a study was judged: what was fixed before its first run, and by which rules."""

from nobrainer.glossary import OF_RUNS
from nobrainer.research.records import Settings, Snapshot
from nobrainer.research.report.style import name_with_direction
from nobrainer.research.report.tables import show_spread


def list_facts(snapshot: Snapshot) -> list[tuple[str, str]]:
    """List what was fixed and by which rules runs were judged: (term, description)."""
    settings = snapshot.settings
    aims = "; ".join(name_with_direction(name) for name in settings.objectives)
    limit = f"{settings.epochs} epochs"
    if settings.train_minutes is not None:
        limit = f"{settings.train_minutes:g} minutes or {limit}, whichever ends first"
    scored = "not scored yet"
    if snapshot.test is not None:
        scored = f"scored on {snapshot.test.scored}"
    return [
        (
            "Subjects",
            f"{settings.n_train} for training, {settings.n_validate} for validation, "
            f"{settings.n_test} for the test; parted before run 0, none in two parts",
        ),
        ("Objective", f"{aims}; means over the validation subjects"),
        ("Baseline", "run 0, the default recipe without any change"),
        ("Rule", _rule(settings)),
        ("Spread between seeds", _spread(snapshot)),
        (
            "Test split",
            "locked: no training and no choice sees it; it is scored once, at the end, "
            f"with the champion and the baseline; {scored}",
        ),
        ("Training of each run", f"at most {limit}"),
        ("Hopeless runs", f"stopped early by the rule {settings.pruner}"),
        (
            "Draws of the weights",
            f"{settings.n_draws}, for judging, fewer where a model cannot make as many",
        ),
        ("Proposer", settings.proposer),
        ("Seed", f"{settings.seed}, for the split, the proposals and the trainings"),
        ("Labels", _labels(settings)),
        ("Started", settings.started),
        ("Software", ", ".join(f"{n} {v}" for n, v in settings.versions.items())),
    ]


def _rule(settings: Settings) -> str:
    rule = (
        "a recipe becomes the champion when its mean over two seeds is better than the "
        "champion's by more than the spread between seeds"
    )
    if len(settings.objectives) > 1:
        rule += ", in one objective at least, and in none worse by more than that"
    return rule


def _spread(snapshot: Snapshot) -> str:
    spread = snapshot.standing.spread
    if spread is None:
        return "not known yet: nothing has been trained with two seeds"
    figures = ", ".join(
        f"{OF_RUNS[name].heading} {show_spread(name, spread[name])}"
        for name in snapshot.settings.objectives
    )
    return f"{figures}, pooled over champion and baseline"


def _labels(settings: Settings) -> str:
    text = f"{settings.n_classes} classes, background among them"
    if settings.binarize:
        text += "; everything that is not background is one"
    if settings.relabel is not None:
        text += f"; relabelled by {settings.relabel}"
    return text
