"""Options of metrics on the command line."""

from argparse import ArgumentParser, Namespace

import pytest

from data.errors import UserError
from modules.evaluation.metrics.packages.package_options import (
    add_package_options,
    describe_comparers,
    open_comparers,
    parse_metrics,
)


def test_options_are_added_to_their_metric():
    assert parse_metrics(["bleu", "crimson:provider=hf", "crimson:batch_size=4", "green"]) == {
        "bleu": {}, "crimson": {"provider": "hf", "batch_size": 4}, "green": {}
    }


@pytest.mark.parametrize("text, value", [
    ("4", 4), ("0.5", 0.5), ("true", True), ("a=b:c", "a=b:c"), ("models/{x}", "models/{x}"), ("[1]", "[1]"),
    ("", ""), ("2024-01-01", "2024-01-01"), ("null", None), ("~", "~"),
])
def test_values_are_numbers_booleans_or_text(text, value):
    assert parse_metrics([f"crimson:model_name={text}"]) == {"crimson": {"model_name": value}}


@pytest.mark.parametrize("name, message", [
    ("chexbert", "unknown metric 'chexbert'; did you mean 'f1chexbert'"), ("bleu:", "NAME:KEY=VALUE"),
    ("bleu:x", "NAME:KEY=VALUE"), ("bleu:=1", "NAME:KEY=VALUE"),
])
def test_what_is_not_an_option_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        parse_metrics([name])


def test_nothing_is_loaded_unless_it_is_asked_for():
    parser = ArgumentParser()
    add_package_options(parser)
    with open_comparers(parser.parse_args([])) as comparers:
        assert comparers == []
        assert describe_comparers(parser.parse_args([]), comparers) == {}


def test_keys_of_web_services_are_not_written_into_results():
    options = Namespace(radeval=["crimson:provider=openai", "crimson:openai_api_key=secret"], radgraph="models")
    (text,) = describe_comparers(options, [Namespace(version="2.2.1")]).values()
    assert text.startswith("RadGraph of models, crimson provider=openai;") and "secret" not in text
