"""Patients with several studies: what persists, how findings change, and what the change of a region is."""

import dataclasses
from collections import Counter

import pytest

from data.ontology import CHANGES, IMPROVED, NEW, RESOLVED, UNCHANGED, WORSENED
from data.sources.phantom.findings import MAX_FINDINGS, SEVERITIES, Finding, draw_findings
from data.sources.phantom.patient import draw_patient
from data.sources.phantom.patients.history import StudyHistory, draw_states, study_streams


@pytest.fixture(scope="module")
def patients():
    return [draw_states(7, first, 3, 1.5) for first in range(0, 900, 3)]


def test_the_first_study_is_that_of_a_patient_with_one_study():
    streams = study_streams(7, 3)
    patient = draw_patient(streams[0])
    (state,) = draw_states(7, 3, 1, 1.0)
    assert state.patient == patient and list(state.findings) == draw_findings(streams[1], patient.view)
    assert state.history == StudyHistory()


def test_the_body_persists_in_another_pose(patients):
    changing = {"view", "pose", "brightness", "contrast"}
    for first, *others in patients:
        for other in others:
            body = dataclasses.asdict(other.patient)
            assert {key: value for key, value in dataclasses.asdict(first.patient).items() if key not in changing} == {
                key: value for key, value in body.items() if key not in changing
            }
            assert other.patient.pose != first.patient.pose


def test_changes_are_what_the_findings_say(patients):
    seen = Counter()
    for states in patients:
        for before, after in zip(states, states[1:], strict=False):
            earlier = {(finding.kind, finding.side): finding for finding in before.findings}
            history = after.history
            assert history.has_prior and set(history.changes) == set(after.findings)
            assert len(after.findings) <= MAX_FINDINGS
            for finding, change in history.changes.items():
                seen[change] += 1
                previous = earlier.pop((finding.kind, finding.side), None)
                if change == NEW:
                    assert previous is None
                    continue
                assert previous.place == finding.place
                grades = [SEVERITIES.index(each.severity) if each.severity else 0 for each in (previous, finding)]
                assert (grades[1] > grades[0], grades[1] < grades[0]) == (change == WORSENED, change == IMPROVED)
            assert set(history.resolved) == set(earlier.values())
            seen[RESOLVED] += len(history.resolved)
    assert set(seen) == set(CHANGES) and min(seen.values()) > 20


def test_a_region_with_different_changes_has_none():
    effusion, line = Finding("pleural effusion", "left", severity="mild"), Finding("central line", "right")
    opacity = Finding("consolidation", "left", "lower", "mild")
    changes = StudyHistory(True, {effusion: WORSENED, line: UNCHANGED}, (opacity,)).region_changes()
    assert changes["left costophrenic angle"] == WORSENED and changes["svc"] == UNCHANGED
    assert "left lung" not in changes and "left lower lung zone" not in changes and "right lung" not in changes
