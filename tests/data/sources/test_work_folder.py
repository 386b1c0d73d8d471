"""The folder of unfinished work: it is locked, and resumed only with the same settings."""

import multiprocessing

import pytest

from data.errors import UserError
from data.sources.preparation import prepare
from tests.support.sources.toy_source import SIDE, ToySource, folder_content, prepare_interrupted, wait_until

pytestmark = pytest.mark.usefixtures("small_parts")


def test_damaged_settings_are_told(tmp_path):
    prepare_interrupted(tmp_path / "toy")
    for text in ("", "[", "[]"):
        (tmp_path / ".toy.unfinished/settings.yaml").write_text(text, encoding="utf-8")
        message = r"settings\.yaml is damaged \(not a YAML mapping\): delete the folder .*\.toy\.unfinished"
        with pytest.raises(UserError, match=message):
            prepare(ToySource(34), tmp_path / "toy", SIDE, 1)


def test_other_settings_do_not_mix_with_what_was_begun(tmp_path, expected):
    out = tmp_path / "toy"
    prepare_interrupted(out)
    message = r"\.toy\.unfinished holds an interrupted preparation with different settings \(image_size\)"
    with pytest.raises(UserError, match=message):
        prepare(ToySource(34), out, SIDE + 1, 1)
    with pytest.raises(UserError, match=r"different settings \(options.section\)"):
        prepare(ToySource(34, options={"section": "both"}), out, SIDE, 1)
    prepare(ToySource(34), out, SIDE, 1)
    assert folder_content(out) == expected


def test_two_processes_do_not_prepare_the_same(tmp_path):
    out = tmp_path / "toy"
    slow = ToySource(34, pause=0.2)
    process = multiprocessing.get_context("fork").Process(target=prepare, args=(slow, out, SIDE, 1))
    process.start()
    try:
        wait_until((tmp_path / ".toy.unfinished/settings.yaml").exists)
        with pytest.raises(UserError, match="Another process is preparing .*toy"):
            prepare(ToySource(34), out, SIDE, 1)
    finally:
        process.kill()
        process.join()
