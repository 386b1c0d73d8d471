"""The impressions of phantom studies: true, short, and drawn apart from the reports."""

import json

import numpy as np
import pytest

from data.sources.phantom.dataset import PhantomSettings, prepare_phantom
from data.sources.phantom.findings import Finding, observations_of
from data.sources.phantom.patients.history import draw_states
from data.sources.phantom.reports import MAX_IMPRESSION, write_impression, write_report
from data.text.report_graph import read_report
from data.text.report_labels import label_report

EFFUSION = Finding("pleural effusion", "left", severity="moderate")


def rng(number=0):
    return np.random.default_rng(number)


@pytest.fixture(scope="module")
def patients():
    """The studies of many patients."""
    return [state for first in range(0, 600, 3) for state in draw_states(0, first, 3, 1.0)]


def test_impressions_state_nothing_that_is_not_there(patients):
    for number, state in enumerate(patients):
        text = write_impression(state.findings, rng(number))
        stated = {name for name, value in label_report(text).items() if value == 1} - {"No Finding"}
        assert stated <= set(observations_of(state.findings)), text
        assert 1 <= text.count(".") <= MAX_IMPRESSION


def test_an_impression_says_that_nothing_matters_only_if_so():
    assert "acute" in write_impression([], rng())
    assert "acute" in write_impression([Finding("pacemaker")], rng())
    assert "pleural effusion" in write_impression([EFFUSION], rng())


def test_comparisons_are_true_and_need_a_prior(patients):
    stated = 0
    for number, state in enumerate(patients):
        text = write_impression(state.findings, rng(number), state.history)
        regions = {region for part in read_report(text) for region in part.regions}
        changes = {
            region: change for part in read_report(text) for region in regions for change in part.changes_of(region)
        }
        if not state.history.has_prior:
            assert not changes, text
        truth = state.history.region_changes()
        for region, change in changes.items():
            if region in truth:
                assert change == truth[region] or len(state.history.changes) > 1, text
                stated += change == truth[region]
        assert not [change for part in read_report(write_impression(state.findings, rng(number)))
                    for region in regions for change in part.changes_of(region)]
    assert stated > 100


def test_impressions_do_not_change_the_reports():
    report = write_report([EFFUSION], "PA", rng(5))
    generator = rng(5)
    streams = np.random.default_rng([0, 7]).spawn(5)
    assert [each.bit_generator.state for each in streams] == [
        each.bit_generator.state for each in np.random.default_rng([0, 7]).spawn(6)[:5]
    ]
    assert write_report([EFFUSION], "PA", generator) == report


def test_the_data_set_has_an_impression_for_every_study(tmp_path):
    prepare_phantom(tmp_path / "made", PhantomSettings(studies=10, image_size=32), workers=1)
    records = [json.loads(line) for line in (tmp_path / "made/records.jsonl").read_text().splitlines()]
    impressions = [record["impression"] for record in records]
    assert all(impressions) and len(set(impressions)) > 3
