"""What can be wrong with a phantom chest: the findings, where they sit, and what they are called in the data.

A finding is drawn by the physics (`phantom_physics.py`), put into words by the grammar (`phantom_reports.py`) and
labelled by the names given here, so the three agree by construction.
"""

from collections.abc import Iterable
from dataclasses import dataclass

SEVERITIES = ("mild", "moderate", "severe")
SIDES = ("left", "right")


@dataclass(frozen=True)
class Finding:
    """One finding of one study.

    kind      key of `FINDING_KINDS`
    side      the patient's "left" or "right"; None for findings without a side
    place     one of the kind's places ("upper", "mid", "lower"); None where the kind has none
    severity  "mild", "moderate" or "severe"; None where the kind has none
    """

    kind: str
    side: str | None = None
    place: str | None = None
    severity: str | None = None


@dataclass(frozen=True)
class FindingKind:
    """What all findings of a kind share.

    label         Chest ImaGenome's `category|label`
    observations  the CheXpert observations that the finding makes positive
    regions       the regions it touches, most specific first; {side} and {place} are filled from the finding
    prevalence    probability that a study has it at `prevalence=1`
    sides, places, graded   which of side, place and severity a finding of this kind has
    """

    label: str
    observations: tuple[str, ...]
    regions: tuple[str, ...]
    prevalence: float
    sides: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    graded: bool = False


_ZONE = ("{side} {place} lung zone", "{side} lung")
_BOTH_LUNGS = ("left lung", "right lung")

FINDING_KINDS: dict[str, FindingKind] = {
    "pleural effusion": FindingKind(
        "anatomicalfinding|pleural effusion", ("Pleural Effusion",),
        ("{side} costophrenic angle", "{side} lower lung zone", "{side} lung"), 0.16, SIDES, graded=True),
    "pneumothorax": FindingKind(
        "anatomicalfinding|pneumothorax", ("Pneumothorax",),
        ("{side} apical zone", "{side} upper lung zone", "{side} lung"), 0.08, SIDES, graded=True),
    "consolidation": FindingKind(
        "anatomicalfinding|consolidation", ("Consolidation", "Lung Opacity"), _ZONE, 0.10, SIDES,
        ("upper", "mid", "lower"), graded=True),
    "patchy atelectasis": FindingKind(
        "anatomicalfinding|atelectasis", ("Atelectasis", "Lung Opacity"), _ZONE, 0.09, SIDES, ("mid", "lower"),
        graded=True),
    "linear atelectasis": FindingKind(
        "anatomicalfinding|linear/patchy atelectasis", ("Atelectasis", "Lung Opacity"), _ZONE, 0.08, SIDES,
        ("mid", "lower")),
    "edema": FindingKind(
        "anatomicalfinding|pulmonary edema/hazy opacity", ("Edema", "Lung Opacity"),
        ("right hilar structures", "left hilar structures", *_BOTH_LUNGS), 0.10, graded=True),
    "nodule": FindingKind(
        "anatomicalfinding|mass/nodule (not otherwise specified)", ("Lung Lesion",), _ZONE, 0.05, SIDES,
        ("upper", "mid", "lower")),
    "mass": FindingKind(
        "anatomicalfinding|lung lesion", ("Lung Lesion",), _ZONE, 0.06, SIDES, ("upper", "mid", "lower")),
    "cardiomegaly": FindingKind(
        "anatomicalfinding|enlarged cardiac silhouette", ("Cardiomegaly",), ("cardiac silhouette",), 0.16, graded=True),
    "widened mediastinum": FindingKind(
        "anatomicalfinding|mediastinal widening", ("Enlarged Cardiomediastinum",),
        ("upper mediastinum", "mediastinum"), 0.07, graded=True),
    "tortuous aorta": FindingKind(
        "anatomicalfinding|tortuous aorta", (), ("aortic arch", "mediastinum"), 0.06),
    "calcified aorta": FindingKind(
        "anatomicalfinding|vascular calcification", (), ("aortic arch",), 0.05),
    "hyperinflation": FindingKind(
        "anatomicalfinding|hyperaeration", (), (*_BOTH_LUNGS, "left hemidiaphragm", "right hemidiaphragm"), 0.06),
    "low lung volumes": FindingKind(
        "technicalassessment|low lung volumes", (), _BOTH_LUNGS, 0.08),
    "raised hemidiaphragm": FindingKind(
        "anatomicalfinding|elevated hemidiaphragm", (),
        ("{side} hemidiaphragm", "{side} lower lung zone", "{side} lung"), 0.06, SIDES),
    "rib fracture": FindingKind(
        "anatomicalfinding|rib fracture", ("Fracture",), ("{side} lung",), 0.07, SIDES, ("upper", "mid", "lower")),
    "scoliosis": FindingKind(
        "anatomicalfinding|scoliosis", (), ("spine",), 0.06, SIDES, graded=True),
    "pacemaker": FindingKind(
        "device|cardiac pacer and wires", ("Support Devices",),
        ("{side} upper lung zone", "mediastinum", "right atrium"), 0.06, SIDES),
    "central line": FindingKind(
        "tubesandlines|ij line", ("Support Devices",), ("svc", "upper mediastinum", "cavoatrial junction"), 0.08,
        SIDES),
    "endotracheal tube": FindingKind(
        "tubesandlines|endotracheal tube", ("Support Devices",), ("trachea", "carina"), 0.07),
}


def regions_of(finding: Finding) -> tuple[str, ...]:
    """The names of the regions that `finding` touches, most specific first."""
    kind = FINDING_KINDS[finding.kind]
    return tuple(region.format(side=finding.side, place=finding.place) for region in kind.regions)


def observations_of(findings: Iterable[Finding]) -> set[str]:
    """The CheXpert observations that hold for a study with `findings`; "No Finding" for one that is free of them.

    As in CheXpert, a study whose only positive observation is Support Devices has No Finding. Beyond CheXpert's
    fourteen the findings without an observation (scoliosis, say) also end No Finding, as its phrase list has it.
    """
    positive: set[str] = set()
    clean = True
    for finding in findings:
        observations = FINDING_KINDS[finding.kind].observations
        positive.update(observations)
        clean = clean and observations == ("Support Devices",)
    return positive | {"No Finding"} if clean else positive
