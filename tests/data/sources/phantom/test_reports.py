"""The reports of phantom studies: correct, varied, and impossible to guess without the image."""

import re
from collections import Counter, defaultdict
from itertools import product
from pathlib import Path

import numpy
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from data.sources.phantom.findings import FINDING_KINDS, SEVERITIES, SIDES, Finding, regions_of
from data.sources.phantom.patient import TRAITS
from data.sources.phantom.patients.history import StudyHistory
from data.sources.phantom.patients.indication import context_phrases
from data.sources.phantom.report_rules import TOPICS
from data.sources.phantom.reports import PHRASE_FILE, Sentence, write_report
from data.text.report_graph import read_report, scene_graph

STUDIES = 3000
SHARE_OF_AP = 0.4
ANATOMY_FILE = Path(__file__).resolve().parents[4] / "files" / "anatomy.yaml"
REGIONS = [region["name"] for region in yaml.safe_load(ANATOMY_FILE.read_text())["regions"]]

GRADE_WORDS = {
    "mild": {"mild", "mildly", "slight", "slightly", "small", "tiny", "trace", "faint", "subtle", "minor"},
    "moderate": {"moderate", "moderately"},
    "severe": {"severe", "severely", "marked", "markedly", "large", "massive", "extensive", "dense"},
}
KIND_WORDS = {
    "pleural effusion": "effusion|pleural fluid", "pneumothorax": "pneumothorax", "consolidation": "consolidation",
    "patchy atelectasis": "patchy.*atelecta|atelectasis of patchy|opacity.*atelectasis|atelectatic",
    "linear atelectasis": "atelectasis", "edema": "edema", "nodule": "nodul", "mass": "mass|lesion",
    "cardiomegaly": "cardiomegaly|enlarge|increased", "widened mediastinum": "wide|widening|broad|expanded",
    "tortuous aorta": "tortuous|tortuosity|unfolded", "calcified aorta": "calcifi",
    "hyperinflation": "hyper|overinflated", "low lung volumes": "low",
    "raised hemidiaphragm": "(elevat|raised|high).*hemidiaphragm|hemidiaphragm.*(elevat|raised|high)",
    "rib fracture": "rib.*fracture|fracture.*rib|broken.*rib", "scoliosis": "scolio|curvature",
    "pacemaker": "pacemaker|pacing|pacer", "central line": "line|catheter", "endotracheal tube": "tube",
}
# Words that sentences about no region do not contain.
REGION_WORDS = re.compile(
    r"\b(left|right|lungs?|lobe|zones?|apex|apices|bases?|basal|heart|cardiac|hil\w+|mediast\w+|costophrenic|clavic\w+|spine|"
    r"vertebra\w*|aort\w+|trache\w+|carina|\w*diaphragm\w*|abdom\w+|vena|atri\w+|junction)\b", re.IGNORECASE)


def every_finding() -> list[Finding]:
    return [
        Finding(name, side, place, severity)
        for name, kind in FINDING_KINDS.items()
        for side, place, severity in product(
            kind.sides or (None,), kind.places or (None,), SEVERITIES if kind.graded else (None,))
    ]


def sample_findings(rng: numpy.random.Generator) -> tuple[Finding, ...]:
    """Draw findings, each kind independently with the probability `prevalence`."""
    findings = []
    for name, kind in FINDING_KINDS.items():
        if rng.random() < kind.prevalence:
            side, place, severity = (
                str(rng.choice(values)) if values else None
                for values in (kind.sides, kind.places, SEVERITIES if kind.graded else ()))
            findings.append(Finding(name, side, place, severity))
    return tuple(findings)


def text_of(report: list[Sentence]) -> str:
    return " ".join(sentence.text for sentence in report)


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def mentions(reports: list[list[Sentence]]) -> numpy.ndarray:
    """[N, 29] bool: which report mentions which region."""
    return numpy.array([
        [region in mentioned for region in REGIONS]
        for mentioned in ({region for sentence in report for region in sentence.regions} for report in reports)
    ])


def micro_f1(predicted: numpy.ndarray, actual: numpy.ndarray) -> float:
    return 2 * (predicted & actual).sum() / (predicted.sum() + actual.sum())


@pytest.fixture(scope="module")
def studies() -> list[tuple[tuple[Finding, ...], str]]:
    rng = numpy.random.default_rng(0)
    return [(sample_findings(rng), "AP" if rng.random() < SHARE_OF_AP else "PA") for _ in range(STUDIES)]


