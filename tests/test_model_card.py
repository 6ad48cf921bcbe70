"""The model card, rendered by a Markdown parser and read as a person would."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from markdown_it import MarkdownIt

import recipes
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.model_card import model_card
from nobrainer.posthoc import Calibration, Intervals, QualityModel
from nobrainer.recipe import Cohort, FileRecord, Recipe, Source, Statement

DASH = "\N{EN DASH}"
LABELS = LabelTable(("background", "brain"))
SEARCH = replace(
    recipes.SEARCH,
    n_test=4,
    space={
        "base_filters": {"values": (8, 16, 32)},
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "levels": {"low": 2, "high": 4, "log": False},
    },
    values={"base_filters": 16, "learning_rate": 0.00312345, "levels": 3},
    validation={"nll": 0.2, "aurc": 0.01, "dice": 0.91},
    baseline_validation={"dice": 0.88, "nll": 0.25, "aurc": 0.02},
    test={"dice": 0.9, "dice/brain": 0.9},
    baseline_test={"dice": 0.87, "dice/brain": 0.87},
    n_train_scans=9,
    n_validate_scans=3,
    n_test_scans=4,
)


def _recipe(metrics=None, search=None, cohort=None, files=(), data=None):
    return recipes.make_recipe(
        model={"args": {"n_classes": 2, "base_filters": 16}},
        preprocess={"spacing_mm": (1.0, 1.0, 1.5)},
        data={"block_shape": (32, 32, 16)} | (data or {}),
        training={
            "epochs": 50,
            "opt_args": {"lr": 1e-3, "betas": (0.9, 0.99)},
            "schedule": "cosine",
        },
        provenance={
            "versions": {"nobrainer": "0.1.0", "torch": "2.13.0"},
            "files": files,
            "metrics": {"validation_dice": 0.875} if metrics is None else metrics,
            "cohort": cohort,
            "search": search,
        },
    )


def _card(recipe, labels=LABELS, calibration=None, quality=None):
    return model_card(recipe, labels, calibration, quality, n_epochs=37)


def _tables(text):
    """Every table of a text: its rows, the head first, as the texts that are seen."""
    tables, in_cell = [], False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and in_cell:
            assert {part.type for part in token.children} <= {"text", "text_special"}
            tables[-1][-1].append("".join(part.content for part in token.children))
        in_cell = token.type in ("th_open", "td_open")
    return tables


def _table(text, first):
    """The table whose head begins with `first`, as rows after the head."""
    (found,) = [table for table in _tables(text) if table[0][0] == first]
    assert {len(row) for row in found} == {len(found[0])}
    return found[1:]


def _headings(text):
    tokens = MarkdownIt("commonmark").parse(text)
    return [
        after.content
        for token, after in pairwise(tokens)
        if token.type == "heading_open" and token.tag == "h2"
    ]


def test_a_card_has_the_sections_that_a_reader_looks_for():
    text = _card(_recipe())
    assert text.startswith("# bayesian_vnet: brain MRI in 2 classes\n\nA network")
    assert _headings(text) == [
        "Model details",
        "Intended use",
        "How to use it",
        "Training data",
        "Training",
        "Figures",
        "How it was chosen",
        "Calibration and quality",
        "Limits",
        "Provenance",
    ]
    assert "**Not a medical device.**" in text
    assert "voxels of 1 x 1 x 1.5 mm" in text
    assert "entropy (0 to 0.69 nats)" in text
    assert text.endswith("\n") and "\n\n\n" not in text


def test_a_recipe_that_was_stored_has_the_same_card():
    recipe = _recipe({"validation_dice": 0.5, "loss": 1.0, "dice": 0.25}, SEARCH)
    again = Recipe.from_json(recipe.to_json())
    assert list(again.provenance.metrics) != list(recipe.provenance.metrics)
    assert _card(again) == _card(recipe)


def test_training_data_are_counted_and_never_named():
    roles = ["train-image"] * 3 + ["train-label"] * 3 + ["validate-image"] * 2
    files = tuple(
        FileRecord(f"secret/sub-{i}.nii.gz", role, f"{i}" * 64, 1)
        for i, role in enumerate(roles)
    )
    cohort = Cohort(2, (15.0, math.log(1.37e6)), (0.1, 0.125), n_scans=3)
    text = _card(_recipe(files=files, cohort=cohort))
    assert _table(text, "files") == [
        ["train-image", "3"],
        ["train-label", "3"],
        ["validate-image", "2"],
    ]
    assert (
        "Trained on 3 scans of 2 subjects; Dice 0.875 on the validation scans." in text
    )
    assert "secret" not in text
    # 1370 cm³, times and divided by exp(0.125); air depends on the field of view.
    assert _table(text, "label") == [
        ["0", "background", DASH],
        ["1", "brain", "1370 (1210 to 1550)"],
    ]
    unseen = replace(cohort, n_having=(3, 0))
    told = _card(_recipe(cohort=unseen))
    assert _table(told, "label")[1] == ["1", "brain", "never seen"]
    assert "No training scan has brain: the network cannot find" in told
    one = _card(_recipe(cohort=Cohort(1, (None, None), (None, None))))
    assert "trained on 1 scan, and knows nothing else" in one
    assert _table(one, "label")[1] == ["1", "brain", DASH]
    unknown = _card(_recipe())
    assert "a number of scans that is not on record" in unknown
    assert "the scans were given in memory" in unknown


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "The labels of its files are the classes."),
        ({"binarize": "nonzero"}, "Every label of its files but 0 is brain."),
        (
            {"binarize": "ids", "binarize_ids": (2, 41)},
            "Of the labels of its files these are brain: 2, 41.",
        ),
        (
            {"binarize": "callable", "binarize_name": "my_brain"},
            "A function (my_brain), which is not stored",
        ),
        ({"relabel": {"2": 1, "41": 1}}, "2 labels of its files were mapped to the 2"),
    ],
)
def test_how_labels_became_classes_is_said(data, said):
    assert said in _card(_recipe(data=data))


def test_settings_stand_under_their_names_in_the_recipe():
    text = _card(_recipe())
    settings = dict(_table(text, "setting"))
    assert settings["model.args.base_filters"] == "16"
    assert settings["training.opt_args.betas"] == "0.9, 0.99"
    assert settings["data.block_shape"] == "32, 32, 16"
    assert settings["data.shuffle"] == "yes"
    # What was not set, and what is told elsewhere, is left out.
    assert not {"training.patience", "model.args.n_classes"} & settings.keys()
    assert "Epochs trained: 37." in text
    recipe = _recipe()
    several = replace(recipe.provenance, member_seeds=(1, 2, 3))
    text = _card(replace(recipe, provenance=several))
    assert "Epochs trained: 37, over its 3 members." in text


def test_figures_are_named_and_those_that_are_missing_too():
    metrics = {
        "loss": 0.5,
        "dice": 0.9,
        "validation_dice_brain": 0.87654,
        "validation_dice": 0.87654,
        "other": math.nan,
    }
    assert _table(_card(_recipe(metrics)), "figure") == [
        ["Dice on validation scans, mean over classes but background", "0.8765"],
        ["Dice on validation scans, brain", "0.8765"],
        ["Dice on training patches", "0.9"],
        ["loss on training patches", "0.5"],
        ["other", DASH],
    ]
    text = _card(_recipe({"loss": 0.5}))
    assert "was not measured in training" in text
    assert "Dice on other scans not measured" in text
    assert "None were taken." in _card(_recipe({}))


NASTY = ("a|b", "`c`", "*d*", "<e>", "[f](g)", "\\|h", "_i_", "j_k", "&lt;", "~~l~~")


def test_no_name_breaks_a_table_or_changes_how_it_looks():
    labels = LabelTable(("background", *NASTY))
    metrics = {f"validation_dice_{name}": 0.5 for name in NASTY} | {"x|y": 0.5}
    search = replace(
        SEARCH,
        space={"p|q": {"values": ["r|s", "_t_", True]}},
        values={"p|q": "r|s"},
        proposer="u|`v`",
    )
    text = _card(_recipe(metrics, search), labels)
    assert [row[1] for row in _table(text, "label")] == ["background", *NASTY]
    assert {row[0] for row in _table(text, "figure")} == {
        *(f"Dice on validation scans, {name}" for name in NASTY),
        "x|y",
    }
    assert _table(text, "parameter") == [["p|q", "r|s, _t_, yes", "r|s"]]
    assert "j_k" in text and "j\\_k" not in text  # legible where it is not rendered


def test_a_search_is_told_with_baseline_spread_test_and_space():
    text = _card(_recipe(search=SEARCH))
    assert _table(text, "on validation") == [
        ["Dice (0 to 1, higher is better)", "0.91", "0.88", "0.004"],
        ["negative log-likelihood (nats, lower is better)", "0.2", "0.25", "0.01"],
        [
            "area under the risk-coverage curve (0 to 1, lower is better)",
            *("0.01", "0.02", DASH),
        ],
    ]
    assert _table(text, "on test") == [
        ["Dice (0 to 1, higher is better)", "0.9", "0.87"],
        ["Dice, brain", "0.9", "0.87"],
    ]
    assert _table(text, "parameter") == [
        ["base_filters", "8, 16, 32", "16"],
        ["learning_rate", "0.0001 to 0.01, log", "0.003123"],
        ["levels", "2 to 4", "3"],
    ]
    for said in (
        "run 7 of a search over the settings of bayesian_vnet (seed 3)",
        "15 runs, of which 2 failed",
        "divided: 9 scans of 6 subjects to train on, 3 scans of 2 subjects to validate "
        "on, 4 scans of 4 subjects locked away for one test",
        "better on validation (dice, nll)",
        "tpe proposed its values",
        "+0.0300, 95 % bootstrap interval over 4 subjects from +0.0100 to +0.0500.",
        "The test shows that it is better.",
        "Dice 0.9 on a test split of 4 scans of 4 subjects.",
    ):
        assert said in text, said


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ((0.01, -0.01, 0.03), "the test does not show that it is better"),
        ((0.01, 0.0, 0.03), "the test does not show that it is better"),
        ((-0.02, -0.03, -0.01), "The test shows that it is worse."),
    ],
)
def test_a_test_that_shows_no_gain_is_not_called_one(difference, said):
    text = _card(_recipe(search=replace(SEARCH, test_difference=difference)))
    assert said in text
    assert "it is better." not in text.replace("does not show that it is better.", "")


def test_before_the_test_the_card_says_so():
    search = replace(SEARCH, test=None, baseline_test=None, test_difference=None)
    text = _card(_recipe(search=search))
    assert "The test subjects have not been scored." in text
    assert "Dice 0.875 on the validation scans" in text
    assert "bootstrap" not in text


def test_a_search_that_found_nothing_better_says_so():
    search = replace(
        SEARCH,
        values={},
        validation=SEARCH.baseline_validation,
        spread={},
        test=SEARCH.baseline_test,
        test_difference=(0.0, 0.0, 0.0),
    )
    text = _card(_recipe(search=search))
    assert "None took it from the unchanged recipe, which this is." in text
    assert {row[2] for row in _table(text, "parameter")} == {"default"}
    assert [row[3] for row in _table(text, "on validation")] == [DASH] * 3
    assert "bootstrap" not in text and "took the lead;" not in text


def test_without_a_search_none_is_claimed():
    assert "which did not search for better" in _card(_recipe())


def test_what_was_fitted_is_told_and_sets_the_number_of_draws():
    plain = _card(_recipe())
    assert "`nobrainer calibrate` was not run" in plain
    assert "n_samples=10)" in plain and "--n-samples 10\n" in plain
    calibration = Calibration("temperature", (0.5, 0.5), (0.0, 0.0), 4, 0.5, 0.25, None)
    quality = QualityModel(
        features=("entropy",),
        centre=(0.1,),
        scale=(0.5,),
        coefficients=(-0.1,),
        intercept=1.2,
        low=(-2.0,),
        high=(2.0,),
        n_subjects=5,
        n_cases=20,
        n_draws=7,
        error=0.0234,
    )
    text = _card(_recipe(), calibration=calibration, quality=quality)
    assert "(temperature), fitted on 4 scans" in text
    assert "0.5 before, 0.25 nats after" in text
    assert "- **Intervals of volumes** were not fitted." in text
    assert "error of 0.023 on subjects left out, fitted on 20 cases of 5" in text
    assert "n_samples=7)" in text and "predicted quality holds for as many" in text
    wide = replace(calibration, intervals=Intervals(0.9, 6, 12, (None, 1.5)))
    text = _card(_recipe(), calibration=wide, quality=quality)
    assert (
        "are to hold 90 % of true volumes, fitted on 6 subjects with 12 draws" in text
    )
    assert "--n-samples 12\n" in text and "intervals of volumes hold for" in text


STATEMENT = Statement(
    name="brain",
    licence="Apache-2.0",
    citation="A brain, 2026.",
    sources=(Source("maps", "https://example.org/maps", "CC-BY-4.0", "Doe 2025."),),
    training="In two stages.",
    held_out="Maps 2 and 3 were kept out.",
    limits=("It misses the amygdala.",),
)


def test_the_card_carries_what_is_stated_and_nothing_is_said_to_be_missing():
    recipe = _recipe()
    silent = _card(recipe)
    stated = replace(recipe.provenance, statement=STATEMENT)
    recipe = replace(recipe, provenance=stated)
    assert Recipe.from_json(recipe.to_json()) == recipe
    card = _card(recipe)
    assert card.startswith("# brain: brain MRI in 2 classes")
    told = ("Apache-2.0. Cite it as: A brain, 2026.", "In two stages.", "Doe 2025.")
    told += ("Maps 2 and 3 were kept out.", "- It misses the amygdala.")
    for text in told:
        assert text in card and text not in silent
    for text in (
        "not stated. Ask",
        "is not in here",
        "drew the labels is not on record",
    ):
        assert text in silent and text not in card


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (Source, {"url": "file:///maps"}, "source.url must begin with https://"),
        (Source, {"licence": " "}, "source.licence must not be empty"),
        (Statement, {"citation": ""}, "statement.citation must not be empty"),
    ],
)
def test_a_statement_says_something(kind, changes, message):
    good = STATEMENT if kind is Statement else STATEMENT.sources[0]
    with pytest.raises(InputError, match=message):
        replace(good, **changes)
