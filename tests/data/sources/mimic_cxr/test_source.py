"""Preparing MIMIC-CXR, on made-up downloads."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from data.errors import UserError
from data.ontology import observation_names
from data.prepare import main
from data.records import SPLITS, read_records
from data.sources.distributions import search_sources
from data.sources.mimic_cxr.source import MimicSource, Options, find_listing
from data.sources.source import Dropped, Study
from tests.support.images.dicom_files import dicom
from tests.support.sources.mimic_fixture import (
    FULL_SIZE,
    STORED_SIZE,
    TRAPS,
    FixtureStudy,
    MimicFixture,
    random_pixels,
    report_text,
    write_files,
    write_mimic_fixture,
    write_table,
)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> MimicFixture:
    """The three downloads; read-only."""
    return write_mimic_fixture(tmp_path_factory.mktemp("downloads"))


@pytest.fixture(scope="module")
def built(downloads: MimicFixture) -> dict[str, Study | Dropped]:
    """All samples of the three downloads, with default options."""
    return build_all(source(downloads.sources))


def source(paths: list[Path], **options: str) -> MimicSource:
    contents = search_sources(paths)
    return MimicSource("mimic_cxr", paths, contents, find_listing(contents), Options(**options), image_size=64)


def build_all(made: MimicSource) -> dict[str, Study | Dropped]:
    return {plan.id: made.build(plan) for plan in made.plans()}


def test_samples_are_frontal_images_with_their_graph(downloads, built):
    for study in downloads.studies:
        for image in study.images:
            sample = built[image.id]
            if study.trap in ("no findings", "no report", "damaged image", "missing image") or image.view == "LATERAL":
                assert isinstance(sample, Dropped)
                continue
            assert sample.split == {"validate": "val"}.get(study.split, study.split)
            assert sample.report == study.findings
            assert [prepared.view for prepared in sample.images] == [image.view or "PA"]
            assert sample.images[0].pixels.shape == STORED_SIZE[::-1]
            assert (sample.graph is None) == (study.trap in ("no graph", "damaged graph"))


def test_what_is_dropped_says_why(downloads, built):
    reasons = {study.trap: built[study.images[0].id].reason for study in downloads.studies
               if isinstance(built[study.images[0].id], Dropped)}  # fmt: skip
    assert reasons == {
        "lateral": "no frontal image", "no findings": "no findings", "no report": "no report",
        "damaged image": "damaged image", "missing image": "missing image",
    }  # fmt: skip
    warnings = {study.trap: built[study.images[0].id].warnings for study in downloads.studies
                if getattr(built[study.images[0].id], "warnings", ())}  # fmt: skip
    assert warnings == {
        "no graph": ("no scene graph",), "damaged graph": ("damaged scene graph",),
        "few boxes": ("fewer than 5 boxes in the scene graph: left out",),
        "odd graph": ("attributes and phrases of a region differ in number",),
    }  # fmt: skip


def test_boxes_at_full_size_fit_the_smaller_copy(downloads, built):
    study = downloads.studies[len(TRAPS)]
    sample = built[study.images[0].id]
    assert sample.graph["box_source"] == "annotated"
    expected = study.truth["graph"]["regions"]
    assert set(sample.graph["regions"]) == set(expected)
    for region, entry in sample.graph["regions"].items():
        assert entry["box"] == pytest.approx(expected[region]["box"], abs=2e-3)
        changes = {"change": entry.get("change")} if "change" in entry else {}  # the phantom leaves them out
        assert entry | {"box": None} == expected[region] | {"box": None} | changes


def test_odd_graph(downloads, built):
    study = downloads.trap("odd graph")
    regions = built[study.images[0].id].graph["regions"]
    width, height = FULL_SIZE
    assert not {"neck", "unknown", "left cardiac silhouette", "carina", "svc", "trachea", "left clavicle"} & set(
        regions
    )
    assert regions["abdomen"]["box"] == [0, pytest.approx(2500 / height, abs=1e-4), 1, 1]
    assert not regions["abdomen"]["mentioned"]
    assert regions["spine"]["box"] == pytest.approx([1000 / width, 200 / height, 1300 / width, 2800 / height], abs=1e-4)
    assert regions["left lung"]["abnormal"]
    assert "anatomicalfinding|no|pneumothorax" in regions["left lung"]["attributes"]
    assert "anatomicalfinding|yes|pneumothorax" not in regions["left lung"]["attributes"]
    assert regions["right lung"]["attributes"] == ["nlp|yes|normal"]


def test_few_boxes_are_none(downloads, built):
    study = downloads.trap("few boxes")
    regions = built[study.images[0].id].graph["regions"]
    assert regions and all(region["box"] is None for region in regions.values())


def test_observations_come_from_the_table_of_choice(downloads, built):
    study = downloads.studies[len(TRAPS)]
    labels = built[study.images[0].id].observations
    assert labels["Atelectasis"] == -1 and "Cardiomegaly" not in labels and observation_names()[2] not in labels
    assert built[downloads.trap("unlabelled").images[0].id].observations is None
    negbio = build_all(source(downloads.sources, labels="negbio"))
    assert negbio[study.images[0].id].observations == labels | {observation_names()[2]: 0}


def test_label_table_of_the_user(downloads, tmp_path):
    study = downloads.studies[len(TRAPS)]
    write_table(tmp_path / "by_text.csv", ("Reports", *observation_names()), [(study.findings, *["1.0"] * 14)])
    write_table(tmp_path / "by_id.csv", ("id", *observation_names()), [(study.images[0].id, *["0.0"] * 14)])
    for name, value in (("by_text", 1), ("by_id", 0)):
        built = build_all(source(downloads.sources, labels=str(tmp_path / f"{name}.csv")))
        assert built[study.images[0].id].observations == dict.fromkeys(observation_names(), value)
    with pytest.raises(UserError, match="absent.csv"):
        source(downloads.sources, labels=str(tmp_path / "absent.csv"))


def test_study_samples_have_all_images_the_frontal_first(downloads):
    built = build_all(source(downloads.sources, samples="study", views="all"))
    assert len(built) == len(downloads.studies)
    with_lateral = built[f"s{downloads.trap('lateral').id}"]
    assert [image.view for image in with_lateral.images] == [downloads.trap("lateral").images[1].view, "LATERAL"]
    assert with_lateral.graph is not None
    two = downloads.trap("two frontals")
    assert len(built[f"s{two.id}"].images) == 2
    frontal_only = build_all(source(downloads.sources, samples="study"))
    assert len(frontal_only[f"s{downloads.trap('lateral').id}"].images) == 1


def test_lateral_samples_have_no_graph(downloads):
    built = build_all(source(downloads.sources, views="all"))
    lateral = built[downloads.trap("lateral").images[0].id]
    assert [image.view for image in lateral.images] == ["LATERAL"] and lateral.graph is None


def test_sections(downloads):
    study = downloads.trap("no findings")
    assert build_all(source(downloads.sources, section="impression"))[study.images[0].id].report == "No acute process."
    study = downloads.studies[len(TRAPS)]
    both = build_all(source(downloads.sources, section="both"))[study.images[0].id]
    assert both.report == f"{study.findings}\n\nNo acute process."


def test_without_chest_imagenome_graphs_come_from_the_reports(downloads):
    built = build_all(source([downloads.jpg, downloads.reports]))
    sample = built[downloads.studies[len(TRAPS)].images[0].id]
    assert sample.graph["box_source"] == "localizer" and len(sample.graph["regions"]) == 29
    assert any(region["mentioned"] for region in sample.graph["regions"].values())


@pytest.mark.parametrize("depth", [1, 2])
def test_unpacked_distributions_give_the_same(built, tmp_path, depth):
    unpacked = write_mimic_fixture(tmp_path, gzipped=False, zipped=False, depth=depth)
    assert_equal_samples(build_all(source(unpacked.sources)), built)


def assert_equal_samples(some: dict[str, Study | Dropped], others: dict[str, Study | Dropped]) -> None:
    assert list(some) == list(others)
    for sample, other in zip(some.values(), others.values(), strict=True):
        assert type(sample) is type(other)
        if isinstance(sample, Study):
            facts = [(s.split, s.report, s.observations, s.graph, s.warnings) for s in (sample, other)]
            assert facts[0] == facts[1]


def write_r2gen_list(path: Path, studies: list[FixtureStudy]) -> None:
    """Write all images of the `studies` in R2Gen's layout; their reports start with "Cut."."""
    samples = {"train": [], "val": [], "test": []}
    for study in studies:
        samples[{"validate": "val"}.get(study.split, study.split)] += [
            {"id": image.id, "study_id": study.id, "subject_id": study.subject, "report": f"Cut. {study.findings}",
             "image_path": [f"{study.folder}/{image.id}.jpg"], "split": study.split}
            for image in study.images
        ]  # fmt: skip
    path.write_text(json.dumps(samples), encoding="utf-8")


