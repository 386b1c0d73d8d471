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
