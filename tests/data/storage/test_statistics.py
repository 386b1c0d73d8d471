"""The numbers of a training split: equal to a straightforward count, and stored."""

import json
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.images.atlas import MeanBox
from data.ontology import FILES, Anatomy, read_yaml
from data.records import is_frontal, read_records
from data.sources.phantom.dataset import PhantomSettings, prepare_phantom
from data.storage import statistics as statistics_module
from data.storage.statistics import VERSION, training_statistics, write_derived_files
from data.text.cleaning import CLEANING_RULES, clean
from data.text.tokenizer import Tokenizer, fingerprint
from data.vocabulary_builder import build_vocabularies
from tests.support.graph_records import region, write_records

NAMES = Anatomy.load().names
ATTRIBUTES = ("anatomicalfinding|yes|lung opacity", "nlp|yes|abnormal", "severity|yes|mild", "spine/3", "spine/11")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "phantom"
    prepare_phantom(out, PhantomSettings(studies=40, image_size=32), workers=1)
    return out


def fail(*_):
    raise AssertionError("counted again")


def reference_vocabularies(root, cleaning, min_word_count, min_attribute_count):
    """Words, attributes by region and mean boxes, counted from all records at once."""
    categories = set(read_yaml(FILES / "attributes.yaml")["rules"]["default"])
    reports, counts, boxes = [], [Counter() for _ in NAMES], [MeanBox() for _ in NAMES]
    for record in read_records(root, "train"):
        reports.append(clean(record["report"], cleaning))
        if record["graph"] is not None and is_frontal(record):
            for name, entry in record["graph"]["regions"].items():
                counts[NAMES.index(name)].update(entry["attributes"])
                if entry["box"] is not None:
                    boxes[NAMES.index(name)].add(entry["box"])
    frequent = [
        {name for name, number in count.items()
         if number >= min_attribute_count and ("|" not in name or name.split("|")[0] in categories)}
        for count in counts
    ]
    anatomy = Anatomy.load().with_boxes(
        {name: box.mean for name, box in zip(NAMES, boxes, strict=True) if box.count > 0}
    )
    return Tokenizer.from_reports(reports, min_word_count, True).words, frequent, anatomy


def assert_equal_to_reference(root, cleaning, min_word_count, min_attribute_count):
    found = build_vocabularies(root, cleaning, min_word_count, min_attribute_count, True)
    words, attributes, anatomy = reference_vocabularies(root, cleaning, min_word_count, min_attribute_count)
    assert found.tokenizer.words == words and found.anatomy == anatomy
    assert [set(names) for names in found.attributes.by_region] == attributes


@pytest.mark.parametrize("cleaning", CLEANING_RULES)
@pytest.mark.parametrize("least", [1, 2, 5])
def test_vocabularies_of_a_prepared_data_set_equal_a_plain_count(phantom, monkeypatch, cleaning, least):
    monkeypatch.setattr(statistics_module, "_count", fail)  # preparation has counted
    assert_equal_to_reference(phantom, cleaning, least, least)


corner = st.floats(-0.2, 1.2, allow_nan=False).map(lambda value: round(value, 3))
a_region = st.builds(
    region, st.none() | st.lists(corner, min_size=4, max_size=4), st.lists(st.sampled_from(ATTRIBUTES), max_size=4),
    st.booleans(),
)
graphs = st.none() | st.dictionaries(st.sampled_from(NAMES[:3] + NAMES[-1:]), a_region)


