"""A labeling page of thousands of images: its size, and the time to write it and to use it in Chromium.

    python benchmarks/label.py
    python benchmarks/label.py --images 1000 5000

The images are patches of two photographs (``photos``), as files; the encoder is untrained, since neither size nor speed
depends on its weights. In the page, 200 images get one of ten classes. A click then fits the classifier again; a
re-ranking (the button "sort") also orders all images and draws 200. Results are written to
``benchmarks/results/label.json``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record import record

from common.data import build_source, load_images
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.pixels import to_pil
from retouch.labeling.page import write_page
from retouch.labeling.settings import LabelConfig, LabelData

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for the browser of the tests

from tests.browser import chromium

SIDE = 64  # of an image, in pixels
CLASSES, LABELED, CLICKS = 10, 200, 9
LABEL = f"""
for (let c = 0; c < {CLASSES}; c++) addClass("class " + c);
for (let i = 0; i < {LABELED}; i++) labels[i] = i % {CLASSES};
learn();
"""
CLICK = "(() => { const start = performance.now(); thumb().click(); return performance.now() - start; })()"
SORT = "(() => { const start = performance.now(); sort(); show(); return performance.now() - start; })()"
MAP = """(() => {
  element("order").value = "map";
  const start = performance.now();
  sort();
  show();
  element("map").getBoundingClientRect();  // laid out as well
  return performance.now() - start;
})()"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 5000])
    given = parser.parse_args()
    torch.set_num_threads(1)
    record("label", {f"{count} images": measured(count) for count in given.images}, seed=0)


def measured(count: int) -> dict[str, Any]:
    """Seconds to write the page, its size, and milliseconds in the browser: the median of several repetitions."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", count)
        torch.manual_seed(0)
        export_encoder(build_encoder(EncoderConfig(name="small_cnn"), image_size=32), folder / "encoder")
        config = LabelConfig(encoder=folder / "encoder", data=LabelData(source=str(folder / "images"), workers=0))
        started = time.monotonic()
        page = write_page(config, folder / "label.html").path
        seconds = time.monotonic() - started
        with chromium(folder / "profile") as browser:
            started = time.monotonic()
            tab = browser.open(page)
            opened = time.monotonic() - started
            tab.evaluate(LABEL)
            tab.evaluate("const thumb = () => element('images').querySelector('button:not([data-labeled])')")
            tab.evaluate("element('order').value = 'uncertain'; sort(); show()")
            clicks = [tab.evaluate(CLICK) for _ in range(CLICKS)]
            sorts = [tab.evaluate(SORT) for _ in range(CLICKS)]
            drawn = tab.evaluate(MAP)
        return {
            "images": count,
            "page_mb": round(page.stat().st_size / 1e6, 2),
            "write_seconds": round(seconds, 1),
            "open_seconds": round(opened, 2),
            "click_ms": round(median(clicks), 1),
            "rank_ms": round(median(sorts), 1),
            "map_ms": round(drawn, 1),
        }


def write_images(folder: Path, count: int) -> None:
    """Write this many JPEGs."""
    folder.mkdir()
    images = load_images(build_source("photos"), SIDE, limit=count)
    for row in range(count):
        to_pil(images.rows(torch.tensor([row]))[0]).save(folder / f"{row}.jpg", quality=90)


if __name__ == "__main__":
    main()
