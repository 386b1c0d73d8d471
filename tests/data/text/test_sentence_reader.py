"""Reading sentences: findings with their places, sides and cues."""

import pytest

from data.text.report_graph import read_report, scene_graph


def only_finding(text, name):
    """The only finding of this name in a text."""
    (finding,) = [each for sentence in read_report(text) for each in sentence.findings if each.name == name]
    return finding


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Left effusion.", {"left lung", "left costophrenic angle"}),
        ("Right lower lobe opacity.", {"right lung", "right lower lung zone"}),
        ("An opacity in the lingula.", {"left lung", "left mid lung zone"}),
        ("Retrocardiac consolidation.", {"left lung", "left lower lung zone"}),
        ("Bibasilar opacities.", {"left lung", "right lung", "left lower lung zone", "right lower lung zone"}),
        (
            "Opacity in the right apex, left base.",
            {"left lung", "right lung", "right apical zone", "left lower lung zone"},
        ),
        (
            "Consolidation in the left upper and lower lobes.",
            {"left lung", "left upper lung zone", "left lower lung zone"},
        ),
        (
            "The right upper, mid, and lower lung zones are clear.",
            {"right lung", "right upper lung zone", "right mid lung zone", "right lower lung zone"},
        ),
        (
            "Opacities in the left upper and right lower lobe.",
            {"left lung", "right lung", "left upper lung zone", "right lower lung zone"},
        ),
        ("No pneumothorax.", {"left lung", "right lung", "left apical zone", "right apical zone"}),
        ("Cardiomegaly.", {"cardiac silhouette"}),
        ("Nodular opacity overlying the heart.", {"left lung", "right lung"}),
        ("Elevated right hemidiaphragm.", {"right hemidiaphragm"}),
        ("The trachea is midline.", {"trachea"}),
        ("Tortuous aorta.", {"mediastinum"}),
        ("Calcified aortic knob.", {"aortic arch", "mediastinum"}),
        ("Prominent left hilum.", {"left hilar structures"}),
        ("Old left rib fracture.", {"ribs"}),
        ("Fracture of the right clavicle.", {"right clavicle"}),
        ("Degenerative changes of the thoracic spine.", {"spine"}),
        ("Degenerative changes of the shoulders.", {"shoulders"}),
        ("Stable mediastinal contours.", {"mediastinum"}),
        ("Soft tissues are unremarkable.", {"chest wall"}),
        ("PA and lateral views were obtained.", set()),
    ],
)
def test_regions(text, expected):
    assert {region for sentence in read_report(text) for region in sentence.regions} == expected


def test_places_go_to_the_finding_next_to_them():
    text = "Left basilar atelectasis and a right apical nodule."
    assert only_finding(text, "atelectasis").regions == ("left lower lung zone", "left lung")
    assert only_finding(text, "nodule").regions == ("right apical zone", "right lung")


def test_what_is_explained_lies_where_the_explanation_does():
    affirmed = only_finding("Left basilar opacity, pneumonia.", "pneumonia")
    negated = only_finding("Left basilar opacity, no pneumonia.", "pneumonia")
    assert affirmed.regions == ("left lower lung zone", "left lung")
    assert "left lower lung zone" not in negated.regions


def test_cues():
    finding = only_finding("Moderate chronic left effusion, unchanged.", "pleural effusion")
    assert (finding.severity, finding.temporal, finding.change) == ("moderate", "chronic", "no change")
    assert only_finding("Worsening edema.", "edema").change == "worsened"
    assert only_finding("Improved edema.", "edema").change == "improved"


@pytest.mark.parametrize(("text", "region", "changes"), [
    ("New left pleural effusion.", "left costophrenic angle", ["new"]),
    ("Interval development of edema.", "left lung", ["new"]),
    ("The left effusion has increased.", "left costophrenic angle", ["worsened"]),
    ("Decreased left effusion.", "left costophrenic angle", ["improved"]),
    ("Possible new left effusion.", "left costophrenic angle", ["new"]),
    ("The left effusion has nearly resolved.", "left costophrenic angle", ["improved"]),
    ("The left effusion has resolved.", "left costophrenic angle", ["resolved"]),
    ("Resolution of the left effusion.", "left costophrenic angle", ["resolved"]),
    ("The left effusion is no longer seen.", "left costophrenic angle", ["resolved"]),
    ("No residual left pneumothorax.", "left lung", ["resolved"]),
    ("The endotracheal tube has been removed.", "trachea", ["resolved"]),
    ("No new left effusion.", "left costophrenic angle", []),
    ("No left effusion.", "left costophrenic angle", []),
    ("The heart is stable.", "cardiac silhouette", ["no change"]),
    ("The cardiac silhouette is normal and unchanged.", "cardiac silhouette", ["no change"]),
    ("Unchanged left effusion and new right effusion.", "left costophrenic angle", ["no change"]),
    ("Unchanged left effusion and new right effusion.", "right costophrenic angle", ["new"]),
    ("Left effusion.", "left costophrenic angle", []),
])
def test_changes_by_region(text, region, changes):
    sentences = read_report(text)
    assert [change for sentence in sentences for change in sentence.changes_of(region)] == changes


def test_several_changes_of_a_region_are_unknown():
    text = "New left effusion. The left lower lobe opacity has improved. The heart is stable."
    graph = scene_graph(read_report(text))
    assert "change" not in graph["regions"]["left lung"] and "change" not in graph["regions"]["right lung"]
    assert graph["regions"]["left costophrenic angle"]["change"] == "new"
    assert graph["regions"]["cardiac silhouette"]["change"] == "no change"


def test_severity_and_side_stay_with_their_finding():
    first, second = read_report("Small left effusion and large right effusion.")[0].findings
    assert (first.side, first.severity, second.side, second.severity) == ("left", "mild", "right", "severe")
