"""Take the README's picture of an HTML report: ``python docs/screenshot.py report.html out.png``.

Needs Chromium and the extra ``browser``; ``tox -e screenshot`` makes the report as well.
"""

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1100, 1700
MOST_BYTES = 300_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def take(report: Path, picture: Path) -> None:
    """Open the report and save what stands first in it.

    Raises:
        SystemExit: if there is no browser, or the picture is too large for a README.
    """
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise SystemExit("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, as whom containers run.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=browser, args=arguments)
        page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        page.wait_for_selector("html[data-figures=drawn]")
        page.screenshot(path=picture)
        chromium.close()
    size = picture.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{picture} has {size} bytes, more than {MOST_BYTES}")


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]))
