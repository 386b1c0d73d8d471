"""Label tables in all formats, and errors in them. All ids, reports and labels are invented."""

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.ontology import observation_names
from data.text.label_tables import read_label_table

REAL_LABELS = Path(__file__).resolve().parents[4] / "shared" / "real" / "iu_xray" / "chexbert_labels_train.json"

ALPHABETICAL_ORDER = observation_names()
CHEXBERT_ORDER = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices", "No Finding",
)  # fmt: skip
CHEXPERT_ORDER = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Lesion", "Lung Opacity", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
LABELS = {"Edema": 1, "Pneumonia": -1, "Fracture": 0, "Lung Opacity": 1}
HEADER = ",".join(["id", *observation_names()]).encode()
REPORT = "Invented edema,\nperhaps pneumonia."


def write_csv(path, header, *rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def cells(labels=LABELS, order=ALPHABETICAL_ORDER):
    return [{1: "1.0", 0: "0.0", -1: "-1.0", None: ""}[labels.get(name)] for name in order]


def write_json(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def listed(*positive, order=ALPHABETICAL_ORDER):
    return [int(name in positive) for name in order]


# Formats


def test_mimic_cxr_jpg(tmp_path):
    path = write_csv(tmp_path / "mimic-cxr-2.0.0-chexpert.csv", ["subject_id", "study_id", *observation_names()],
                     ["99000001", "99100001", *cells()], ["99000001", "99100002", *cells({})])
    table = read_label_table(path)
    assert len(table) == 2
    assert table.find("99100001", "") == LABELS == table.find("s99100001", "")
    assert table.find("99100002", "") == {}
    assert table.find("99100003", REPORT) is None


def test_gzip_and_byte_order_mark_are_told_by_content(tmp_path):
    plain = write_csv(tmp_path / "plain.csv", ["study_id", *observation_names()], ["99100001", *cells()])
    packed = tmp_path / "labels.csv"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    assert read_label_table(packed).find("99100001", "") == LABELS


def test_the_test_set_of_mimic_cxr_jpg_2_1_0(tmp_path):
    other_names = {"Lung Opacity": "Airspace Opacity", "No Finding": "No Findings"}
    header = [other_names.get(name, name) for name in observation_names()]
    table = read_label_table(write_csv(tmp_path / "labels.csv", ["study_id", *header], ["99100001", *cells()]))
    assert table.find("99100001", "") == LABELS


@pytest.mark.parametrize(("column", "order"), [("Report Impression", CHEXBERT_ORDER), ("Reports", CHEXPERT_ORDER)])
def test_labelers_that_keep_no_ids_are_found_by_report(tmp_path, column, order):
    table = read_label_table(write_csv(tmp_path / "labels.csv", [column, *order], [REPORT, *cells(order=order)]))
    assert table.find("any", REPORT) == LABELS
    assert table.find("any", "  1. Invented  edema, 2. perhaps\tpneumonia. ") == LABELS
    assert table.find("any", "Invented edema.") is None


def test_reports_without_text_have_no_labels(tmp_path):
    path = write_csv(tmp_path / "labels.csv", ["Reports", *observation_names()], ["", *cells()], [REPORT, *cells()])
    table = read_label_table(path)
    assert len(table) == 1 and table.find("any", "") is None


def test_the_same_report_twice_is_one_entry(tmp_path):
    path = write_csv(tmp_path / "labels.csv", ["Reports", *observation_names()], [REPORT, *cells()], [REPORT, *cells()])
    assert len(read_label_table(path)) == 1


def test_our_own_tables(tmp_path):
    path = write_csv(tmp_path / "labels.csv", ["id", *observation_names()], ["CXR9901_IM-0001", *cells()],
                     ["CXR9902_1_IM-0002-3001", *cells({"No Finding": 1})])
    table = read_label_table(path)
    assert table.find("CXR9901_IM-0001-4001", "") == LABELS
    assert table.find("CXR9902_1_IM-0002", "") == {"No Finding": 1}


@pytest.mark.parametrize("cell", ["", " ", "nan", "NaN"])
def test_blank_cells_are_not_mentioned(tmp_path, cell):
    path = write_csv(tmp_path / "labels.csv", ["id", *observation_names()], ["9", *[cell] * 13, "1"])
    assert read_label_table(path).find("9", "") == {"Support Devices": 1}


@pytest.mark.parametrize(("written", "asked"), [
    ("s99100001", "99100001"), ("99100001.0", "s99100001"), ("aaaa-bbbb.dcm", "aaaa-bbbb"), ("s9.txt", "9"),
    ("aaaa-bbbb", "aaaa-bbbb.JPG"), (" 9 ", "9"),
])
def test_ids_are_the_same_however_written(tmp_path, written, asked):
    path = write_csv(tmp_path / "labels.csv", ["id", *observation_names()], [written, *cells()])
    assert read_label_table(path).find(asked, "") == LABELS


def test_json_lists_are_alphabetical(tmp_path):
    table = read_label_table(write_json(tmp_path / "labels.json", {"CXR9901_IM-0001": listed("Edema", "Fracture")}))
    labels = table.find("CXR9901_IM-0001-4001", "")
    assert list(labels) == list(observation_names())
    assert {name for name, value in labels.items() if value} == {"Edema", "Fracture"}


def test_json_by_split(tmp_path):
    content = {"train": {"aaaa-bbbb": listed("Edema")}, "val": {"cccc-dddd": listed("Pneumonia")}}
    table = read_label_table(write_json(tmp_path / "disease_labels.json", content))
    assert len(table) == 2 and table.find("cccc-dddd", "")["Pneumonia"] == 1


def test_json_states_another_order(tmp_path):
    content = {"observations": CHEXBERT_ORDER, "train": {"9": listed("Edema", order=CHEXBERT_ORDER)}}
    labels = read_label_table(write_json(tmp_path / "labels.json", content)).find("9", "")
    assert [name for name, value in labels.items() if value] == ["Edema"]


def test_json_by_name(tmp_path):
    content = {"9": LABELS | {"Edema": 1.0, "atelectasis": None}, "10": {"Airspace Opacity": -1}}
    table = read_label_table(write_json(tmp_path / "labels.json", content))
    assert table.find("9", "") == LABELS and table.find("10", "") == {"Lung Opacity": -1}


def test_lists_in_another_order_give_themselves_away(tmp_path):
    draw = random.Random(0)
    studies = [["No Finding"]] * 60 + [draw.sample(observation_names()[:8], k=3) + ["Pneumothorax"] for _ in range(40)]
    content = {str(number): listed(*study, order=CHEXBERT_ORDER) for number, study in enumerate(studies)}
    with pytest.raises(UserError, match=r"lists are in another order .* 'observations'"):
        read_label_table(write_json(tmp_path / "labels.json", content))
    stated = {"observations": CHEXBERT_ORDER} | content
    assert read_label_table(write_json(tmp_path / "labels.json", stated)).find("0", "")["No Finding"] == 1
    alphabetical = {str(number): listed(*study) for number, study in enumerate(studies)}
    assert len(read_label_table(write_json(tmp_path / "labels.json", alphabetical))) == 100


def test_real_labels_are_read_in_their_order():
    if not REAL_LABELS.exists():
        pytest.skip(f"needs the labels of the public studies beside the checkout: {REAL_LABELS.name}")
    content = json.loads(REAL_LABELS.read_text(encoding="utf-8"))
    table = read_label_table(REAL_LABELS)
    assert len(table) == len(content) == 2069
    for study_id, values in content.items():
        assert list(table.find(study_id, "").values()) == values


# Errors


@pytest.mark.parametrize(("header", "row", "message"), [
    (["id", *observation_names()[:-1]], ["9", *cells()[:-1]], "line 1 lacks the column 'Support Devices'"),
    (["id", *observation_names(), "edema"], ["9", *cells(), "1"], "line 1 has two columns for 'Edema'"),
    (["subject_id", *observation_names()], ["9", *cells()], "line 1 has none of the columns 'study_id', 'id'"),
    (["id", *observation_names()], ["9", *cells()[:-1]], "line 2 has 14 fields instead of the 15"),
    (["id", *observation_names()], ["9", *cells()[:-1], "2"], "line 2, column 'Support Devices' has an invalid label"),
    (["id", *observation_names()], ["9", "inf", *cells()[1:]], "line 2, column 'Atelectasis' has an invalid label"),
    (["id", *observation_names()], ["", *cells()], "line 2, column 'id' is empty"),
])
def test_a_csv_names_line_and_column(tmp_path, header, row, message):
    path = write_csv(tmp_path / "labels.csv", header, row)
    with pytest.raises(UserError, match=rf"^.*labels\.csv {message}") as caught:
        read_label_table(path)
    assert "\n" not in str(caught.value)


def test_lines_are_counted_through_reports_of_several_lines(tmp_path):
    path = write_csv(tmp_path / "labels.csv", ["Reports", *observation_names()], [REPORT, *cells()],
                     ["Invented.", *cells()[:-1], "SECRET"])
    with pytest.raises(UserError, match="line 4, column 'Support Devices' has an invalid label") as caught:
        read_label_table(path)
    assert "SECRET" not in str(caught.value)


def test_labels_that_contradict_each_other(tmp_path):
    path = write_csv(tmp_path / "labels.csv", ["study_id", *observation_names()], ["99100001", *cells()],
                     ["s99100001", *cells({})])
    with pytest.raises(UserError, match="line 3: this study has other labels than before"):
        read_label_table(path)


@pytest.mark.parametrize(("content", "message"), [
    ([1, 2], "is not a JSON object"), ({}, "has no labels"), ({"train": {}}, "has no labels"),
    ({"9": [1, 0]}, "study 9 has no list of 14 labels"), ({"9": None}, "study 9 has no list of 14 labels"),
    ({"9": [2] * 14}, "study 9, 'Atelectasis' has an invalid label"),
    ({"9": ["1"] * 14}, "'Atelectasis' has an invalid label"),
    ({"9": {"Oedema": 1}}, "study 9: 'Oedema' is not an observation"),
    ({"9": {"Edema": 1, "edema": 1}}, "study 9: 'edema' occurs twice"),
    ({"9": {"Edema": [1]}}, "study 9, 'Edema' has an invalid label"),
    ({"observations": ["Edema"], "9": [0] * 14}, "key 'observations' must list the 14"),
    ({"observations": 14, "9": [0] * 14}, "key 'observations' must list the 14"),
    ({"train": {"9": [0] * 14}, "val": {"9": [1] * 14}}, "study 9 has other labels than before"),
])
def test_json_names_study_and_observation(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read_label_table(write_json(tmp_path / "labels.json", content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "line 1 has none of the columns"), (b"{", "is not JSON"), (b"[" * 100_000, "is not JSON"),
    (b"\x1f\x8b\x08", "is damaged"), (gzip.compress(HEADER, mtime=0)[:-9], "is damaged"),
    (b"id,\xff\xfe", "is not a text file in UTF-8"), (b'id,"Ede', "is not CSV"),
    (b'{"9": "\xff"}', "is not a text file in UTF-8"),
    (HEADER, "has no labels"),
])
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_label_table(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read the labels .*none\.csv \(No such file"):
        read_label_table(tmp_path / "none.csv")
    with pytest.raises(UserError, match="Cannot read the labels"):
        read_label_table(tmp_path)


# Arbitrary content


@pytest.fixture(scope="module")
def changing_file(tmp_path_factory):
    """One path for the files of all examples: creating a folder for each takes far longer than reading."""
    return tmp_path_factory.mktemp("changing") / "labels"


values = st.sampled_from([1, 0, -1, None])
labelled = st.fixed_dictionaries({name: values for name in observation_names()})
ids = st.integers(1, 10**8).map(str)


@settings(max_examples=60, deadline=None)
@given(st.permutations(observation_names()), st.dictionaries(ids, labelled, min_size=1, max_size=4))
def test_any_order_of_columns_reads_the_same(changing_file, order, studies):
    rows = [[study_id, *cells(labels, order)] for study_id, labels in studies.items()]
    table = read_label_table(write_csv(changing_file, ["id", *order], *rows))
    for study_id, labels in studies.items():
        assert table.find(study_id, "") == {name: value for name, value in labels.items() if value is not None}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=3)
    | st.sampled_from(observation_names()),
    lambda inner: st.lists(inner, max_size=14) | st.dictionaries(
        st.sampled_from(["train", "9", "observations", *observation_names()]) | st.text(max_size=3), inner, max_size=4),
)


@settings(max_examples=60, deadline=None)
@given(json_values.map(json.dumps).map(str.encode) | st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_content_gives_a_table_or_an_error_of_one_line(changing_file, content):
    changing_file.write_bytes(content)
    try:
        assert len(read_label_table(changing_file)) > 0
    except UserError as error:
        assert str(changing_file) in str(error) and "\n" not in str(error)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.characters())
def test_a_changed_character_never_breaks_the_reader(changing_file, place, character):
    text = io.StringIO(newline="")
    header = ["Report Impression", *observation_names()]
    csv.writer(text).writerows([header, [REPORT, *cells()], ["Invented.", *cells({})]])
    content = text.getvalue()
    place %= len(content)
    changed = content[:place] + character + content[place + 1 :]
    changing_file.write_bytes(changed.encode("utf-8", "surrogatepass"))
    try:
        assert len(read_label_table(changing_file)) > 0
    except UserError as error:
        assert "\n" not in str(error)
