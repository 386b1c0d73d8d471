"""Settings of the data sets: one folder or several."""

from pathlib import Path

import pytest

from data.errors import UserError
from modules.config import config_to_yaml, load_config


@pytest.mark.parametrize(("argument", "roots"), [
    ("data.root=data/one", ["data/one"]), ("data.root=[data/one,data/two]", ["data/one", "data/two"]),
    ("data.root=[data/one]", ["data/one"]), ("data.root=2024", ["2024"]),
])
def test_one_folder_or_several(argument, roots, tmp_path):
    config = load_config(None, [argument, "data.weights=null"])
    assert config.data.roots == tuple(map(Path, roots))
    (tmp_path / "again.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "again.yaml") == config
    assert load_config(tmp_path / "again.yaml", ["data.root=elsewhere"]).data.roots == (Path("elsewhere"),)


def test_a_list_in_a_file(tmp_path):
    (tmp_path / "config.yaml").write_text("data:\n  root: [data/one, data/two]\n  weights: [2, 1.5]\n")
    data = load_config(tmp_path / "config.yaml").data
    assert data.roots == (Path("data/one"), Path("data/two")) and data.weights == [2.0, 1.5]


@pytest.mark.parametrize(("argument", "message"), [
    ("data.root=[]", "must be a folder, or a list of folders"), ("data.root=null", "must be a folder, or a list"),
    ("data.root=[a,[b]]", "must be a folder, or a list"), ("data.root={a: b}", "must be a folder, or a list"),
    ("data.root=[a/x,b/x]", "every folder needs another name"), ("data.weights=[a]", "data.weights"),
    ("data.weights=2", "data.weights"),
])
def test_mistakes_are_named(argument, message):
    with pytest.raises(UserError) as caught:
        load_config(None, [argument])
    assert message in str(caught.value) and "\n" not in str(caught.value)
