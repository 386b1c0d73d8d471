"""The web page, served by an untrained model, and visitors with a real browser."""

import pytest

from docs.chromium import MISSING, find_chromium
from modules.inference.demo import limits
from tests.support.demo_visitor import DESKTOP, TIMEOUT, Visitor, wait_until_no_study_is_in_memory
from tests.support.tiny_run import write_tiny_run


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Serve the page to all tests of a module. The reports of the untrained model differ from image to image."""
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-dev.txt")
    from modules.inference.demo.page import serve_page

    run_folder, _ = write_tiny_run(tmp_path_factory.mktemp("demo"), lively=True)
    with serve_page(run_folder, "cpu") as address:
        yield address
        # So that tests of the next module see their own studies only.
        wait_until_no_study_is_in_memory(limits.UPLOAD_SECONDS + TIMEOUT)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install -r requirements-dev.txt"
    )
    chromium = find_chromium()
    if chromium is None:
        pytest.skip(MISSING)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page as a new visitor, whose browser must not contact other servers or report errors."""
    visitors = []

    def open_page(viewport=DESKTOP):
        visitors.append(Visitor(browser, address, viewport))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        visitor.context.close()
        assert [url for url in visitor.requests if not url.startswith((address, "data:", "blob:"))] == []
        assert visitor.errors == []
