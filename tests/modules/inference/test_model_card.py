"""Names of others in a model card are shown as they are."""

import dataclasses
import re

import yaml

from modules.inference.model_card import model_card
from tests.support.tested_run import METRICS
from tests.support.tiny_model import tiny_config, tiny_vocabularies

NAME = "x`]\n# Title\n[link](javascript:1) <script>alert(1)<script> ```"


def test_names_cannot_add_markup():
    config = tiny_config("model.graph_in=decoder")
    config = dataclasses.replace(config, name=NAME, data=dataclasses.replace(config.data, root=NAME))
    _, front, text = model_card(config, tiny_vocabularies(), METRICS | {"dataset": NAME}).split("---\n", 2)
    assert yaml.safe_load(front)["model-index"][0]["name"] == NAME
    lines = text.splitlines()
    assert lines[1] == r"# x\`\] \# Title \[link\](javascript:1) \<script\>alert(1)\<script\> \`\`\`"
    assert "# Title" not in lines
    assert "Trained on `x'] # Title [link](javascript:1) <script>alert(1)<script> '''`" in text
    outside_code = re.sub(r"(?<!\\)`[^`\n]*`", "", text)
    assert "[link]" not in outside_code and "<script>" not in outside_code


def test_a_model_with_context_says_what_it_reads_and_that_its_programs_do_not():
    text = model_card(tiny_config("model.context=[indication,prior]"), tiny_vocabularies(), None)
    assert "It also reads the indication and the previous image of a study" in text
    assert '--indication "Fever." --prior earlier.png' in text and "These programs read the images alone" in text
    report = model_card(tiny_config("model.context=[prior]", "model.prior_report=true"), tiny_vocabularies(), None)
    assert "It also reads the previous image and the previous report of a study, as far as they are given." in report
    assert "--prior earlier.png --prior-report earlier.txt" in report
    alone = model_card(tiny_config(), tiny_vocabularies(), None)
    assert "also reads" not in alone and "--prior" not in alone and "images alone" not in alone