def test_texts_beside_the_report_and_the_order_of_studies(downloads, built):
    sample = built[downloads.studies[len(TRAPS)].images[0].id]
    assert sample.indication == "___ year old with an invented cough."
    assert (sample.comparison, sample.impression) == ("None.", "No acute process.")
    for study in downloads.studies:
        for image in study.images:
            if isinstance(sample := built[image.id], Study):
                assert sample.patient == str(study.subject)
                assert sample.taken == f"2199-01-02T{'00:34:05.25' if study.id % 2 else '21:30:14.5'}"
    both = build_all(source(downloads.sources, section="both"))
    assert all(sample.impression is None for sample in both.values() if isinstance(sample, Study))


def test_priors_are_of_the_same_patient_and_split(downloads, tmp_path):
    out = tmp_path / "prepared"
    command = ["mimic_cxr", *(f"--source={path}" for path in downloads.sources), "--out", str(out), "--workers", "1"]
    assert main([*command, "--image-size", "32"]) == 0
    records = {record["id"]: record for split in SPLITS for record in read_records(out, split)}
    subjects = {image.id: study.subject for study in downloads.studies for image in study.images}
    priors = {name: record["prior"] for name, record in records.items() if record["prior"] is not None}
    assert len(priors) > 3
    for name, prior in priors.items():
        assert subjects[name] == subjects[prior] and records[name]["split"] == records[prior]["split"]
        assert records[prior]["taken"] < records[name]["taken"]
    # The last training study and the first validation study are of one patient.
    last, first = (study.images[0].id for study in downloads.studies[16:18])
    assert records[last]["patient"] == records[first]["patient"] and records[first]["prior"] is None


