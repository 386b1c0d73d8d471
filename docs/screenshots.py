"""Takes the screenshots of the web page in README.md and docs/context.md, with headless Chromium.

    python -m docs.screenshots --checkpoint results/demo [--out docs]

Of a model that reads priors (model.context=[prior]), only that of docs/context.md is taken, with a previous image.

Needs requirements-dev.txt and Chromium (sudo apt-get install -y chromium).
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from data.errors import UserError
from data.sources.phantom.findings import Finding
from docs.chromium import MISSING, find_chromium
from modules.inference.demo.examples import Example, simulate_example
from modules.inference.demo.page import serve_page

EXAMPLE = "Effusion, left"
FINDING = "pleural effusion"
DESKTOP = {"width": 1200, "height": 820}
PHONE = {"width": 375, "height": 812}
_TIMEOUT_MS = 120_000


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 after an error of one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="the model that generates the reports")
    parser.add_argument(
        "--out", type=Path, default=Path("docs"), metavar="DIR", help="folder of the screenshots (%(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        for path in take_screenshots(options.checkpoint, options.out):
            print(f"written: {path} ({path.stat().st_size / 1000:.0f} kB)")
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def take_screenshots(checkpoint: str | Path, out: Path) -> list[Path]:
    """Write the screenshots to `out` and return their paths.

    Raises UserError if Chromium is not installed or the checkpoint cannot be loaded.
    """
    chromium = find_chromium()
    if chromium is None:
        raise UserError(MISSING)
    out.mkdir(parents=True, exist_ok=True)
    with serve_page(checkpoint) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        if reads_priors(browser, address):
            paths = [save(open_pair(browser, address, DESKTOP), out / "demo_context.png")]
            browser.close()
            return paths
        page = open_example(browser, address, DESKTOP)
        finding_sentence(page).hover()
        paths = [save(page, out / "demo.png")]
        remove_abnormal_attributes(page)
        paths.append(save(page, out / "demo_edited.png"))
        page = open_example(browser, address, PHONE, scale=1.5)
        finding_sentence(page).click()
        paths.append(save(page, out / "demo_phone.png"))
        browser.close()
    return paths


def open_example(browser: Browser, address: str, size: dict[str, int], scale: float = 1) -> Page:
    """Open the page and wait for the report on the example."""
    page = browser.new_page(viewport=size, device_scale_factor=scale)
    page.set_default_timeout(_TIMEOUT_MS)
    page.goto(address)
    page.get_by_role("button", name=EXAMPLE, exact=True).click()
    page.locator(".sentence").first.wait_for()
    return page


def reads_priors(browser: Browser, address: str) -> bool:
    """Whether the page takes a previous image."""
    page = browser.new_page()
    page.set_default_timeout(_TIMEOUT_MS)
    page.goto(address)
    page.locator("#upload").wait_for()
    return page.locator("#prior").count() > 0


def open_pair(browser: Browser, address: str, size: dict[str, int]) -> Page:
    """Open a simulated chest whose effusion has grown and the previous image, and wait for the report on both."""
    before, now = (
        simulate_example(Example("", 3, (Finding("pleural effusion", "left", severity=severity),)))
        for severity in ("mild", "severe")
    )
    page = browser.new_page(viewport=size)
    page.set_default_timeout(_TIMEOUT_MS)
    page.goto(address)
    page.locator("#upload").wait_for()
    for field, content, shown in (("upload", now, ".current img[src]"), ("prior", before, ".prior img[src]")):
        file = {"name": f"{field}.png", "mimeType": "image/png", "buffer": content}
        page.locator(f"#{field} input[type=file]").set_input_files(file)
        page.locator(shown).wait_for()
    page.locator(".xrays").evaluate("images => images.scrollIntoView({ block: 'center' })")
    return page


def finding_sentence(page: Page) -> Locator:
    """The sentence that mentions the finding, or the first one."""
    sentences = page.locator(".sentence").filter(has_text=FINDING)
    return sentences.first if sentences.count() else page.locator(".sentence").first


def remove_abnormal_attributes(page: Page) -> None:
    """Remove the attributes of all abnormal regions, one at a time, waiting for the report after each."""
    chips = page.locator(".region:has(.tag) .chip[aria-pressed=true]")
    for key in chips.evaluate_all("chips => chips.map((chip) => chip.dataset.key)"):
        page.locator(f'[data-key="{key}"]').click()
        page.locator(".study[aria-busy=false]").wait_for()
    page.locator(".graph-head").evaluate("head => head.scrollIntoView({ block: 'center' })")
    page.mouse.move(0, 0)


def save(page: Page, path: Path) -> Path:
    """Save a screenshot of the viewport."""
    page.wait_for_function("!document.querySelector('#viewer .pending')")
    page.wait_for_timeout(300)  # for transitions to end
    with Image.open(io.BytesIO(page.screenshot())) as image:
        image.convert("RGB").save(path, optimize=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
