"""The command that searches for the attribute rule of the release."""

from collections import Counter

import pytest
import yaml

from data.ontology import FILES, Anatomy
from data.sources.chest_imagenome.attribute_calibration import (
    DEFAULT_RULE,
    RELEASE_SIZES,
    count_attributes,
    main,
    rank_hypotheses,
)
from data.vocabulary_builder import build_vocabularies
from tests.support.graph_records import region, write_records


def sizes(found, rule: str) -> tuple[int, ...]:
    return next(hypothesis.sizes for hypothesis in found if hypothesis.rule == rule)


def test_release_has_849_attributes():
    assert len(RELEASE_SIZES) == len(Anatomy.load().regions) and sum(RELEASE_SIZES) == 849


def test_sizes_under_each_rule(tmp_path):
    ten = ["disease|yes|goiter", "nlp|yes|normal"]
    eleven = ["disease|no|goiter", "severity|yes|mild", "texture|yes|opacity"]
    entries = [region(attributes=ten)] * 10 + [region(attributes=eleven)] + [region(attributes=["nlp|no|normal"])] * 100
    root = write_records(tmp_path / "set", [{"left lung": entry} for entry in entries] + [None])
    write_records(root, [{"spine": region(attributes=ten)}], split="val")
    found = rank_hypotheses(count_attributes(root))
    left_lung = {
        "all categories, yes and no separate, at least 1": 6, "no modifiers, yes and no separate, at least 1": 5,
        "no modifiers or texture, yes and no separate, at least 1": 4, DEFAULT_RULE: 3,
        "no modifiers or nlp, yes and no separate, at least 1": 3, "clinical only, yes and no separate, at least 1": 2,
        "no modifiers, yes only, at least 1": 3, "all categories, yes and no merged, at least 1": 4,
        "clinical only, yes and no merged, at least 10": 1, "all categories, yes and no separate, at least 100": 1,
    }  # fmt: skip
    assert {rule: sizes(found, rule)[0] for rule in left_lung} == left_lung
    assert all(sum(hypothesis.sizes[1:]) == 0 for hypothesis in found)
    assert sizes(found, DEFAULT_RULE) == build_vocabularies(root, "corrected", 1, 10, True).attributes.sizes


def test_default_rule_is_that_of_the_vocabulary():
    content = yaml.safe_load((FILES / "attributes.yaml").read_text(encoding="utf-8"))
    counts = Counter({f"{category}|yes|{label}": 10 for category, labels in content["categories"].items()
                      for label in labels})  # fmt: skip
    kept = sum(len(content["categories"][category]) for category in content["rules"]["default"])
    assert sizes(rank_hypotheses([counts] * 29), DEFAULT_RULE) == (kept,) * 29


def test_nearest_rule_comes_first():
    counts = [Counter({f"disease|yes|{number}": 10 for number in range(size)} | {f"disease|no|{number}": 2
                       for number in range(9)}) for size in RELEASE_SIZES]  # fmt: skip
    found = rank_hypotheses(counts)
    assert found[0].difference == 0 and found[0].sizes == RELEASE_SIZES
    assert [hypothesis.difference for hypothesis in found] == sorted(hypothesis.difference for hypothesis in found)


def test_command(tmp_path, capsys):
    root = write_records(tmp_path / "set", [{"left lung": region(attributes=["disease|yes|goiter"])}] * 10)
    assert main([str(root)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["difference", "attributes", "rule"]
    assert next(line for line in printed if line.startswith("left lung ")).split()[2:4] == ["67", "1"]
    assert printed[-1].split()[:3] == ["sum", "849", "1"]
    assert main([str(tmp_path / "absent")]) == 1
    assert capsys.readouterr().err.startswith("No data set at ")


@pytest.mark.parametrize(
    ("graph", "message"),
    [({"spine": region(attributes=["spine/3"])}, "have no names"), ({"neck": region()}, "Unknown region 'neck'")],
)  # fmt: skip
def test_unusable_graphs_are_refused(tmp_path, capsys, graph, message):
    root = write_records(tmp_path / "set", [graph])
    assert main([str(root)]) == 1
    assert message in capsys.readouterr().err
