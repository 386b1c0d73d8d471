"""The shared wording of messages to the user."""

import pytest

from data.errors import (
    UserError,
    cannot_read,
    cannot_write,
    damaged,
    missing,
    readable,
    reason,
    unknown_name,
    wrong_format,
    wrong_value,
)

NO_SPACE = OSError(28, "No space left on device", "/somewhere/file")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (missing("data set", "data/x", "prepare one"), "No data set at data/x: prepare one"),
        (cannot_read("a.csv", NO_SPACE), "Cannot read a.csv (No space left on device)"),
        (cannot_read("a.csv", ValueError("bad\nrow"), "fix it"), "Cannot read a.csv (bad row): fix it"),
        (cannot_read("a.csv", EOFError()), "Cannot read a.csv (EOFError)"),
        (cannot_write("a", NO_SPACE), "Cannot write a (No space left on device): free space, or choose another folder"),
        (damaged("a.png", "cut short", "replace it"), "a.png is damaged (cut short): replace it"),
        (wrong_format("a", "YAML", "fix it"), "a is not YAML: fix it"),
        (wrong_value("data.views", 3, "must be 1 or 2"), "data.views=3: must be 1 or 2"),
    ],
)
def test_messages_say_what_where_and_how_to_fix_it(error, message):
    assert isinstance(error, UserError)
    assert str(error) == message


def test_an_unknown_name_gets_the_closest_known_one_or_the_choices():
    assert str(unknown_name("split", "tset", ("train", "val", "test"))) == "Unknown split 'tset'; did you mean 'test'?"
    assert str(unknown_name("split", "x", ("train", "val"))) == "Unknown split 'x'; choose one of train, val"
    many = [f"name {number}" for number in range(30)]
    assert str(unknown_name("region", "x", many, "boxes.jsonl line 2")) == (
        "boxes.jsonl line 2: unknown region 'x'; it is not one of the 30 known names"
    )


def test_unprintable_characters_of_a_name_are_replaced():
    assert readable("a\nb\x1b[0m") == "a\ufffdb\ufffd[0m"
    assert "\n" not in str(unknown_name("split", "a\nb", ("train",)))


def test_a_reason_is_one_printable_line_of_limited_length():
    assert reason(ValueError("bad\n\n row\x1b")) == "bad row\ufffd"
    assert reason(NO_SPACE) == "No space left on device"
    assert reason(ValueError("\n")) == reason(ValueError()) == "ValueError"
    assert len(reason(ValueError("x" * 1000))) == 160
