"""Reading reports: labels do not depend on typography."""

import re
import textwrap

from hypothesis import given, settings
from hypothesis import strategies as st

from data.text.report_labels import label_report

_STATEMENTS = st.sampled_from(
    [
        "No pneumothorax", "Small left effusion", "Heart is enlarged", "Right basilar atelectasis", "Lungs are clear",
        "No focal consolidation or edema", "PICC tip in the SVC", "Stable left upper lobe nodule",
        "Pneumonia cannot be excluded", "Heart size is normal", "Possible right rib fracture", "Mild pulmonary edema",
    ]
)  # fmt: skip
_REPORTS = st.lists(_STATEMENTS, min_size=1, max_size=6, unique=True)
_PLAIN = settings(max_examples=60, deadline=None)


def _labels(statements):
    return label_report(". ".join(statements) + ".")


@_PLAIN
@given(_REPORTS, st.sampled_from(["- ", "• ", "* ", "– ", "+ ", "> ", "{}. ", "{}) ", "({}) ", "", "  "]))
def test_list_marks(statements, mark):
    lines = [mark.format(number) + statement for number, statement in enumerate(statements, 1)]
    assert label_report("\n".join(lines)) == _labels(statements)
    assert label_report("FINDINGS:\n" + "\r\n".join(lines)) == _labels(statements)


@_PLAIN
@given(_REPORTS, st.sampled_from(["; ", "\n", "\n\n", " - ", " – ", " — ", " -- ", ".  ", ".", " • ", "! "]))
def test_separators(statements, separator):
    assert label_report(separator.join(statements)) == _labels(statements)


@_PLAIN
@given(_REPORTS, st.integers(12, 60))
def test_wrapped_lines(statements, width):
    text = ". ".join(statements) + "."
    assert label_report("\n".join(textwrap.wrap(text, width, break_long_words=False))) == label_report(text)


@_PLAIN
@given(_REPORTS)
def test_missing_full_stops_and_case(statements):
    expected = _labels(statements)
    assert label_report(" ".join(statements)) == expected
    assert label_report("\n".join(statements).lower()) == expected
    assert label_report("\n".join(statements).upper()) == expected
    assert label_report(" . ".join(statements).lower() + " .") == expected


@_PLAIN
@given(_REPORTS, st.sampled_from(["___", "XXXX", "[**Name 12**]", "____ ___"]))
def test_removed_names(statements, placeholder):
    text = ". ".join(statements) + "."
    for before in ("No ", "Stable ", "Small "):
        text = text.replace(before, f"{before}{placeholder} ")
    assert label_report(text) == label_report(re.sub(re.escape(placeholder), "XXXX", text))
    assert label_report(f"Dr. {placeholder} was told. {text}") == label_report(text)


_DENIALS = ["no effusion", "no edema or nodule", "heart is normal", "lungs are clear"]


@_PLAIN
@given(st.lists(st.sampled_from(_DENIALS), min_size=40, max_size=80))
def test_long_texts_without_full_stops_are_not_cut_behind_a_negation(statements):
    labels = label_report(" ".join(statements))
    assert labels.pop("No Finding") == 1 and set(labels.values()) <= {0}
