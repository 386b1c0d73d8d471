"""Reading reports: kinds of wording that labelers often misread, several variations of each."""

import pytest

from data.text.report_graph import read_report, scene_graph
from data.text.report_labels import label_report

_NAMES = {
    "at": "Atelectasis", "ca": "Cardiomegaly", "co": "Consolidation", "ed": "Edema", "fr": "Fracture",
    "le": "Lung Lesion", "op": "Lung Opacity", "no": "No Finding", "pe": "Pleural Effusion", "po": "Pleural Other",
    "pn": "Pneumonia", "pt": "Pneumothorax", "sd": "Support Devices",
}  # fmt: skip


def check(text, expected):
    """Compare the labels of `text` with `expected` ("pe=1 pt=0"); No Finding only if it is expected."""
    wanted = {_NAMES[key]: int(value) for key, value in (item.split("=") for item in expected.split())}
    labels = label_report(text)
    if "No Finding" not in wanted and any(value for value in wanted.values()):
        assert "No Finding" not in labels or set(wanted) & {"Support Devices"}
    labels.pop("No Finding", None)
    wanted.pop("No Finding", None)
    assert labels == wanted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Small right effusion w/o pneumothorax.", "pe=1 pt=0"),
        ("Patchy left opacity w/ adjacent effusion.", "op=1 pe=1"),
        ("Nodule in the LUL/lingula.", "le=1"),
        ("Right/left effusions.", "pe=1"),
        ("Edema, improved since 12/4/2019.", "ed=1"),
        ("Cardiomegaly, stable since XX/XX/XXXX.", "ca=1"),
        ("Opacity c/w pneumonia.", "op=1 pn=1"),
        ("r/o pneumonia", "pn=-1"),
        ("No edema/effusion/consolidation.", "ed=0 pe=0 co=0"),
        ("s/p CABG, B/L effusions.", "pe=1"),
    ],
)
def test_slashes(text, expected):
    check(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No effusion, left chest tube in place.", "pe=0 sd=1"),
        ("No pneumothorax, pacemaker leads unchanged.", "pt=0 sd=1"),
        ("Without pneumothorax, NG tube in the stomach.", "pt=0 sd=1"),
        ("No pneumothorax, known left upper lobe nodule.", "pt=0 le=1"),
        ("No edema, moderate left effusion.", "ed=0 pe=1"),
        ("No consolidation, left basilar atelectasis.", "co=0 at=1"),
        ("No effusion, bibasilar opacities.", "pe=0 op=1"),
        ("No edema, 8 mm nodule in the lingula.", "ed=0 le=1"),
        ("No edema, a nodule in the lingula.", "ed=0 le=1"),
        ("No consolidation, cardiomegaly stable.", "co=0 ca=1"),
        ("No pneumothorax and right PICC in place.", "pt=0 sd=1"),
        ("no pneumothorax small left effusion", "pt=0 pe=1"),
        # Lists of denials
        ("No effusion, large consolidation, or edema.", "pe=0 co=0 ed=0"),
        ("No focal consolidation, large effusion or pneumothorax.", "co=0 pe=0 pt=0"),
        ("No consolidation, nodule, or mass.", "co=0 le=0"),
        ("No suspicious pulmonary opacity, pleural effusion, or pneumothorax.", "op=0 pe=0 pt=0"),
        ("Heart size within normal limits, mild edema.", "ca=0 ed=1"),
        ("Cardiomegaly, pulmonary vascularity within normal limits.", "ca=1 ed=0"),
    ],
)
def test_what_follows_a_denial_and_a_comma(text, expected):
    check(text, expected)


