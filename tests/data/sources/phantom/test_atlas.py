"""The shipped atlas and template agree with the average phantom."""

import numpy as np
import pytest
import yaml

from data.images.lungs import TEMPLATE_FILE
from data.ontology import Anatomy
from data.sources.phantom import atlas as phantom_atlas
from data.sources.phantom.atlas import ANATOMY_FILE, average_chest, main, place_boxes

PATIENTS = 40


@pytest.fixture(scope="module")
def averaged():
    return average_chest(PATIENTS)


def test_the_shipped_boxes_are_the_phantoms(averaged):
    """40 phantoms agree approximately with the 400 from which the files are made."""
    shipped = Anatomy.load()
    again = place_boxes(shipped, averaged[0])
    assert again.names == shipped.names
    np.testing.assert_allclose(again.boxes, shipped.boxes, atol=0.02)


def test_the_shipped_template_is_the_phantoms(averaged):
    content = yaml.safe_load(TEMPLATE_FILE.read_text(encoding="utf-8"))
    shipped = np.array(content["brightness"])
    assert shipped.shape == averaged[1].shape
    assert shipped.min() == 0 and shipped.max() == 99
    assert np.corrcoef(shipped.ravel(), averaged[1].ravel())[0, 1] > 0.99


def test_the_command_rewrites_both_files_below_their_headers(tmp_path, monkeypatch):
    copies = {}
    for name, path in (("ANATOMY_FILE", ANATOMY_FILE), ("TEMPLATE_FILE", TEMPLATE_FILE)):
        copies[name] = tmp_path / path.name
        copies[name].write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(phantom_atlas, name, copies[name])
    assert main(["--patients", "6"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anatomy.yaml", "chest_template.yaml"]
    rewritten = Anatomy.load(copies["ANATOMY_FILE"])
    assert rewritten.names == Anatomy.load().names
    assert rewritten.boxes[:2].equal(Anatomy.load().boxes[:2])  # the lungs are chosen by hand
    assert not rewritten.boxes.equal(Anatomy.load().boxes)
    for name, path in (("ANATOMY_FILE", ANATOMY_FILE), ("TEMPLATE_FILE", TEMPLATE_FILE)):
        key = "regions:\n" if name == "ANATOMY_FILE" else "brightness:\n"
        assert copies[name].read_text().partition(key)[0] == path.read_text(encoding="utf-8").partition(key)[0]
    assert set(yaml.safe_load(copies["TEMPLATE_FILE"].read_text())) == {"lungs", "brightness"}