def test_images_of_one_study_are_no_priors_of_each_other(downloads, tmp_path):
    """Not even if the table gives them different times."""
    table = downloads.jpg / "mimic-cxr-2.0.0-metadata.csv.gz"
    lines = gzip.decompress(table.read_bytes()).decode().splitlines()
    study = downloads.trap("two frontals")
    lines = [line.replace("3405.25", "3406.25") if line.startswith(study.images[1].id) else line for line in lines]
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    built = build_all(source([tmp_path / "mimic-cxr-2.0.0-metadata.csv", *downloads.sources]))
    times = {built[image.id].taken for image in study.images}
    assert times == {"2199-01-02T00:34:05.25" if study.id % 2 else "2199-01-02T21:30:14.5"}


def test_r2gen_annotation_is_a_list_with_reports(downloads, tmp_path):
    write_r2gen_list(tmp_path / "annotation.json", downloads.studies[-7:])
    shutil.copytree(downloads.jpg / "files", tmp_path / "images")
    with pytest.raises(UserError, match="The sources do not state which images are frontal"):
        source([tmp_path])
    tables = [downloads.jpg / f"mimic-cxr-2.0.0-{name}.csv.gz" for name in ("metadata", "chexpert")]
    built = build_all(source([tmp_path, *tables]))
    assert {identity: sample.report for identity, sample in built.items()} == {
        study.images[0].id: f"Cut. {study.findings}" for study in downloads.studies[-7:]
    }
    assert all(sample.graph["box_source"] == "localizer" and sample.observations for sample in built.values())
    unknown = build_all(source([tmp_path], views="all"))
    assert all(sample.graph is None and sample.images[0].view == "" for sample in unknown.values())
    assert all(sample.indication is sample.impression is None for sample in built.values())
    with_reports = build_all(source([tmp_path, *tables, downloads.reports]))
    assert all("invented cough" in sample.indication for sample in with_reports.values())
    assert [sample.report for sample in with_reports.values()] == [sample.report for sample in built.values()]


def test_r2gen_list_is_prepared_with_its_laterals_under_its_name(downloads, tmp_path, capsys):
    lateral, *others = downloads.trap("lateral"), *downloads.studies[-7:]
    write_r2gen_list(tmp_path / "annotation.json", [lateral, *others])
    sources = [tmp_path / "annotation.json", *downloads.sources]
    out = tmp_path / "prepared"
    command = ["mimic_cxr", *(f"--source={path}" for path in sources), "--workers", "1", "--image-size", "32"]
    assert main([*command, "--out", str(out)]) == 0
    records = {record["id"]: record for split in SPLITS for record in read_records(out, split)}
    assert set(records) == {image.id for study in (lateral, *others) for image in study.images}
    assert records[lateral.images[0].id]["views"] == ["LATERAL"] and records[lateral.images[0].id]["graph"] is None
    assert records[others[0].images[0].id]["graph"] is not None
    description = yaml.safe_load((out / "dataset.yaml").read_text(encoding="utf-8"))
    assert description["name"] == "mimic_cxr" and description["list"] == "r2gen"
    expected = {"train": 270_790, "val": 2_130, "test": 3_858}
    assert {split: description["expected"][split] for split in SPLITS} == expected
    printed = capsys.readouterr().out
    assert f"{len(records)} images, list r2gen" in printed and "instead of 270790" in printed

    frontal = tmp_path / "frontal"
    assert main([*command, "--views", "frontal", "--out", str(frontal)]) == 0
    description = yaml.safe_load((frontal / "dataset.yaml").read_text(encoding="utf-8"))
    assert description["list"] == "r2gen, frontal images only" and not set(SPLITS) & set(description["expected"])