@pytest.fixture(scope="module")
def reports(studies) -> list[list[Sentence]]:
    rng = numpy.random.default_rng(1)
    return [
        write_report(findings, view, rng, [trait for trait in TRAITS if rng.random() < 0.3])
        for findings, view in studies
    ]


@pytest.fixture(scope="module")
def phrases() -> dict:
    return yaml.safe_load(PHRASE_FILE.read_text(encoding="ascii"))


# What readers can know with and without the image


def test_regions_cannot_be_guessed_without_the_image(reports):
    mentioned = mentions(reports)
    prior = mentioned.mean(axis=0)
    blind = max(micro_f1(numpy.broadcast_to(prior >= threshold, mentioned.shape), mentioned) for threshold in prior)
    assert blind <= 0.52
    assert 0.25 <= prior.mean() <= 0.33
    assert prior.max() <= 0.55
    assert prior.min() >= 0.10


def test_regions_follow_from_findings_and_view(studies, reports):
    rng = numpy.random.default_rng(2)
    sampled, repeats = 300, 15
    informed = numpy.array([
        mentions([write_report(findings, view, rng) for _ in range(repeats)]).mean(axis=0) >= 0.5
        for findings, view in studies[:sampled]
    ])
    assert micro_f1(informed, mentions(reports[:sampled])) >= 0.90


def test_nearly_every_finding_is_mentioned(studies, reports):
    mentioned = sum(sentence.abnormal for report in reports for sentence in report)
    total = sum(len(findings) for findings, _ in studies)
    assert 0.96 <= mentioned / total <= 0.98


# Variety


def test_reports_have_the_length_and_the_words_of_real_ones(reports):
    words = [words_of(text_of(report)) for report in reports]
    lengths = numpy.array([len(report) for report in words])
    assert 40 <= lengths.mean() <= 70
    assert lengths.min() >= 8
    assert numpy.percentile(lengths, 99) <= 100
    assert len({word for report in words for word in report}) >= 400


def test_few_reports_on_equal_findings_are_identical(studies, reports):
    texts_by_findings = defaultdict(Counter)
    for (findings, _), report in zip(studies, reports, strict=True):
        texts_by_findings[findings][text_of(report)] += 1
    twins = {
        findings: sum(count for count in texts.values() if count > 1) for findings, texts in texts_by_findings.items()
    }
    assert sum(twins.values()) / STUDIES < 0.05
    assert twins[()] / texts_by_findings[()].total() < 0.05


def test_every_statement_has_at_least_four_phrasings(phrases):
    statements = [entry["phrases"] for entry in phrases["findings"].values()]
    statements += [phrases["hedges"], *phrases["remarks"].values()]
    statements += context_phrases()["comparisons"].values()
    for entry in phrases["normal statements"].values():
        statements += [entry] if isinstance(entry, list) else list(entry.values())
    assert all(len(set(statement)) >= 4 for statement in statements)


def test_one_phrasing_is_the_common_one(reports):
    technique = Counter(s.text for r in reports for s in r if re.search(r"\bPA\b", s.text))
    assert 0.40 <= technique["PA view of the chest."] / technique.total() <= 0.55
    assert len(technique) >= 4


def test_some_findings_are_hedged(reports):
    abnormal = [sentence for report in reports for sentence in report if sentence.abnormal]
    hedge = re.compile(r"possible|may represent|there may be|suggest|probable|suspected|likely", re.IGNORECASE)
    hedged = [sentence for sentence in abnormal if hedge.search(sentence.text)]
    assert 0.05 <= len(hedged) / len(abnormal) <= 0.15


def test_most_changes_are_stated(studies):
    rng, findings = numpy.random.default_rng(0), [findings for findings, _ in studies if findings]
    reports = [
        write_report(each, "PA", rng, history=StudyHistory(True, dict.fromkeys(each, change)))
        for change in ("new", "worsened", "improved", "no change") for each in findings[:300]
    ]
    abnormal = [sentence for report in reports for sentence in report if sentence.abnormal]
    compared = Counter(sentence.comparison for sentence in abnormal)
    assert set(compared) == {"new", "worsened", "improved", "no change", None}
    assert 0.70 <= 1 - compared[None] / len(abnormal) <= 0.85
    assert any("unchanged from prior" in sentence.text for sentence in abnormal if sentence.comparison == "no change")
    assert any("new since" in sentence.text for sentence in abnormal if sentence.comparison == "new")
    assert all(s.comparison is None for report in reports for s in report if not s.abnormal)