@given(studies=st.lists(st.tuples(graphs, st.text("ab. 1/x\n", max_size=12)), min_size=1, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_vocabularies_of_any_data_set_equal_a_plain_count(tmp_path_factory, studies):
    root = write_records(tmp_path_factory.mktemp("any"), [graph for graph, _ in studies], [text for _, text in studies])
    for least in (1, 2):  # counted, then read
        assert_equal_to_reference(root, "corrected", least, least)
    statistics = training_statistics(root, "mimic_cxr")
    for name in NAMES:
        annotated = [
            graph[name]["attributes"] for graph, _ in studies
            if graph and graph.get(name, {}).get("mentioned")
            and (graph[name]["box"] is not None or all(entry["box"] is None for entry in graph.values()))
        ]
        assert statistics.annotated.get(name, 0) == len(annotated)
        assert statistics.positives.get(name, {}) == Counter(label for labels in annotated for label in set(labels))


def test_they_are_counted_once_for_all_minimum_counts(tmp_path, monkeypatch):
    root = write_records(tmp_path / "set", [{"spine": region(attributes=["spine/3"])}, None])
    build_vocabularies(root, "corrected", 1, 1, True)
    monkeypatch.setattr(statistics_module, "_count", fail)
    assert build_vocabularies(root, "corrected", 2, 2, False).tokenizer.words == (".", "<unk>", "clear")
    with pytest.raises(AssertionError, match="counted again"):
        build_vocabularies(root, "mimic_cxr", 1, 1, True)


def test_they_are_counted_again_for_other_records(tmp_path):
    root = write_records(tmp_path / "set", [None])
    assert training_statistics(root, "corrected").words == {"clear": 1, ".": 1}
    path = root / "records.jsonl"
    path.write_text(path.read_text().replace("Clear", "Dense"))
    assert training_statistics(root, "corrected").words == {"dense": 1, ".": 1}


def test_changed_numbers_are_counted_again_and_those_of_earlier_versions_used(tmp_path, monkeypatch):
    root = write_records(tmp_path / "set", [None])
    expected = training_statistics(root, "corrected")
    (file,) = (root / "index").glob("*/training-corrected*.json")
    content = file.read_text()
    file.write_text(content.replace('"clear": 1', '"clear": 3'))
    assert training_statistics(root, "corrected") == expected
    numbers = json.loads(content)
    del numbers["sha256"]
    file.write_text(json.dumps(numbers))
    monkeypatch.setattr(statistics_module, "_count", fail)
    assert training_statistics(root, "corrected") == expected


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"words": {}, "mean_boxes": []}'])
def test_a_damaged_file_is_counted_again(tmp_path, content):
    root = write_records(tmp_path / "set", [None])
    training_statistics(root, "corrected")
    (file,) = (root / "index").glob("*/training-corrected*.json")
    file.write_text(content)
    assert training_statistics(root, "corrected").words == {"clear": 1, ".": 1}
    assert json.loads(file.read_text())["words"] == {"clear": 1, ".": 1}


def test_without_a_writable_folder_they_are_counted_at_every_start(tmp_path, monkeypatch, capsys):
    root = write_records(tmp_path / "set", [None])
    read_records(root, "train")

    def read_only(path):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(statistics_module, "atomic_file", read_only)
    for _ in range(2):
        assert training_statistics(root, "corrected").words == {"clear": 1, ".": 1}
        assert "(Read-only file system): words and attributes are counted again" in capsys.readouterr().err


def test_in_memory_without_any_index(tmp_path):
    root = write_records(tmp_path / "set", [None])
    (root / "index").write_text("in the way")
    assert training_statistics(root, "corrected").words == {"clear": 1, ".": 1}


def test_a_data_set_without_training_studies_is_only_indexed(tmp_path):
    root = write_records(tmp_path / "set", [None], split="test")
    write_derived_files(root)
    assert len(read_records(root, "test")) == 1 and list((root / "index").glob("*/training*")) == []


def test_unknown_rules_are_an_error_before_counting(tmp_path):
    with pytest.raises(UserError, match="data.cleaning=french: choose one of"):
        training_statistics(tmp_path, "french")


def test_an_attribute_that_is_not_a_string_is_named(tmp_path):
    root = write_records(tmp_path / "set", [{"spine": region(attributes=["spine/3", 4])}])
    with pytest.raises(UserError, match="an attribute of the region 'spine' is not a string: 4"):
        training_statistics(root, "corrected")


def test_a_change_of_the_numbers_needs_a_new_version(tmp_path):
    """If this fails, increase VERSION: stored numbers would otherwise outlive a change of cleaning or counting."""
    reports = ["1. Clear lungs. 2. No effusion/edema, heart___normal.", "XXXX 1.5 cm nodule..  It's vs. \"stable\"?"]
    graph = {"spine": region([0.1, -1, 0.2, 0.9], ATTRIBUTES), "left lung": region(None, ATTRIBUTES[:1] * 2, False)}
    root = write_records(tmp_path / "set", [graph, {"spine": region(None, ATTRIBUTES[:2])}], reports)
    numbers = [vars(training_statistics(root, rule)) for rule in CLEANING_RULES]
    assert (VERSION, fingerprint(numbers)) == (1, "fbd5c6c98438ca5b")
