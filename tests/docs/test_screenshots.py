"""The screenshots of the web page for the documentation."""

import pytest
from PIL import Image

from docs.chromium import MISSING, find_chromium
from tests.support.context.tiny_context import add_context
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_run import save_tiny_run, write_tiny_run

pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-dev.txt")
pytest.importorskip("playwright", reason="Playwright is not installed: pip install -r requirements-dev.txt")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_run(tmp_path_factory.mktemp("screenshots"), lively=True)[0]


@pytest.mark.timeout(600)  # a browser on a busy machine
@pytest.mark.skipif(find_chromium() is None, reason=MISSING)
def test_pictures_show_the_page_as_it_is_seen(checkpoint, tmp_path):
    from docs import screenshots

    paths = screenshots.take_screenshots(checkpoint, tmp_path / "screenshots")
    sizes = {}
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG" and len(set(image.convert("L").get_flattened_data())) > 50
            sizes[path.name] = image.size
        assert path.stat().st_size < 400_000
    assert sizes == {"demo.png": (1200, 820), "demo_edited.png": (1200, 820), "demo_phone.png": (563, 1218)}


@pytest.mark.timeout(600)
@pytest.mark.skipif(find_chromium() is None, reason=MISSING)
def test_the_picture_of_a_model_with_context_shows_both_images(tmp_path):
    from docs import screenshots

    root = add_context(write_tiny_dataset(tmp_path / "tiny", image_size=32))
    save_tiny_run(tmp_path / "run", root, "model.context=[prior]", lively=True)
    (path,) = screenshots.take_screenshots(tmp_path / "run", tmp_path / "screenshots")
    assert path.name == "demo_context.png" and path.stat().st_size < 400_000
    with Image.open(path) as image:
        assert image.size == (1200, 820) and len(set(image.convert("L").get_flattened_data())) > 50


def test_missing_browser_and_checkpoint_are_one_line(checkpoint, tmp_path, monkeypatch, capsys):
    from docs import screenshots

    assert screenshots.main(["--checkpoint", "nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(screenshots.UserError, match="apt-get install -y chromium"):
        screenshots.take_screenshots(checkpoint, tmp_path)
