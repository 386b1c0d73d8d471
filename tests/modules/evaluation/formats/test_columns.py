"""Finding the columns of a table."""

from pathlib import Path

import pytest

from data.errors import UserError
from modules.evaluation.formats.columns import ROLES, find_columns, parse_columns

PATH = Path("table.csv")


def test_columns_are_named_by_role():
    chosen = parse_columns("id=uid, reference=ground truth,generated=a=b")
    assert chosen == {"id": "uid", "reference": "ground truth", "generated": "a=b"}
    assert find_columns(["uid", "ground truth", "a=b", "reference"], ROLES, chosen, PATH, {}) == chosen


def test_usual_names_are_found_and_a_role_by_its_own_name_first():
    assert find_columns(["study_id", "gt", "pred", "more"], ROLES, {}, PATH, {}) == {
        "id": "study_id", "reference": "gt", "generated": "pred"
    }
    assert find_columns(["id", "study_id"], ROLES, {}, PATH, {}) == {"id": "id"}
    assert find_columns(["study_id", "report"], ("id", "generated"), {}, PATH, {"generated": "report"}) == {
        "id": "study_id", "generated": "report"
    }


@pytest.mark.parametrize("text, message", [
    ("reference", "write id=COLUMN"), ("id=", "write id=COLUMN"), ("", "write id=COLUMN"),
    ("refrence=x", "did you mean 'reference'?"), ("id=a,id=b", "names id twice"),
    ("reference=a,reference_findings=b", "both as a whole and by section"),
])
def test_malformed_columns_are_one_line(text, message):
    with pytest.raises(UserError, match="--columns") as raised:
        parse_columns(text)
    assert message in str(raised.value)


def test_a_missing_and_an_ambiguous_column_are_named():
    with pytest.raises(UserError, match=r"table.csv: --columns id: unknown column 'uid'; choose one of name"):
        find_columns(["name"], ROLES, {"id": "uid"}, PATH, {})
    with pytest.raises(UserError, match=r"has gt and ref: say which one is the reference, with --columns reference="):
        find_columns(["id", "ref", "gt"], ROLES, {}, PATH, {})