def test_lists_are_named_with_what_is_left_out(downloads):
    described = source(downloads.sources).describe()
    assert described["list"] == "mimic-cxr-2.0.0, frontal images only" and described["options"]["views"] == "frontal"
    assert source(downloads.sources, views="all").describe()["list"] == "mimic-cxr-2.0.0"
    by_study = source(downloads.sources, samples="study", views="all").describe()
    assert by_study["list"] == "mimic-cxr-2.0.0, one sample per study"


def test_data_set_prepared_before_lists_had_names_is_kept(downloads, tmp_path, capsys):
    out = tmp_path / "prepared"
    command = [
        "mimic_cxr", *(f"--source={path}" for path in downloads.sources), "--out", str(out), "--workers", "1",
        "--image-size", "32",
    ]  # fmt: skip
    assert main(command) == 0
    description = yaml.safe_load((out / "dataset.yaml").read_text(encoding="utf-8"))
    del description["list"]
    (out / "dataset.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    capsys.readouterr()
    assert main(command) == 0 and "holds this data set already" in capsys.readouterr().out


def test_sources_that_lack_something_are_refused(tmp_path, downloads):
    with pytest.raises(UserError, match="neither mimic-cxr-2.0.0-split.csv.* nor R2Gen's annotation.json"):
        source([downloads.imagenome])
    with pytest.raises(UserError, match="The sources have no images"):
        source([downloads.jpg / "mimic-cxr-2.0.0-split.csv.gz"])
    jpg = tmp_path / "jpg"
    shutil.copytree(downloads.jpg, jpg)
    (jpg / "mimic-cxr-2.0.0-negbio.csv.gz").unlink()
    with pytest.raises(UserError, match="The sources have no mimic-cxr-2.0.0-negbio"):
        source([jpg], labels="negbio")
    (jpg / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    with pytest.raises(UserError, match=r"The sources do not state which images are frontal.*metadata.csv"):
        source([jpg])


def test_dicom_that_needs_a_package_ends_the_preparation(downloads, monkeypatch):
    def fail(path, min_side):
        raise UserError(f"{path} stores its pixels as JPEG Lossless: pip install a package to read it")

    monkeypatch.setattr("data.sources.mimic_cxr.source.read_radiograph", fail)
    made = source(downloads.sources)
    plans = {plan.id: plan for plan in made.plans()}
    with pytest.raises(UserError, match="pip install a package"):
        made.build(plans[downloads.studies[-1].images[0].id])


def test_dicom_tree_tells_views_where_the_table_does_not(tmp_path, downloads):
    study = downloads.studies[-1]
    files = {
        f"files/{study.folder}/{study.images[0].id}.dcm": dicom(random_pixels((40, 30)), ViewPosition="AP"),
        f"files/{study.folder}.txt": report_text("From a DICOM.").encode(),
    }
    write_files(tmp_path, files, None)
    split = downloads.jpg / "mimic-cxr-2.0.0-split.csv.gz"
    sample = build_all(source([tmp_path, split], views="all"))[study.images[0].id]
    assert sample.report == "From a DICOM."
    assert sample.images[0].view == "AP" and sample.images[0].pixels.shape == (30, 40)
    assert sample.graph["box_source"] == "localizer"


def test_png_copies_are_read_too(tmp_path, downloads):
    study = downloads.studies[-1]
    name = f"files/{study.folder}/{study.images[0].id}"
    write_files(tmp_path, {f"files/{study.folder}.txt": report_text("A png.").encode()}, None)
    (tmp_path / name).parent.mkdir()
    Image.fromarray(random_pixels((40, 30))).save(tmp_path / f"{name}.png")
    tables = [downloads.jpg / f"mimic-cxr-2.0.0-{table}.csv.gz" for table in ("metadata", "split")]
    sample = build_all(source([tmp_path, *tables]))[study.images[0].id]
    assert sample.report == "A png." and sample.images[0].pixels.shape == (30, 40)


def test_command(downloads, tmp_path, capsys):
    out = tmp_path / "prepared"
    command = ["mimic_cxr", *(f"--source={path}" for path in downloads.sources), "--out", str(out), "--workers", "1"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "mimic_cxr: scene graphs: Chest ImaGenome, zipped" in printed
    assert "differs: listed train: 19 instead of 368960" in printed
    assert "dropped: no findings: 1" in printed
    assert not any(study.findings[:20] in printed for study in downloads.studies)
    assert [len(read_records(out, split)) for split in ("train", "val", "test")] == [14, 3, 3]
    assert main(command) == 0
    assert "holds this data set already" in capsys.readouterr().out
    assert main([*command, "--section", "both"]) == 1
    assert "options.section" in capsys.readouterr().err
