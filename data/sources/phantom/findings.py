"""The findings of phantom chests: their kinds, how often they occur, and what they are called in the data.

The same finding is simulated by the physics (`pathology.py`), described by the grammar (`reports.py`) and labelled with
the names defined here, so that image, report and annotation agree by construction.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from data.sources.phantom.patient import AP_SHARE

SEVERITIES = ("mild", "moderate", "severe")
SIDES = ("left", "right")


@dataclass(frozen=True)
class Finding:
    """One finding of one study.

    kind      key of `FINDING_KINDS`
    side      the patient's "left" or "right"; None for findings without a side
    place     one of the places of its kind ("upper", "mid", "lower"); None if the kind has no places
    severity  "mild", "moderate" or "severe"; None if the kind is not graded
    """

    kind: str
    side: str | None = None
    place: str | None = None
    severity: str | None = None


@dataclass(frozen=True)
class FindingKind:
    """Properties shared by all findings of a kind.

    label         Chest ImaGenome's `category|label`
    observations  CheXpert observations that the finding makes positive
    regions       regions that it affects, most specific first; {side} and {place} are filled in from the finding
    prevalence    probability per study at `prevalence=1`
    sides, places, graded   whether a finding of this kind has a side, a place and a severity
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

# Share of studies without findings at `prevalence=1`.
NORMAL_SHARE = 0.22
MAX_FINDINGS = 5
# Prevalence in AP views (bedridden patients) relative to all views; in PA views it is lower accordingly.
AP_PREVALENCE_FACTORS = {
    "pacemaker": 1.4, "central line": 1.9, "endotracheal tube": 2.1, "low lung volumes": 1.6, "edema": 1.5,
    "pleural effusion": 1.3, "patchy atelectasis": 1.3,
}
BILATERAL_EFFUSION_RATE = 0.25
# Pairs of kinds that exclude each other, on any side or on the same side.
EXCLUSIVE = (
    {"hyperinflation", "low lung volumes"}, {"hyperinflation", "raised hemidiaphragm"},
    {"low lung volumes", "raised hemidiaphragm"}, {"nodule", "mass"}, {"hyperinflation", "edema"},
)
EXCLUSIVE_ON_A_SIDE = (
    {"pleural effusion", "pneumothorax"}, {"pneumothorax", "consolidation"}, {"pneumothorax", "patchy atelectasis"},
    {"pneumothorax", "nodule"}, {"pneumothorax", "mass"}, {"pneumothorax", "linear atelectasis"},
    {"pleural effusion", "raised hemidiaphragm"}, {"consolidation", "patchy atelectasis"},
)
# An effusion hides these kinds in the lower zone of its lung.
HIDDEN_BY_EFFUSION = {"consolidation", "patchy atelectasis", "linear atelectasis", "nodule", "mass"}


def regions_of(finding: Finding) -> tuple[str, ...]:
    """Return the names of the regions that `finding` affects, most specific first."""
    kind = FINDING_KINDS[finding.kind]
    return tuple(region.format(side=finding.side, place=finding.place) for region in kind.regions)


def observations_of(findings: Iterable[Finding]) -> set[str]:
    """Return the positive CheXpert observations of a study with `findings`, "No Finding" included.

    As in CheXpert, a study whose only positive observation is Support Devices has No Finding. Unlike in CheXpert,
    findings without an observation (such as scoliosis) rule out No Finding too, as they do in its phrase list.
    """
    positive: set[str] = set()
    no_finding = True
    for finding in findings:
        observations = FINDING_KINDS[finding.kind].observations
        positive.update(observations)
        no_finding = no_finding and observations == ("Support Devices",)
    return positive | {"No Finding"} if no_finding else positive


def draw_findings(rng: np.random.Generator, view: str, prevalence: float = 1.0) -> list[Finding]:
    """Draw the findings of a study; about one study in five has none at `prevalence=1`."""
    if rng.random() < NORMAL_SHARE**prevalence:
        return []
    while True:
        findings: list[Finding] = []
        for kind in rng.permutation(list(FINDING_KINDS)):
            if rng.random() < min(0.9, prevalence * FINDING_KINDS[kind].prevalence * _view_factor(kind, view)):
                findings += _draw_finding(rng, str(kind))
        findings = select_compatible(findings)
        if findings:
            order = list(FINDING_KINDS)
            return sorted(findings, key=lambda finding: (order.index(finding.kind), finding.side or ""))


def _view_factor(kind: str, view: str) -> float:
    """Return the prevalence of a kind in `view`, relative to its prevalence in all views."""
    factor = AP_PREVALENCE_FACTORS.get(kind, 1.0)
    return factor if view == "AP" else (1 - AP_SHARE * factor) / (1 - AP_SHARE)


def _draw_finding(rng: np.random.Generator, kind: str) -> list[Finding]:
    """Draw a finding of a kind; some effusions are bilateral and give two."""
    properties = FINDING_KINDS[kind]
    side = str(rng.choice(properties.sides)) if properties.sides else None
    place = str(rng.choice(properties.places)) if properties.places else None
    severity = str(rng.choice(SEVERITIES, p=(0.4, 0.35, 0.25))) if properties.graded else None
    findings = [Finding(kind, side, place, severity)]
    if kind == "pleural effusion" and rng.random() < BILATERAL_EFFUSION_RATE:
        other_side = "left" if side == "right" else "right"
        findings.append(Finding(kind, other_side, place, str(rng.choice(SEVERITIES, p=(0.5, 0.35, 0.15)))))
    return findings


def select_compatible(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings that are compatible with all selected before them, `MAX_FINDINGS` at most."""
    selected: list[Finding] = []
    for finding in findings:
        if len(selected) < MAX_FINDINGS and not any(_are_exclusive(finding, other) for other in selected):
            selected.append(finding)
    return selected


def _are_exclusive(one: Finding, other: Finding) -> bool:
    kinds = {one.kind, other.kind}
    if kinds in EXCLUSIVE:
        return True
    if one.side != other.side:
        return False
    hidden = "pleural effusion" in kinds and kinds & HIDDEN_BY_EFFUSION and "lower" in (one.place, other.place)
    return kinds in EXCLUSIVE_ON_A_SIDE or bool(hidden)
