"""What the indication alone and the previous report alone score."""

from data.ontology import observation_names
from data.sources.phantom.patients.leaks import score_without_images


def record(number, split, indication, positive, prior=None):
    observations = {name: int(name in positive) for name in observation_names()}
    return {"id": str(number), "split": split, "indication": indication, "observations": observations, "prior": prior}


def studies(informative):
    """Training and test studies with an effusion or not, whose indications say so or not."""
    return [
        record(number, "train" if number < 40 else "test", "leg swelling" if informative and sick else "cough",
               {"Pleural Effusion"} if sick else {"No Finding"})
        for number, sick in enumerate([True, False] * 30)
    ]


def test_an_indication_that_says_everything_scores_1():
    assert score_without_images(studies(True)) == {"indication": 1.0, "previous report": None}


def test_an_indication_that_says_nothing_scores_as_a_guess():
    assert score_without_images(studies(False))["indication"] < 0.7


def test_a_previous_report_scores_what_persists():
    found = [
        record(0, "test", None, {"Edema"}), record(1, "test", None, {"Edema"}, prior="0"),
        record(2, "test", None, {"Edema", "Fracture"}, prior="1"), record(3, "train", None, {"Edema"}),
    ]
    assert score_without_images(found)["previous report"] == 0.8