@pytest.mark.parametrize("sign", [": ", " - ", " – ", " — ", "—", " | ", "\t", " = ", "? "])
@pytest.mark.parametrize(
    ("answer", "value"),
    [("none", 0), ("No", 0), ("absent", 0), ("negative", 0), ("nil", 0), ("Present", 1), ("yes", 1)],
)
def test_answers(sign, answer, value):
    check(f"Pneumothorax{sign}{answer}.", f"pt={value}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Pneumothorax: not seen. Cardiomegaly: mild.", "pt=0 ca=1"),
        ("Pneumonia: unlikely", "pn=0"),
        ("Effusion: possible", "pe=-1"),
        ("Pneumothorax (-), effusion (+)", "pt=0 pe=1"),
        ("Pneumothorax: none Effusion: small", "pt=0 pe=1"),
        ("Left effusion, resolved.", "pe=0"),
        ("Negative for: effusion, edema.", "pe=0 ed=0"),
        ("Heart enlarged, effusion has resolved.", "ca=1 pe=0"),
        ("Effusion, edema, and consolidation have resolved.", "pe=0 ed=0 co=0"),
        ("Mild edema, no acute XXXX.", "ed=1"),
    ],
)
def test_what_an_answer_refers_to(text, expected):
    check(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No edema -- small left effusion", "ed=0 pe=1"),
        ("No effusion — cardiomegaly unchanged", "pe=0 ca=1"),
        ("No consolidation - as on the prior - or edema.", "co=0 ed=0"),
        ("No mid- or upper-lung consolidation.", "co=0"),
        ("1) No edema 2) Right consolidation", "ed=0 co=1"),
        ("a) No edema\nb) Right consolidation", "ed=0 co=1"),
        ("no pneumothorax\nleft effusion\nheart normal", "pt=0 pe=1 ca=0"),
        ("NO PNEUMOTHORAX\nLEFT EFFUSION\nHEART ENLARGED", "pt=0 pe=1 ca=1"),
        ("There is no focal\nconsolidation or\nPneumothorax.", "co=0 pt=0"),
        ("Lungs: No consolidation, mild edema\nPleura: small effusion", "co=0 ed=1 pe=1"),
        ("No pneumothorax Heart is enlarged Small left effusion", "pt=0 ca=1 pe=1"),
    ],
)
def test_dashes_lists_and_lines(text, expected):
    check(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Nearly resolved right effusion.", "pe=1"),
        ("The edema has almost completely resolved.", "ed=1"),
        ("Left pneumothorax, largely resolved.", "pt=1"),
        ("Partial resolution of the right consolidation.", "co=1"),
        ("The effusion has not completely resolved.", "pe=1"),
        ("Most of the effusion has cleared.", "pe=1"),
        ("The consolidation is nearly gone.", "co=1"),
        ("Complete resolution of the left effusion.", "pe=0"),
        ("The effusion has fully resolved.", "pe=0"),
    ],
)
def test_a_part_of_a_resolution(text, expected):
    check(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A small pneumothorax is hard to exclude.", "pt=-1"),
        ("Effusion cannot be confidently excluded.", "pe=-1"),
        ("Pneumonia, effusion, or edema cannot be excluded.", "pn=-1 pe=-1 ed=-1"),
        ("Consolidation? Edema?", "co=-1 ed=-1"),
        ("?nodule in the right apex", "le=-1"),
        ("Atelectasis is favored over pneumonia.", "at=-1 pn=-1"),
        ("The opacity is concerning, but not definitive, for pneumonia.", "op=1 pn=-1"),
        ("Effusion, if present, is small.", "pe=-1"),
        ("Pneumonia remains a possibility.", "pn=-1"),
        ("The technique does not permit effusion to be excluded.", "pe=-1"),
        ("There is concern for pneumonia.", "pn=-1"),
        ("If there is clinical concern for pneumonia, repeat.", ""),
        ("A rib fracture of uncertain age.", "fr=1"),
        ("Left opacity, not seen on the prior study.", "op=1"),
    ],
)
def test_doubt(text, expected):
    check(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The left effusion has disappeared.", "pe=0"),
        ("The consolidation has vanished.", "co=0"),
        ("The chest tube was taken out, no pneumothorax.", "sd=0 pt=0"),
        ("Interval extubation. No edema.", "ed=0"),
        ("Scarring from prior pneumonia.", ""),
        ("Atelectasis, and not pneumonia, accounts for the opacity.", "at=1 pn=0 op=1"),
        ("Edema, not pneumonia, explains the opacities.", "ed=1 pn=0 op=1"),
    ],
)
def test_absence(text, expected):
    check(text, expected)


@pytest.mark.parametrize(
    ("heading", "reads"),
    [
        ("HX", False), ("Clinical data", False), ("Reason", False), ("PMH", False), ("Clinical Hx / Indication", False),
        ("REASON FOR EXAM", False), ("COMPARISON", False), ("FINDINGS", True), ("Conclusion", True), ("Lungs", True),
    ],
)  # fmt: skip
def test_headings(heading, reads):
    text = f"{heading}: left effusion\nIMPRESSION: No edema."
    expected = "pe=1 ed=0" if reads else "ed=0"
    check(text, expected)
    check(text.replace(": l", " - l"), expected)
    check(text.replace("\n", " "), expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Right apical pleural thickening.", "po=1"),
        ("Calcified pleural plaques.", "po=1"),
        ("Right hilar mass.", "le=1"),
        ("Small left pleural efusion.", "pe=1"),
        ("Cardiomegally with pulmonary oedema.", "ca=1 ed=1"),
        ("No pneumothroax or effussion.", "pt=0 pe=0"),
        ("Left rib fractrue.", "fr=1"),
        ("Bibasilar atelactasis.", "at=1"),
        ("Contrast infusion was uneventful.", ""),
    ],
)
def test_mapping_and_spelling(text, expected):
    check(text, expected)


@pytest.mark.parametrize(
    ("text", "left", "right"),
    [
        ("R effusion.", False, True),
        ("L pleural effusion, LUL nodule.", True, False),
        ("R effusion and LUL opacity.", False, True),
        ("Pleural effusions, right larger than left.", True, True),
        ("Effusions, R > L.", True, True),
        ("The right effusion is larger than the left.", True, True),
    ],
)
def test_sides(text, left, right):
    regions = scene_graph(read_report(text))["regions"]
    effusion = "anatomicalfinding|yes|pleural effusion"
    assert [effusion in regions[f"{side} lung"]["attributes"] for side in ("left", "right")] == [left, right]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Right axillary clips.", "surgical clips"),
        ("Surgical XXXX in the right upper quadrant.", "surgical clips"),
        ("Cervical fusion plate.", "surgical hardware"),
        ("Right chest XXXX tip is in the mid SVC.", "vascular line"),
        ("Left XXXX-a-XXXX is in XXXX.", "chest port"),
        ("Fracture deformity of the right humerus.", "shoulder fracture"),
        ("Rib deformities compatible with old fractures.", "rib fracture"),
        ("Exaggerated kyphosis.", "kyphosis"),
        ("Calcified granuloma.", "granulomatous disease"),
        ("Degenerative changes along the thoracic spine.", "spinal degenerative changes"),
    ],
)
def test_attributes_of_devices_bones_and_granulomas(text, label):
    labels = {attribute.split("|")[2] for attribute in read_report(text)[0].attributes if "|yes|" in attribute}
    assert label in labels and "scoliosis" not in labels and "calcified nodule" not in labels
