"""Studies by patient, and splits that patients do not cross."""

from hypothesis import given
from hypothesis import strategies as st

from data.sources.phantom.patients.grouping import group_by_patient, split_patients


@given(studies=st.integers(10, 300), seed=st.integers(0, 50), priors=st.sampled_from([0.0, 0.3, 1.0]))
def test_patients_have_one_to_three_consecutive_studies_in_one_split(studies, seed, priors):
    grouped = group_by_patient(studies, seed, priors)
    assert [study.number for study in grouped] == list(range(studies))
    sizes = {first: [study.position for study in grouped if study.first == first] for first in
             {study.first for study in grouped}}
    assert all(positions == list(range(len(positions))) and len(positions) <= 3 for positions in sizes.values())
    assert priors > 0 or all(len(positions) == 1 for positions in sizes.values())
    splits = split_patients(grouped, seed, {"val": 2, "test": 3, "train": studies})
    assert all(len({splits[study.number] for study in grouped if study.first == first}) == 1 for first in sizes)
    assert 2 <= splits.count("val") <= 4 and 3 <= splits.count("test") <= 5


def test_the_share_of_patients_with_several_studies():
    grouped = group_by_patient(6000, 1, 0.4)
    firsts = [study.first for study in grouped]
    several = [first for first in set(firsts) if firsts.count(first) > 1]
    assert 0.36 < len(several) / len(set(firsts)) < 0.44
