"""Makes the pictures of the web page that README.md shows, in headless Chromium.

    python -m docs.screenshots --checkpoint results/demo [--out docs]

Needs requirements-dev.txt and Chromium (sudo apt-get install -y chromium).
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from data.errors import UserError
from docs.chromium import MISSING, find_chromium
from modules.inference.demo.page import served
from modules.inference.predictor import Predictor

EXAMPLE = "Effusion, left"
TOLD = "pleural effusion"
DESKTOP = {"width": 1200, "height": 820}
PHONE = {"width": 375, "height": 812}
_MILLISECONDS = 120_000


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 after one line on stderr that says what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="the model that writes the reports")
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="DIR", help="where pictures go (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        for path in take(Predictor(options.checkpoint), options.out):
            print(f"written: {path} ({path.stat().st_size / 1000:.0f} kB)")
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def take(predictor: Predictor, out: Path) -> list[Path]:
    """Write the pictures; returns their paths. Raises UserError where there is no Chromium."""
    chromium = find_chromium()
    if chromium is None:
        raise UserError(MISSING)
    out.mkdir(parents=True, exist_ok=True)
    with served(predictor) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = open_example(browser, address, DESKTOP)
        sentence(page).hover()
        paths = [save(page, out / "demo.png")]
        switch_off(page)
        paths.append(save(page, out / "demo_edited.png"))
        page = open_example(browser, address, PHONE, scale=1.5)
        sentence(page).click()
        paths.append(save(page, out / "demo_phone.png"))
        browser.close()
    return paths


def open_example(browser: Browser, address: str, size: dict[str, int], scale: float = 1) -> Page:
    """The page with the report on the example."""
    page = browser.new_page(viewport=size, device_scale_factor=scale)
    page.set_default_timeout(_MILLISECONDS)
    page.goto(address)
    page.get_by_role("button", name=EXAMPLE, exact=True).click()
    page.locator(".sentence").first.wait_for()
    return page


def sentence(page: Page) -> Locator:
    """The sentence that tells the finding, or the first one."""
    telling = page.locator(".sentence").filter(has_text=TOLD)
    return telling.first if telling.count() else page.locator(".sentence").first


def switch_off(page: Page) -> None:
    """Take all attributes from the abnormal regions, and wait for the report."""
    page.evaluate("""() => {
        const regions = [...document.querySelectorAll(".region:has(.tag)")];
        const given = regions.flatMap((region) => [...region.querySelectorAll(".chip[aria-pressed=true]")]);
        const click = (key) => document.querySelector(`[data-key="${CSS.escape(key)}"]`).click();
        given.map((chip) => chip.dataset.key).forEach(click);
    }""")
    page.locator(".study[aria-busy=false]").wait_for()
    page.locator(".graph-head").evaluate("head => head.scrollIntoView({ block: 'center' })")
    page.mouse.move(0, 0)


def save(page: Page, path: Path) -> Path:
    """A screenshot of what is in sight."""
    page.wait_for_function("!document.querySelector('#viewer .pending')")
    page.wait_for_timeout(300)  # until what fades has faded
    with Image.open(io.BytesIO(page.screenshot())) as image:
        image.convert("RGB").save(path, optimize=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
