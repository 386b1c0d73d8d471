"""Reading generated reports from tables and from predictions.jsonl."""

import json

import numpy as np
import pytest

from data.errors import UserError
from data.ontology import observation_names
from modules.evaluation.formats.reading import FormatOptions
from modules.evaluation.predictions import predictions_path, read_predictions

TABLE = 'id,reference,generated,study\na,"One, two.",one two,s2\nb,"x\ny",,s1\nc,z,z,s2\n'

LABELS = {"Edema": 1, "Fracture": 0}


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_table_is_read_with_its_studies(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(TABLE, encoding="utf-8-sig")
    read = read_predictions(path, "study")
    assert read.ids == ["a", "b", "c"] and read.references == ["One, two.", "x\ny", "z"]
    assert read.generated == ["one two", "", "z"] and len(read) == 3
    assert read.section == "report"
    assert read_predictions(path, "study", FormatOptions(section="findings")).section == "findings"
    assert read.studies.tolist() == [1, 0, 1] and read.scored_references is None and read.truth() == (None, None)


def test_our_own_files_come_with_what_the_evaluation_says(tmp_path):
    rows = [
        {"id": "a", "reference": "r s", "generated": "g", "scored_reference": "r", "labels": LABELS},
        {"id": "b", "reference": "t", "generated": "g", "scored_reference": "t", "labels": {"Edema": -1}},
    ]
    write_lines(tmp_path / "predictions_oracle.jsonl", rows)
    (tmp_path / "metrics_oracle.json").write_text('{"protocol": "r2gen", "split": "test"}')
    read = read_predictions(tmp_path / "metrics_oracle.json")
    assert read.scored_references == ["r", "t"] and read.evaluation["protocol"] == "r2gen"
    truth, known = read.truth()
    edema, fracture = observation_names().index("Edema"), observation_names().index("Fracture")
    assert truth[:, edema].all() and known[:, edema].all()
    assert known[:, fracture].tolist() == [True, False] and truth.sum() == 2 and known.sum() == 3
    assert predictions_path(tmp_path) == tmp_path / "predictions.jsonl"
    (tmp_path / "metrics_oracle.json").unlink()
    assert read_predictions(tmp_path / "predictions_oracle.jsonl").evaluation == {}
    bare = {key: rows[1][key] for key in ("id", "reference", "generated")}
    write_lines(tmp_path / "predictions.jsonl", [rows[0], bare])
    assert read_predictions(tmp_path).labels is None and read_predictions(tmp_path).scored_references is None


@pytest.mark.parametrize("name, content, message", [
    ("missing.csv", None, "Cannot read"),
    ("empty.csv", "id,reference,generated\n", "has no generated reports"),
    ("column.csv", "id,reference\na,b\n", "no column 'generated'"),
    ("twice.csv", "id,reference,generated\na,b,c\na,b,c\n", "two reports have the id a"),
    ("study.csv", "id,reference,generated\na,b,c\n", "no 'study'"),
    ("short.csv", "id,reference,generated,study\na,b\n", "line 2 has too few cells"),
    ("comma.csv", "id,reference,generated\na,b,c\n1,a b c,d,extra\n", "line 3 has too many cells"),
    ("quote.csv", 'id,reference,generated\n1,a,"unclosed\n2,b,c\n', "line 3 is not CSV"),
    ("blank.csv", "id,reference,generated\n ,b,c\n", "report 1: 'id' is not a name"),
    ("blank study.csv", "id,reference,generated,study\na,b,c,x\nb,b,c,\n", "report 2: 'study' is not a name"),
    ("bytes.csv", b"id,reference,generated\n\xff\xfe,b,c\n", "is not a CSV file in UTF-8"),
    ("lines.jsonl", '{"id": "a", "reference": "b", "generated": "c"}\n{', "line 2 is not JSON"),
    ("list.jsonl", "[]\n", "line 1 is not a JSON object"),
    ("text.jsonl", '{"id": "a", "reference": {"a": 1}, "generated": "c"}\n', "'reference' is not text"),
    ("words.jsonl", '{"id": "a", "reference": "b", "generated": ["c"]}\n', "'generated' is not text"),
    ("name.jsonl", '{"id": ["a"], "reference": "b", "generated": "c"}\n', "'id' is not a name"),
    ("scored.jsonl", '{"id": 1, "reference": "b", "generated": "c", "scored_reference": 3}\n', "'scored_reference'"),
    ("labels.jsonl", '{"id": 1, "reference": "b", "generated": "c", "labels": [1]}\n', "'labels' is not an object {"),
    ("label.jsonl", '{"id": 1, "reference": "b", "generated": "c", "labels": {"Edema": "yes"}}\n', "'Edema' has an"),
    ("other.jsonl", '{"id": 1, "reference": "b", "generated": "c", "labels": {"Oedema": 1}}\n', "is not an obs"),
    ("key.jsonl", '{"id": "a", "reference": "b"}\n', "report 1 has no 'generated'"),
])
def test_what_a_user_can_mend_is_said_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as raised:
        read_predictions(path, "study" if "study" in name else None)
    assert message in str(raised.value) and "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_a_broken_metrics_file_is_named(tmp_path):
    write_lines(tmp_path / "predictions.jsonl", [{"id": 1, "reference": "b", "generated": "c"}])
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json"):
        read_predictions(tmp_path)


def test_studies_are_numbered_from_zero(tmp_path):
    path = write_lines(tmp_path / "some.jsonl", [
        {"id": number, "reference": "", "generated": "", "patient": number % 3} for number in range(7)
    ])
    assert np.unique(read_predictions(path, "patient").studies).tolist() == [0, 1, 2]


def test_studies_without_a_report_are_left_out(tmp_path):
    nothing = {"reference": None, "scored_reference": None, "generated": None, "labels": {}}
    rows = [{"id": "a", "reference": "b", "scored_reference": "b", "generated": "c", "labels": {"Edema": 1}}]
    path = write_lines(tmp_path / "predictions.jsonl", [{"id": "film"} | nothing, *rows])
    predictions = read_predictions(path)
    assert (predictions.ids, predictions.labels) == (["a"], [{"Edema": 1}])
    write_lines(path, [{"id": "film"} | nothing])
    with pytest.raises(UserError, match="has no generated reports"):
        read_predictions(path)
