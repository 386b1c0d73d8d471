"""report.html: one well-formed, self-contained file, its sections, and its behaviour in a browser."""

import json
import re
import subprocess
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from docs.chromium import MISSING, find_chromium
from models.outputs import GraphSource
from modules.evaluation.display import format_report
from modules.evaluation.pages.report_page import HEADLINES, MAX_STUDIES, choose_studies, write_report_page
from modules.evaluation.pages.study_panel import Case
from modules.evaluation.records import Evaluation
from modules.evaluation.results_writer import compare_graph_sources
from modules.evaluation.scoring import SCORE_NAMES
from tests.support.evaluation import fake_evaluation
from tests.support.evaluation.fake_model import FakeModel
from tests.support.tiny_dataset import write_tiny_dataset

CURVES = {
    "Training losses": {"total": [(1, 3.0), (2, 2.0)], "report": [(1, 2.0), (2, 1.0)]},
    "Validation scores": {"bleu_4": [(2, 0.5)], "bleu_1": [(2, 0.625)]},
}
CHROMIUM = find_chromium()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "tiny"
    return fake_evaluation.open_split(write_tiny_dataset(root, train=4, val=1, test=12, image_size=32))


def evaluate(dataset, graph_source=GraphSource.PREDICTED, **parts):
    model = FakeModel(dataset.vocabularies, ["the heart looks enlarged . the left lung is clear ."], **parts)
    return fake_evaluation.evaluate(dataset, model, resamples=20, graph_source=graph_source)


def metrics_of(evaluation, graph_source="predicted"):
    return {
        "dataset": "tiny <set>", "split": "test", "studies": len(evaluation.records), "graph_source": graph_source,
        "graph_in": "decoder", "annotated_graphs": 12, "box_source": "localizer", "beam_size": 3, "protocol": "r2gen",
        "seed": 0, "scores": evaluation.scores, "absent": evaluation.absent | {"meteor": "no Java & no jar"},
        "intervals": evaluation.intervals, "tables": evaluation.tables, "curves": evaluation.curves,
        "baselines": {"blind": {"bleu_4": 0.125}, "nearest_image": {"bleu_4": None}},
    }


def write_page(dataset, path, evaluation, metrics, curves=CURVES):
    cases = [
        Case(evaluation.records[position], dataset[position].images[0].numpy(), reason)
        for position, reason in choose_studies(evaluation)
    ]
    write_report_page(path, metrics, cases, dataset.vocabularies, curves)
    text = path.read_text(encoding="utf-8")
    return text, ElementTree.fromstring(text.replace("<!DOCTYPE html>", ""))


@pytest.fixture(scope="module")
def evaluation(dataset):
    return evaluate(dataset)


@pytest.fixture(scope="module")
def page(dataset, evaluation, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    metrics = metrics_of(evaluation)
    other = evaluate(dataset, GraphSource.NONE)
    metrics["graph_sources"] = compare_graph_sources(
        {"predicted": metrics, "none": metrics_of(other, "none")},
        {"predicted": evaluation.resampled, "none": other.resampled},
    )
    text, tree = write_page(dataset, path, evaluation, metrics)
    return path, text, tree, metrics


def rows_of(tree, label):
    table = next(each for each in tree.iter("div") if each.get("aria-label") == label)
    return {row[0].text: ["".join(cell.itertext()) for cell in row[1:]] for row in table.iter("tr")}


def test_the_page_stands_alone(page):
    _, text, tree, _ = page
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)
    assert not re.search(r"<(script|link|iframe)|@import|url\(", text)
    assert all(image.get("href").startswith("data:image/png;base64,") for image in tree.iter("image"))
    anchors = {link.get("href") for link in tree.iter("a")}
    assert anchors == {f"#{section.get('id')}" for section in tree.iter("section")} and len(anchors) == 6
    plain = "".join(tree.itertext())
    assert "tiny <set>" in plain and "no Java & no jar" in plain and "graph predicted" in plain


