"""The page of `modules.compare --html`: well-formed, self-contained, and sortable in a browser."""

import csv
import json
import re
import subprocess
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from docs.chromium import MISSING, find_chromium
from modules.compare import main
from modules.evaluation.comparison import ComparedStudies
from modules.evaluation.pages.comparison_page import STUDIES_OF_A_KIND, choose_studies
from tests.support.evaluation.compared_runs import change_rows, read_rows, write_run

CHROMIUM = find_chromium()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of three systems, its tree, and the rows of the CSV table of the same comparison."""
    folder = tmp_path_factory.mktemp("page")
    runs = [write_run(folder / name, accuracy, seed) for seed, (name, accuracy) in enumerate(
        {"middle": 0.6, "good": 0.95, "bad <b>": 0.1}.items())]
    paths = {name: folder / name for name in ("page.html", "table.csv")}
    assert main([*map(str, runs), "--no-meteor", "--resamples", "50", "--workers", "1", "--html",
                 str(paths["page.html"]), "--csv", str(paths["table.csv"])]) == 0
    text = paths["page.html"].read_text(encoding="utf-8")
    with paths["table.csv"].open() as file:
        table = {(row["system"], row["score"]): row for row in csv.DictReader(file)}
    return text, ElementTree.fromstring(text.replace("<!DOCTYPE html>", "")), table


def test_the_page_stands_alone(page):
    text, tree, _ = page
    assert not re.search(r"https?:|<link|<iframe|@import|url\(|src=", text)
    assert "<b>" not in text and "bad <b>" in "".join(tree.itertext())
    assert len(list(tree.iter("script"))) == 1


def test_systems_stand_by_scores_with_intervals(page):
    _, tree, table = page
    systems = next(each for each in tree.iter("table") if each.get("id") == "systems")
    cells = systems.findall("thead/tr/th")
    head = [cell.find("button").text for cell in cells]
    arrows = {cell.find("button").text: cell.find("button").tail.strip() for cell in cells}
    assert (arrows["system"], arrows["bleu_4"]) == ("", "\u2191")
    assert head[:3] == ["system", "bleu_1", "bleu_4"] and "meteor" not in head
    rows = systems.findall("tbody/tr")
    assert [row[0].text for row in rows] == ["middle", "good", "bad <b>"]
    for row in rows:
        for name, cell in zip(head[1:], row[1:], strict=True):
            value = float(cell.get("data-value"))
            assert value == pytest.approx(float(table[row[0].text, name]["value"]), abs=1e-6)
            assert cell.text.strip() == f"{value:.3f}"
            low, high = map(float, re.findall(r"\d+\.\d+", cell[0].text))
            assert low <= value + 5e-4 and value - 5e-4 <= high
    absent = [each.text for each in tree.iter("li") if " is absent: " in each.text]
    assert [text.split()[0] for text in absent] == ["meteor"]


def test_worst_best_and_most_different_studies_stand_side_by_side(page):
    _, tree, _ = page
    headings = [each.text for each in tree.iter("h2")]
    assert headings == ["Systems", "Worst studies", "Best studies", "Most different studies"]
    articles = list(tree.iter("article"))
    assert len(articles) == 3 * STUDIES_OF_A_KIND == len({article[0].text for article in articles})
    for article in articles:
        assert [each.text for each in article.iter("h4")] == ["reference", "middle", "good", "bad <b>"]
        assert sum("report_f1" in (each.text or "") for each in article.iter("p")) == 3


def studies(*values) -> ComparedStudies:
    scores = np.array(values, dtype=float)
    ids = [f"s{number}" for number in range(scores.shape[1])]
    generated = {f"system {number}": ids for number in range(len(scores))}
    return ComparedStudies(ids, ids, generated, {"report_f1": scores})


def test_studies_are_ranked_by_the_mean_over_systems():
    chosen = choose_studies(studies([0.0, 0.2, 0.5, 1.0, np.nan, 0.9], [0.1, 0.2, 0.5, 1.0, 1.0, 0.3]))
    assert chosen == {"Worst": [0, 1, 2], "Best": [3, 5]}
    scores = np.linspace(0, 1, 40)
    chosen = choose_studies(studies(scores, scores + (np.arange(40) == 20) * 0.01))
    assert chosen == {"Worst": [0, 1, 2, 3, 4], "Best": [39, 38, 37, 36, 35], "Most different": [20]}


def test_few_equal_and_unscored_studies():
    assert choose_studies(studies([0.5])) == {"Worst": [0]}
    assert choose_studies(studies([0.5, 0.5], [0.5, 0.5])) == {"Worst": [0], "Best": [1]}
    assert choose_studies(studies([np.nan], [1.0])) == {}
    assert choose_studies(ComparedStudies(["a"], ["a"], {"s": ["a"]}, {})) == {}


def test_one_system_with_groups_and_unusual_characters_has_a_page(tmp_path):
    runs = [change_rows(write_run(tmp_path / name, 0.5, seed, studies=3), generated="a\x0b & <i>")
            for seed, name in enumerate("ab")]
    path = tmp_path / "page.html"
    assert main(["--group", f"all={runs[0]},{runs[1]}", "--scores", "bleu_4", "rouge_l", "--no-meteor", "--resamples",
                 "5", "--workers", "1", "--html", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    tree = ElementTree.fromstring(text.replace("<!DOCTYPE html>", ""))
    assert "±" in text and "A &amp; &lt;i&gt;" in text and "Differences" not in text
    assert len(list(tree.iter("article"))) == len(read_rows(runs[0]))
    assert main([str(runs[0]), "--no-meteor"]) == 1


# In a browser

PROBE = """
<script>
const column = name => [...document.querySelectorAll("#systems thead th")].find(
    each => each.querySelector("button").textContent === name);
const order = () => [...document.querySelectorAll("#systems tbody tr")].map(row => row.children[0].textContent);
const press = name => { column(name).querySelector("button").click(); return order(); };
const texts = document.querySelector(".texts");
const measured = {
    width: innerWidth, overflow: document.documentElement.scrollWidth - innerWidth, before: order(),
    down: press("bleu_4"), sorted: column("bleu_4").getAttribute("aria-sort"), up: press("bleu_4"),
    names: press("system"), marks: document.querySelectorAll("[aria-sort]").length,
    columns: new Set([...texts.children].map(each => Math.round(each.getBoundingClientRect().left))).size,
};
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
def test_in_a_browser_a_heading_sorts_the_systems(page, tmp_path, width):
    (tmp_path / "probed.html").write_text(page[0].replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    result = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=1400,1000", "--virtual-time-budget=10000", "--dump-dom", (tmp_path / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=120,
    )
    measured = json.loads(re.search(r"{.*}", result.stdout.split("</iframe>")[1])[0].replace("&lt;", "<")
                          .replace("&gt;", ">"))
    assert measured["width"] == width and measured["overflow"] <= 0
    assert measured["before"] == ["middle", "good", "bad <b>"]
    assert measured["down"] == ["good", "middle", "bad <b>"] and measured["sorted"] == "descending"
    assert measured["up"] == ["bad <b>", "middle", "good"] and measured["names"] == ["middle", "good", "bad <b>"]
    assert measured["marks"] == 1 and measured["columns"] == (4 if width == 1280 else 1)