def test_topics_are_mostly_in_the_canonical_order(reports):
    lungs_first = []
    for report in reports:
        topic = ["lung" if "lung" in s.text.lower() else "heart" if s.regions == ("cardiac silhouette",) else ""
                 for s in report]
        if "lung" in topic and "heart" in topic:
            lungs_first.append(topic.index("lung") < topic.index("heart"))
    assert 0.85 <= numpy.mean(lungs_first) < 1
    assert TOPICS.index("lungs") < TOPICS.index("heart")


# Truth


@pytest.mark.parametrize("finding", every_finding(), ids=lambda f: " ".join(filter(None, vars(f).values())))
def test_a_finding_is_worded_as_it_is(finding):
    rng = numpy.random.default_rng(3)
    sentences = [s for _ in range(40) for s in write_report([finding], "PA", rng) if s.abnormal]
    assert len(sentences) >= 30
    category, label = FINDING_KINDS[finding.kind].label.split("|")
    for sentence in sentences:
        # The comparison is the last clause; its words ("less pronounced") do not describe the finding.
        text = sentence.text.rsplit(", ", 1)[0] if sentence.comparison else sentence.text
        words = set(words_of(text))
        assert re.search(KIND_WORDS[finding.kind], text, re.IGNORECASE), text
        assert sentence.regions == regions_of(finding)
        assert f"{category}|yes|{label}" in sentence.attributes
        assert all("|no|" not in attribute for attribute in sentence.attributes)
        for side in SIDES:
            # The leads of a pacemaker are in the right heart, on whichever side it is.
            others = {"right"} if finding.kind == "pacemaker" else set()
            assert side in words if side == finding.side else side not in words - others, text
        if finding.place:
            assert words & {"upper", "mid", "lower"} == {finding.place}, text
        if finding.severity:
            assert words & GRADE_WORDS[finding.severity], text
            assert sentence.severity == finding.severity
        else:
            assert sentence.severity in (None, "hedge")
        for grade in set(SEVERITIES) - {finding.severity} if finding.severity else ():
            assert not words & GRADE_WORDS[grade], text


def assert_consistent(findings: tuple[Finding, ...], report: list[Sentence]) -> None:
    """Check what is true of every report."""
    positive = {(region, FINDING_KINDS[f.kind].label) for f in findings for region in regions_of(f)}
    asserted = {(region, a) for s in report for region in s.regions for a in s.attributes}
    assert not {(region, a.replace("|no|", "|yes|")) for region, a in asserted if "|no|" in a} & asserted
    for sentence in report:
        text = sentence.text
        assert re.fullmatch(r"[A-Z][ -~]*[^ ,.]\.", text), text
        assert not re.search(r"[\[\]{}|0-9]|  | [,.]|\b[Aa] [aeiou]", text), text
        assert set(sentence.regions) <= set(REGIONS)
        assert len(set(sentence.regions)) == len(sentence.regions)
        if not sentence.regions:
            assert not sentence.attributes and not sentence.abnormal
            assert not REGION_WORDS.search(text), text
        if not sentence.abnormal:
            words = set(words_of(text))
            for attribute in sentence.attributes:
                category, polarity, label = attribute.split("|")
                assert polarity == "no"
                assert not {(region, f"{category}|{label}") for region in sentence.regions} & positive
            sides = {side for side in SIDES for region in sentence.regions if region.startswith(side)}
            # "right atrium" is a structure, not a side.
            named = {side for side in SIDES if side in words} if "right atrium" not in sentence.regions else sides
            assert named == sides or not named and len(sides) == 2, text


def test_reports_agree_with_their_findings(studies, reports):
    for (findings, _), report in zip(studies, reports, strict=True):
        assert_consistent(findings, report)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(every_finding()), max_size=12, unique=True), st.sampled_from(["PA", "AP"]),
       st.integers(0, 2**32 - 1))
def test_any_mixture_of_findings_gives_a_consistent_report(findings, view, seed):
    report = write_report(findings, view, numpy.random.default_rng(seed))
    assert_consistent(tuple(findings), report)
    assert sum(sentence.abnormal for sentence in report) <= len(findings)


