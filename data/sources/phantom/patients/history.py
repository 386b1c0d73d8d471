"""Patients with several studies: what stays, and how their findings change from one study to the next.

Anatomy persists with the patient's seed, so a finding that stays is where it was. A patient stands or lies differently
in every image, which changes the projection but not the chest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from data.ontology import IMPROVED, NEW, RESOLVED, UNCHANGED, WORSENED, combine_changes
from data.sources.phantom.findings import (
    FINDING_KINDS,
    MAX_FINDINGS,
    SEVERITIES,
    Finding,
    draw_findings,
    regions_of,
    select_compatible,
)
from data.sources.phantom.patient import Patient, draw_patient

# Probabilities of a finding to stay, grow, shrink and resolve; kinds that are not listed stay.
_ACUTE = (0.34, 0.24, 0.22, 0.20)
_EVOLUTION: Mapping[str, tuple[float, float, float, float]] = {
    "pleural effusion": _ACUTE, "pneumothorax": _ACUTE, "consolidation": _ACUTE, "patchy atelectasis": _ACUTE,
    "edema": _ACUTE, "linear atelectasis": (0.5, 0.0, 0.0, 0.5), "low lung volumes": (0.5, 0.0, 0.0, 0.5),
    "cardiomegaly": (0.7, 0.3, 0.0, 0.0), "widened mediastinum": (0.8, 0.2, 0.0, 0.0),
    "central line": (0.6, 0.0, 0.0, 0.4), "endotracheal tube": (0.5, 0.0, 0.0, 0.5),
}
# Of the usual probability of findings; others appear between studies.
_NEW_PREVALENCE = 0.5
_SAME_VIEW_RATE = 0.75


@dataclass(frozen=True)
class StudyHistory:
    """How a study compares with the patient's previous one.

    has_prior  whether there is a previous study
    changes    the change of each present finding: new, worsened, improved or no change; empty without a prior
    resolved   findings of the previous study that are gone
    """

    has_prior: bool = False
    changes: Mapping[Finding, str] = field(default_factory=dict)
    resolved: tuple[Finding, ...] = ()

    def region_changes(self) -> dict[str, str]:
        """Return region -> the change of its findings, for regions whose findings all changed in the same way."""
        by_region: dict[str, list[str]] = {}
        for finding, change in [*self.changes.items(), *((finding, RESOLVED) for finding in self.resolved)]:
            for region in regions_of(finding):
                by_region.setdefault(region, []).append(change)
        combined = {region: combine_changes(changes) for region, changes in by_region.items()}
        return {region: change for region, change in combined.items() if change is not None}


# Of a patient's first study.
NO_HISTORY = StudyHistory()


@dataclass(frozen=True)
class PatientState:
    """A patient at one study: pose and view, findings, and how they compare with the previous study."""

    patient: Patient
    findings: tuple[Finding, ...]
    history: StudyHistory


def draw_states(seed: int, first: int, studies: int, prevalence: float) -> list[PatientState]:
    """Draw the first `studies` studies of a patient whose first one has the number `first`; see `study_streams`."""
    streams = study_streams(seed, first)
    patient = draw_patient(streams[0])
    states = [PatientState(patient, tuple(draw_findings(streams[1], patient.view, prevalence)), NO_HISTORY)]
    for number in range(first + 1, first + studies):
        streams = study_streams(seed, number)
        patient = _draw_again(patient, streams[0])
        states.append(_evolve(states[-1], patient, prevalence, streams[1]))
    return states


def study_streams(seed: int, number: int) -> list[np.random.Generator]:
    """Return the streams of a study's random numbers: patient, findings, report, images, indication, impression."""
    return np.random.default_rng([seed, number]).spawn(6)


def _draw_again(patient: Patient, rng: np.random.Generator) -> Patient:
    """Return the same body in another pose and exposure, sometimes in the other view."""
    other = draw_patient(rng)
    view = patient.view if rng.random() < _SAME_VIEW_RATE else other.view
    return replace(patient, view=view, pose=other.pose, brightness=other.brightness, contrast=other.contrast)


def _evolve(
    before: PatientState, patient: Patient, prevalence: float, rng: np.random.Generator
) -> PatientState:
    """Return the next study of a patient."""
    changes: dict[Finding, str] = {}
    resolved: list[Finding] = []
    for finding in before.findings:
        after, change = _evolve_finding(finding, rng)
        if after is None:
            resolved.append(finding)
        else:
            changes[after] = change
    places = {(finding.kind, finding.side) for finding in before.findings}
    appeared = [
        finding for finding in draw_findings(rng, patient.view, _NEW_PREVALENCE * prevalence)
        if (finding.kind, finding.side) not in places
    ]
    findings = select_compatible([*changes, *appeared])[:MAX_FINDINGS]
    # Persisting findings come first, so that only new ones are left out.
    changes = {finding: changes.get(finding, NEW) for finding in findings}
    kinds = list(FINDING_KINDS)
    ordered = sorted(findings, key=lambda finding: (kinds.index(finding.kind), finding.side or ""))
    return PatientState(patient, tuple(ordered), StudyHistory(True, changes, tuple(resolved)))


def _evolve_finding(finding: Finding, rng: np.random.Generator) -> tuple[Finding | None, str]:
    """Return the finding at the next study, None if it is gone, and its change."""
    change = str(rng.choice(
        (UNCHANGED, WORSENED, IMPROVED, RESOLVED), p=_EVOLUTION.get(finding.kind, (1.0, 0.0, 0.0, 0.0))
    ))
    if change == RESOLVED:
        return None, RESOLVED
    if change == UNCHANGED or finding.severity is None:
        return finding, UNCHANGED
    grade = SEVERITIES.index(finding.severity) + (1 if change == WORSENED else -1)
    if grade < 0:
        return None, RESOLVED
    if grade == len(SEVERITIES):
        return finding, UNCHANGED
    return replace(finding, severity=SEVERITIES[grade]), change
