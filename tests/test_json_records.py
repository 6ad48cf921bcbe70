import pytest

from nobrainer.errors import InputError
from nobrainer.json_records import build_record, parse_json
from nobrainer.recipe import Cohort


def nested(n: int) -> str:
    """A list in a list, n of them."""
    return "[" * n + "]" * n


@pytest.mark.parametrize("n", [65, 990, 1_000_000])
def test_json_that_is_nested_too_deep_is_refused_in_one_line(n):
    for text in (nested(n), '{"a":' * (n - 1) + "[]" + "}" * (n - 1)):
        with pytest.raises(InputError, match=r"^it is not ours: .* too deep$"):
            parse_json(text, "it")


def test_json_of_reasonable_depth_and_size_is_read():
    deep = parse_json(nested(64), "it")
    for _ in range(63):
        (deep,) = deep
    assert deep == []
    assert parse_json(f"[{'9' * 300}]", "it") == [10**300 - 1]
    assert parse_json(b'{"a": [1.5, "\xc3\xa4"]}', "it") == {"a": [1.5, "ä"]}


@pytest.mark.parametrize("digits", [301, 5_000])
def test_a_number_without_end_is_refused_in_one_line(digits):
    with pytest.raises(InputError, match=rf"it is not JSON: a number of {digits} digi"):
        parse_json(f'{{"epochs": {"9" * digits}}}', "it")


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[1,]"])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(InputError, match=r"^it is not JSON: "):
        parse_json(text, "it")


def test_a_message_shows_the_beginning_of_a_long_value():
    with pytest.raises(InputError, match="must be a list") as caught:
        raw = {"n_subjects": 1, "log_mean": "x" * 10**6, "log_sd": []}
        build_record(Cohort, raw, "cohort")
    assert len(str(caught.value)) < 200