def test_an_effusion_on_one_side_denies_one_on_the_other():
    rng = numpy.random.default_rng(4)
    one_sided = [write_report([Finding("pleural effusion", "left", None, "mild")], "PA", rng) for _ in range(60)]
    denied = [s for report in one_sided for s in report if "anatomicalfinding|no|pleural effusion" in s.attributes]
    assert len(denied) >= 50
    assert all(s.regions == ("right costophrenic angle",) and "right" in s.text for s in denied)
    both = [Finding("pleural effusion", side, None, "severe") for side in SIDES]
    for _ in range(60):
        report = write_report(both, "PA", rng)
        assert all("anatomicalfinding|no|pleural effusion" not in s.attributes for s in report)


def test_a_device_calls_for_a_word_on_pneumothorax():
    rng = numpy.random.default_rng(5)
    for kind, side in (("pacemaker", "left"), ("central line", "right"), ("endotracheal tube", None)):
        reports = [write_report([Finding(kind, side)], "AP", rng) for _ in range(60)]
        denied = [s for r in reports for s in r if "anatomicalfinding|no|pneumothorax" in s.attributes]
        assert len(denied) >= 50
        assert all(set(s.regions) == {"left apical zone", "right apical zone"} for s in denied)


def test_the_listed_zones_are_those_without_findings():
    finding = Finding("consolidation", "left", "mid", "moderate")
    reports = [write_report([finding], "PA", numpy.random.default_rng(seed)) for seed in range(20)]
    clear = [s for report in reports for s in report if "anatomicalfinding|no|lung opacity" in s.attributes]
    assert clear
    for sentence in clear:
        assert sentence.regions == ("left upper lung zone", "left lower lung zone")
        assert "left upper and lower lung zones" in sentence.text


def test_a_report_without_a_prior_compares_with_nothing(studies, reports):
    assert sum("no prior" in text_of(report).lower() for report in reports) > 50
    for (findings, _), report in zip(studies, reports, strict=True):
        assert all(sentence.comparison is None for sentence in report)
        regions = scene_graph(read_report(text_of(report)))["regions"]
        assert not any("change" in region for region in regions.values()), (findings, text_of(report))


# View and randomness


def test_the_view_is_worded_and_changes_the_routine():
    reports = {
        view: [write_report([], view, numpy.random.default_rng(seed)) for seed in range(60)] for view in ("PA", "AP")
    }
    for view, other in (("PA", "AP"), ("AP", "PA")):
        texts = [text_of(report) for report in reports[view]]
        assert sum(bool(re.search(rf"\b{view}\b", text)) for text in texts) >= 40
        assert not any(re.search(rf"\b{other}\b", text) for text in texts)
    shares = {view: dict(zip(REGIONS, mentions(reports[view]).mean(axis=0), strict=True)) for view in reports}
    assert shares["AP"]["left lower lung zone"] > 0.85 and shares["PA"]["left lower lung zone"] == 0
    assert shares["PA"]["abdomen"] > 0.85 and shares["AP"]["abdomen"] == 0


def test_another_view_is_refused():
    with pytest.raises(ValueError, match='view "LATERAL"'):
        write_report([], "LATERAL", numpy.random.default_rng(0))


@pytest.mark.parametrize("trait", TRAITS)
def test_a_trait_is_remarked_upon_whatever_the_findings_and_only_where_it_shows(studies, trait):
    phrases = yaml.safe_load(PHRASE_FILE.read_text(encoding="utf-8"))["remarks"][trait]
    words = {word for phrase in phrases for word in re.findall(r"[a-z]{5,}", phrase.lower())}
    rng = numpy.random.default_rng(2)
    with_trait = [write_report(findings, view, rng, [trait]) for findings, view in studies[:200]]
    without_trait = [write_report(findings, view, rng) for findings, view in studies[:200]]

    def share(reports: list[list[Sentence]]) -> float:
        """Share of reports with a sentence about no region that has two or more of the trait's words."""
        return numpy.mean([
            any(not s.regions and len(words & set(re.findall(r"[a-z]+", s.text.lower()))) >= 2 for s in report)
            for report in reports
        ])

    assert share(with_trait) - share(without_trait) > 0.5


def test_an_unknown_trait_is_refused():
    with pytest.raises(ValueError, match="traits .*'tattooed'"):
        write_report([], "PA", numpy.random.default_rng(0), ["tattooed"])


def test_the_same_generator_gives_the_same_report(studies):
    for number, (findings, view) in enumerate(studies[:50]):
        first = write_report(findings, view, numpy.random.default_rng(number))
        assert first == write_report(findings, view, numpy.random.default_rng(number))
        assert first == write_report(findings[::-1], view, numpy.random.default_rng(number))
        assert text_of(first) != text_of(write_report(findings, view, numpy.random.default_rng(number + 1)))