def test_scores_have_intervals_and_baselines_beside_them(page):
    _, _, tree, metrics = page
    main, everything = rows_of(tree, "Main scores"), rows_of(tree, "All scores")
    assert set(main) == {"score", *HEADLINES}
    assert set(SCORE_NAMES) < set(everything)
    assert main["score"] == ["model", "95 % interval", "image-blind", "nearest image"]
    score, (low, high) = metrics["scores"]["bleu_4"], metrics["intervals"]["bleu_4"]
    assert main["bleu_4"] == everything["bleu_4"] == [f"{score:.3f}", f"[{low:.3f}, {high:.3f}]", "0.125", "-"]
    assert main["meteor"] == ["-", "", "-", "-"]


def test_graph_sources_stand_side_by_side(page, dataset, evaluation, tmp_path):
    _, _, tree, metrics = page
    rows = rows_of(tree, "Main scores by graph source")
    assert rows["score"] == ["predicted", "none", "none − predicted", "95 % interval"]
    difference = metrics["graph_sources"]["none"]["difference"]["region_micro_f1"]
    assert rows["region_micro_f1"][2] == f"{difference:+.3f}"
    low, high = metrics["graph_sources"]["none"]["interval"]["rouge_l"]
    assert rows["rouge_l"][3] == f"[{low:.3f}, {high:.3f}]"
    assert rows["attribute_micro_f1"][1:] == ["-", "-", ""]
    text, _ = write_page(dataset, tmp_path / "one.html", evaluation, metrics_of(evaluation))
    assert "by graph source" not in text


def test_curves_of_the_run_calibration_and_coverage_are_drawn(page, dataset, evaluation, tmp_path):
    _, _, tree, metrics = page
    captions = ["".join(caption.itertext()) for caption in tree.iter("figcaption")]
    assert [name for name in captions if name in ("total", "report", "bleu_4", "bleu_1")] == [
        "total", "report", "bleu_4", "bleu_1"
    ]
    folded = next(each for each in tree.iter("details") if each[0].text == "All other validation scores")
    assert [caption.text for caption in folded.iter("figcaption")] == ["bleu_1"]
    assert f"Regions: expected calibration error {metrics['scores']['region_ece']:.3f}" in captions
    rates = [metrics["scores"][f"sentence_error_at_{share}"] for share in (100, 80, 60, 40, 20)]
    assert rows_of(tree, "Error rate by coverage")["error rate"][:5] == [f"{rate:.3f}" for rate in rates]
    text, _ = write_page(dataset, tmp_path / "no_log.html", evaluation, metrics_of(evaluation), curves={})
    assert "Training curves" not in text


def test_every_table_of_the_evaluation_is_shown(page, evaluation):
    _, _, tree, _ = page
    regions = rows_of(tree, "regions in the graph")
    assert regions[None] == ["precision", "recall", "f1", "positives", "ece"]
    values = evaluation.tables["regions in the graph"]["left lung"]
    assert regions["left lung"] == [
        f"{values[name]:.3f}" if name != "positives" else str(values[name]) for name in regions[None]
    ]
    for title, rows in evaluation.tables.items():
        assert len(rows_of(tree, title)) == len(rows) + 1


def test_ten_studies_are_shown(page, evaluation):
    _, _, tree, _ = page
    assert len(list(tree.iter("article"))) == len(list(tree.iter("image"))) == MAX_STUDIES
    plain = "".join(tree.itertext())
    for position, _ in choose_studies(evaluation):
        record = evaluation.records[position]
        assert record.study_id in plain and format_report(record.reference) in plain


def test_a_model_without_parts_has_a_page(dataset, tmp_path):
    bare = evaluate(dataset, with_graph=False, with_observations=False)
    _, tree = write_page(dataset, tmp_path / "bare.html", bare, metrics_of(bare) | {"graph_in": "none"})
    assert "a model without graph" in "".join(tree.itertext())
    assert len(list(tree.iter("article"))) == MAX_STUDIES
    assert not [group for group in tree.iter("g") if "predicted" in group.get("class")]


