"""Takes the pictures of docs/explorer.md anew: ``python docs/tour.py demo`` (needs playwright and chromium)."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from seglens.explorer.serving import explore
from seglens.runs import Run
from seglens.semantics.atlas import LatentAtlas

PICTURES = Path(__file__).parent / "images"
SEGMENTER, OTHER = "adult", "pediatric"
TURNED = 5
MAX_WAIT_MS = 120_000
WEBGL = ["--enable-unsafe-swiftshader"]
"""Draws volumes where there is no graphics card."""


def main(run: Path) -> None:
    """Walk through a finished demo.

    Args:
        run: its folder.
    """
    atlas = LatentAtlas.read(Run(run).artifact(f"atlas/{SEGMENTER}"))
    lesion = atlas.table.sort("inside", descending=True, nulls_last=True).head(50).sort("mass", descending=True)
    latent = lesion["latent"][0]
    exploration = explore(run)
    base = exploration.address.split("/?")[0]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", *WEBGL])
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.set_default_timeout(MAX_WAIT_MS)
        page.goto(exploration.address)

        def shot(name: str, path: str, *, wait: str = "h1") -> None:
            page.goto(base + path)
            page.wait_for_selector("body[data-state=ready]")
            page.wait_for_selector(wait)
            page.screenshot(path=PICTURES / f"explorer-{name}.png")

        shot("overview", "/")
        shot("latents", f"/latents/{SEGMENTER}", wait=".long-row")
        shot("latent", f"/latents/{SEGMENTER}/{latent}", wait="text=Dice with it")
        shot("map", f"/map/{SEGMENTER}", wait="canvas")
        page.goto(f"{base}/latents/{SEGMENTER}/{latent}")
        place = page.get_attribute(".gallery a >> nth=0", "href").split("?")[0]
        page.goto(f"{base}{place}?segmenter={SEGMENTER}&latents={','.join(map(str, lesion['latent'][:TURNED]))}")
        page.wait_for_selector("body[data-state=ready]")
        page.fill("#value", "-1")
        page.wait_for_selector("text=pixels differ")
        page.screenshot(path=PICTURES / "explorer-case.png", full_page=True)
        shot("volume", place.replace("/case/", "/volume/"), wait="#here a")
        shot("compare", f"/compare/{SEGMENTER}/{OTHER}", wait=".long-row button")
        page.click(".long-row button >> nth=0")
        page.wait_for_selector(".pictures canvas >> nth=1")
        page.screenshot(path=PICTURES / "explorer-compare.png")
        browser.close()
    exploration.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
