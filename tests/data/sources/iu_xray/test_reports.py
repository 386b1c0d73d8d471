"""Reading the reports of Open-i and of Kaggle."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.sources.iu_xray.reports import image_name, parse_open_i, read_kaggle, read_open_i, read_projections
from tests.support.sources.iu_fixture import (
    FINDINGS,
    IMAGES,
    OPEN_I,
    kaggle_files,
    report_xml,
    write_archive,
    write_files,
)


@pytest.mark.parametrize(
    ("file_name", "name"),
    [
        ("CXR9001_IM-9201-1001.png", "CXR9001_IM-9201-1001"),
        ("9001_IM-9201-1001.dcm.png", "CXR9001_IM-9201-1001"),
        ("9001_IM-9201-1001.dcm", "CXR9001_IM-9201-1001"),
        ("CXR9002_IM-9202-0001-0002", "CXR9002_IM-9202-0001-0002"),
        ("1_IM-9101-3001.dcm.png", "CXR1_1_IM-9101-3001"),
        ("CXR1_1_IM-9101-3001.png", "CXR1_1_IM-9101-3001"),
        ("0.png", None),
        ("CXR_IM-1-1.png", None),
        ("CXR9001_IM-٣.png", None),
        ("", None),
    ],
)
def test_names_of_images_are_brought_to_one_form(file_name, name):
    assert image_name(file_name) == name


def test_sections_are_found_by_label_and_empty_ones_stay_empty():
    report = parse_open_i(report_xml(9001, IMAGES[9001], IMPRESSION=" a\n  b ", FINDINGS="x &\ty"), "9001.xml")
    assert (report.number, report.findings, report.impression) == (9001, "x & y", "a b")
    assert report.images == ("CXR9001_IM-9201-1001", "CXR9001_IM-9201-2001")
    empty = parse_open_i(report_xml(9004, [], FINDINGS=None), "9004.xml")
    assert (empty.findings, empty.impression, empty.images) == ("", "", ())


def test_byte_order_mark_is_no_error():
    assert parse_open_i(b"\xef\xbb\xbf" + report_xml(9001, [], FINDINGS="x"), "9001.xml").findings == "x"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "9001.xml is damaged XML"),
        (report_xml(9001, [], FINDINGS="x")[:-5], "9001.xml is damaged XML"),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', "9001.xml is damaged XML"),
        (b"<eCitation/>", "9001.xml: 'uId'"),
        (b'<eCitation><uId id="9001"/></eCitation>', "9001.xml: 'uId'"),
        (report_xml(9001, ["picture"]), "9001.xml: a 'parentImage'"),
        (report_xml(9001, [], FINDINGS="x" * 2_000_000), "9001.xml is too long"),
    ],
)
def test_a_damaged_report_names_file_and_what_it_lacks(content, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_open_i(content, "9001.xml")
    assert "\n" not in str(caught.value)


def test_folder_and_archive_hold_the_same_reports(tmp_path):
    folder = read_open_i(write_files(tmp_path, OPEN_I) / "ecgen-radiology")
    assert list(folder.by_number) == sorted(IMAGES) and folder.damaged == []
    assert read_open_i(write_archive(tmp_path / "NLMCXR_reports.tgz", OPEN_I)) == folder
    assert read_open_i(write_archive(tmp_path / "reports.tar", OPEN_I, "w")) == folder


def test_damaged_reports_are_left_out_and_listed(tmp_path):
    broken = OPEN_I | {
        "ecgen-radiology/9001.xml": b"<eCitation>",
        "ecgen-radiology/9007.xml": report_xml(1, [], FINDINGS="Again."),
    }
    found = read_open_i(write_archive(tmp_path / "NLMCXR_reports.tgz", broken))
    assert 9001 not in found.by_number and found.by_number[1].findings == FINDINGS[1]
    assert len(found.damaged) == 2
    assert "9001.xml is damaged XML" in found.damaged[0] and "report 1 is there twice" in found.damaged[1]


def test_odd_members_of_an_archive_do_no_harm(tmp_path):
    path = tmp_path / "in" / "NLMCXR_reports.tgz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": "é"}) as archive:
        for name, content in {
            "../../9001.xml": OPEN_I["ecgen-radiology/9001.xml"],
            "/" + "long/" * 60 + "9002.xml": OPEN_I["ecgen-radiology/9002.xml"],
            "ecgen-radiology/._9003.xml": b"\0\5\x16\7",
            "ecgen-radiology/readme.txt": b"x",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("9004.xml")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    found = read_open_i(path)
    assert list(found.by_number) == [9001, 9002] and found.damaged == []
    assert sorted(tmp_path.rglob("*.xml")) == []


def test_damaged_archive_is_named(tmp_path):
    path = write_archive(tmp_path / "NLMCXR_reports.tgz", OPEN_I)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="Cannot read the archive .*NLMCXR_reports.tgz"):
        read_open_i(path)


def test_tables_of_kaggle(tmp_path):
    write_files(tmp_path, kaggle_files())
    found = read_kaggle(tmp_path / "indiana_reports.csv")
    assert list(found.by_number) == [number for number in IMAGES if IMAGES[number]]
    assert found.by_number[9001].findings == FINDINGS[9001] and found.by_number[9003].impression == "Normal."
    views = read_projections(tmp_path / "indiana_projections.csv")
    assert views["CXR1_1_IM-9101-3001"] == "LATERAL" and views["CXR9001_IM-9201-1001"] == "FRONTAL"


ROWS = [
    (0, "Nan", "9001.0", "", "No effusion."), (1, "normal", "9002", "Lungs are clear.", "nan"), ("",) * 5,
]  # fmt: skip


@pytest.mark.parametrize(("separator", "end"), [(",", "\n"), (";", "\r\n"), ("\t", "\r\n")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_that_other_programs_saved_again(tmp_path, separator, end, encoding):
    rows = [("Unnamed: 0", "MeSH", "uid", "impression", "findings"), *ROWS]
    content = "".join(separator.join(map(str, row)) + end for row in rows)
    found = read_kaggle(write_files(tmp_path, {"t.csv": content.encode(encoding)}) / "t.csv").by_number
    assert {number: (report.findings, report.impression) for number, report in found.items()} == {
        9001: ("No effusion.", ""), 9002: ("", "Lungs are clear."),
    }  # fmt: skip


@pytest.mark.parametrize("word", ["nan", "NaN", " NAN ", "None", "null", "N/A", "#N/A", "<NA>", " "])
def test_a_word_for_a_missing_text_is_not_a_text(tmp_path, word):
    table = f'uid,findings,impression\n9001,"{word}",There is nan effusion.\n'
    report = read_kaggle(write_files(tmp_path, {"t.csv": table.encode()}) / "t.csv").by_number[9001]
    assert (report.findings, report.impression) == ("", "There is nan effusion.")


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_kaggle, b"uid,findings\n", "table.csv has no column 'impression'"),
        (read_kaggle, b"uid,findings,impression\nx,y,z\n", "table.csv row 1: 'uid'"),
        (read_kaggle, b"uid,findings,impression\n2.5,y,z\n", "table.csv row 1: 'uid'"),
        (read_kaggle, b"uid,findings,impression\n1,\xff,z\n", "table.csv"),
        (read_projections, b"uid,filename\n", "table.csv has no column 'projection'"),
        (read_projections, b"filename,projection\npicture.png,Frontal\n", "table.csv row 1: 'filename'"),
        (read_projections, b"filename,projection\n2_IM-1-1.dcm.png,Oblique\n", "table.csv row 1: 'projection'"),
    ],
)
def test_a_malformed_table_names_row_and_column(tmp_path, read, content, message):
    with pytest.raises(UserError, match=message):
        read(write_files(tmp_path, {"table.csv": content}) / "table.csv")


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="￾￿"), max_size=20)
labels = st.sampled_from(["FINDINGS", "IMPRESSION", "findings ", "", "OTHER"])


@given(content=st.binary(max_size=80) | st.text(max_size=40).map(str.encode))
@settings(deadline=None)
def test_any_bytes_give_a_report_or_one_line_that_names_the_file(content):
    for candidate in (content, b"<eCitation>" + content + b"</eCitation>"):
        try:
            parse_open_i(candidate, "9001.xml")
        except UserError as error:
            assert "9001.xml" in str(error) and "\n" not in str(error)


@given(number=st.integers(0, 10**9 - 1), sections=st.dictionaries(labels, texts | st.none(), max_size=4))
@settings(deadline=None)
def test_any_text_comes_back_with_single_spaces(number, sections):
    report = parse_open_i(report_xml(number, [], **sections), "x.xml")
    expected = [
        " ".join((text or "").split()) for label, text in sections.items() if label.strip() in ("FINDINGS", "findings")
    ]
    assert report.number == number and report.findings == " ".join(filter(None, expected))
