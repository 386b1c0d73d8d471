"""Chest ImaGenome with MIMIC-CXR's images and reports, on made-up downloads."""

import shutil

import pytest

from data.errors import UserError
from data.prepare import main
from data.records import read_records
from data.sources.chest_imagenome.source import find_listing
from data.sources.distributions import search_sources
from data.sources.mimic_cxr.source import MimicSource, Options
from data.sources.source import Dropped
from tests.support.sources.mimic_fixture import MimicFixture, write_mimic_fixture


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> MimicFixture:
    """The three downloads; read-only."""
    return write_mimic_fixture(tmp_path_factory.mktemp("downloads"))


def test_only_listed_images_with_a_graph_are_samples(downloads):
    contents = search_sources(downloads.sources)
    source = MimicSource("chest_imagenome", downloads.sources, contents, find_listing(contents),
                         Options(graph_required=True), 64)  # fmt: skip
    built = {plan.id: source.build(plan) for plan in source.plans()}
    assert downloads.trap("lateral").images[0].id not in built
    reasons = {study.trap: built[study.images[-1].id].reason for study in downloads.studies
               if isinstance(built[study.images[-1].id], Dropped)}  # fmt: skip
    assert reasons == {
        "no findings": "no findings", "no report": "no report", "damaged image": "damaged image",
        "missing image": "missing image", "no graph": "no scene graph", "damaged graph": "damaged scene graph",
        "avoided": "in images_to_avoid.csv",
    }  # fmt: skip
    assert len(source) == len(built) == len(downloads.studies) + 1
    assert source.describe()["found"] == {"listed train": 18, "listed val": 3, "listed test": 3}
    assert source.describe()["expected"] == {"listed train": 166_521, "listed val": 23_953, "listed test": 47_393}


def test_without_metadata_views_come_from_the_list_and_sizes_from_the_graphs(downloads, tmp_path):
    jpg = tmp_path / "jpg"
    shutil.copytree(downloads.jpg, jpg)
    (jpg / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    contents = search_sources([jpg, downloads.reports, downloads.imagenome])
    source = MimicSource("x", [], contents, find_listing(contents), Options(graph_required=True), 64)
    study = downloads.studies[-1]
    sample = next(source.build(plan) for plan in source.plans() if plan.id == study.images[0].id)
    assert sample.images[0].view == study.images[0].view
    for region, entry in sample.graph["regions"].items():
        assert entry["box"] == pytest.approx(study.truth["graph"]["regions"][region]["box"], abs=0.02)


def test_command(downloads, tmp_path, capsys):
    out = tmp_path / "prepared"
    command = ["chest_imagenome", *(f"--source={path}" for path in downloads.sources), "--out", str(out)]
    assert main([*command, "--workers", "1"]) == 0
    printed = capsys.readouterr()
    assert "images and splits: train.csv, valid.csv, test.csv of Chest ImaGenome" in printed.out
    assert not any(study.findings[:20] in printed.out + printed.err for study in downloads.studies if study.findings)
    assert "images, list chest_imagenome\n" in printed.out
    records = [read_records(out, split) for split in ("train", "val", "test")]
    assert [len(split) for split in records] == [11, 3, 3]
    assert all(record["graph"]["box_source"] == "annotated" for split in records for record in split)


def test_sources_that_lack_something_are_refused(downloads):
    with pytest.raises(UserError, match=r"no splits/train.csv.*silver_dataset"):
        find_listing(search_sources([downloads.jpg]))
    splits = downloads.imagenome / "silver_dataset/splits"
    with pytest.raises(UserError, match=r"have no scene graphs: .*scene_graph.zip"):
        contents = search_sources([downloads.jpg, splits])
        MimicSource("x", [], contents, find_listing(contents), Options(graph_required=True))
