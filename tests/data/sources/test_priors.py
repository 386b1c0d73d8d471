"""Finding priors: the latest earlier study of the same patient in the same split that has a frontal image."""

import json
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.sources.priors import link_priors


def write(folder, rows):
    """Write records given as (split, patient, taken, view); their ids are their numbers."""
    records = [
        {"id": str(number), "split": split, "patient": patient, "taken": taken, "views": [view], "prior": None,
         "graph": None} for number, (split, patient, taken, view) in enumerate(rows)
    ]
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def read(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def slow_priors(rows):
    """The priors by definition, one study at a time; of an earlier study with several images any is right."""
    found = []
    for split, patient, taken, _ in rows:
        earlier = [
            (number, row) for number, row in enumerate(rows)
            if None not in (patient, taken, row[2]) and row[:2] == (split, patient) and row[2] < taken
            and row[3] in ("PA", "AP")
        ]
        latest = max((row[2] for _, row in earlier), default=None)
        found.append({str(number) for number, row in earlier if row[2] == latest} or {None})
    return found


@given(rows=st.lists(st.tuples(
    st.sampled_from(["train", "val"]), st.sampled_from(["A", "B", None]), st.sampled_from(["1", "2", "3", None]),
    st.sampled_from(["PA", "AP", "LATERAL"])), max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None)
def test_priors_are_the_latest_earlier_studies(tmp_path_factory, rows):
    folder = write(tmp_path_factory.mktemp("set"), rows)
    count = link_priors(folder, Counter())
    priors = [record["prior"] for record in read(folder)]
    assert all(prior in allowed for prior, allowed in zip(priors, slow_priors(rows), strict=True))
    assert count == sum(prior is not None for prior in priors)


def test_the_same_view_is_preferred(tmp_path):
    rows = [("train", "A", "1", "PA"), ("train", "A", "1", "AP"), ("train", "A", "2", "AP"), ("train", "A", "2", "PA"),
            ("train", "A", "2", "LATERAL")]
    link_priors(write(tmp_path, rows), Counter())
    assert [record["prior"] for record in read(tmp_path)] == [None, None, "1", "0", "0"]


def test_a_stated_prior_is_kept_and_images_outside_the_set_are_dropped(tmp_path):
    write(tmp_path, [("train", "A", "1", "PA"), ("train", "A", "2", "PA"), ("train", "A", "3", "PA")])
    records = read(tmp_path)
    records[2]["prior"] = "0"
    records[2]["graph"] = {"regions": {"left lung": {"compared_with": "1"}, "spine": {"compared_with": "elsewhere"}}}
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    warnings = Counter()
    assert link_priors(tmp_path, warnings) == 2 and not warnings
    found = read(tmp_path)
    assert [record["prior"] for record in found] == [None, "0", "0"]
    assert found[2]["graph"]["regions"] == {"left lung": {"compared_with": "1"}, "spine": {"compared_with": None}}


def test_records_without_patients_are_unchanged(tmp_path):
    before = (write(tmp_path, [("train", None, None, "PA")]) / "records.jsonl").read_bytes()
    assert link_priors(tmp_path, Counter()) == 0 and (tmp_path / "records.jsonl").read_bytes() == before


def test_a_stated_prior_outside_the_set_is_replaced(tmp_path):
    write(tmp_path, [("train", "A", "1", "PA"), ("train", "A", "2", "PA")])
    records = read(tmp_path)
    records[1]["prior"] = "dropped"
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    warnings = Counter()
    assert link_priors(tmp_path, warnings) == 1 and warnings == {"prior not in the data set": 1}
    assert [record["prior"] for record in read(tmp_path)] == [None, "0"]