def scored_studies(**per_study):
    count = len(next(iter(per_study.values())))
    arrays = {name: np.array(values) for name, values in per_study.items()}
    return Evaluation({}, {}, records=[None] * count, per_study=arrays)


def test_best_and_worst_studies_are_chosen_and_others_between_them():
    scores = np.arange(30) / 29
    chosen = choose_studies(scored_studies(report_f1=scores, triple_f1=scores))
    assert len(chosen) == len(dict(chosen)) == MAX_STUDIES
    assert [position for position, why in chosen if "best" in why] == [29, 28, 27]
    assert [position for position, why in chosen if "worst" in why] == [2, 1, 0]
    others = [position for position, why in chosen if "among" not in why]
    assert others == sorted(others) and len(others) == 4 and others[0] < 10 and others[-1] > 20
    assert dict(chosen)[29] == "among the best: report_f1 1.00, triple_f1 1.00"


def test_ties_go_to_the_next_score_and_studies_without_one_are_neither_best_nor_worst():
    report, triple = np.ones(12), np.arange(12) / 11
    report[0] = report[11] = np.nan
    chosen = choose_studies(scored_studies(report_f1=report, triple_f1=triple))
    assert [position for position, why in chosen if "best" in why] == [10, 9, 8]
    assert [position for position, why in chosen if "worst" in why] == [3, 2, 1]


def test_few_studies_are_all_shown_in_order():
    assert [position for position, _ in choose_studies(scored_studies(report_f1=[0.5, 1.0, 0.0]))] == [0, 1, 2]
    assert choose_studies(Evaluation({}, {}, records=[])) == []
    assert len(choose_studies(Evaluation({}, {}, records=[None] * 299))) == MAX_STUDIES


# In a browser

PROBE = """
<script>
document.querySelectorAll("details").forEach(each => { each.open = true; });
const study = [...document.querySelectorAll(".study")].find(each =>
    each.querySelectorAll("g.predicted").length > 3 && each.querySelector("g.reference"));
const sentence = study.querySelector(".sentence");
const regions = [...sentence.classList].map(name => name.replace("looks", "region"));
const opacity = name => [...study.querySelectorAll(".image g.predicted")]
    .filter(box => [...box.classList].some(each => regions.includes(each) && each.startsWith("region"))
        === (name === "attended"))
    .map(box => Number(getComputedStyle(box).opacity));
const referenceShown = () => getComputedStyle(study.querySelector(".image g.reference")).display !== "none";
const before = opacity("attended").concat(opacity("others"));
sentence.focus();
const measured = {
    width: innerWidth, overflow: document.documentElement.scrollWidth - innerWidth,
    before: before, attended: opacity("attended"), others: opacity("others"), hidden: !referenceShown(),
};
study.querySelector(".show-reference").click();
measured.shown = referenceShown();
measured.plots = [...document.querySelectorAll("svg.plot")].every(plot => plot.getBoundingClientRect().height > 50);
parent.postMessage(JSON.stringify(measured), "*");
</script>
"""
# A browser window cannot be as narrow as a phone, but a frame can.
FRAME = """<!DOCTYPE html><html><body>
<script>onmessage = answer => document.body.append(answer.data);</script>
<iframe src="probed.html" width="WIDTH" height="900" style="border: 0"></iframe>
</body></html>"""


@pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_it_fits_the_screen_and_a_sentence_lifts_out_its_boxes(page, tmp_path, width):
    (tmp_path / "probed.html").write_text(page[1].replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    result = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=1400,1000", "--virtual-time-budget=10000", "--dump-dom", (tmp_path / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=120,
    )
    measured = json.loads(re.search(r"{.*}", result.stdout.split("</iframe>")[1])[0])
    assert measured["width"] == width and measured["overflow"] <= 0
    assert set(measured["before"]) == set(measured["attended"]) == {1}
    assert measured["others"] and max(measured["others"]) < 0.5
    assert measured["hidden"] and measured["shown"] and measured["plots"]
