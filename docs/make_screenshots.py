"""Take the pictures of a study's report that are in the documentation.

Usage: ``python docs/make_screenshots.py quick/report.html [docs/images]``

Needs Chromium (the commands chromium, chromium-browser or google-chrome) and Pillow, which comes
with Matplotlib. Nothing is loaded from a network. No test runs this.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

SECTION = "differences"
GAP = 24
# Name, width and height of a window, device pixels a CSS pixel, pictures beside each other.
DEVICES = (("desktop", 1440, 860, 1, False), ("phone", 390, 844, 2, True))
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--virtual-time-budget=20000",
)  # fmt: skip


def frames(report: Path, width: int, height: int, beside: bool) -> str:
    """Write a page of two windows onto the report: its beginning, and a section with a figure."""
    frame = f'width="{width}" height="{height}" style="border: 0; display: block; flex: none"'
    sources = (report.as_uri(), f"{report.as_uri()}#{SECTION}")
    return (
        f'<body style="margin: 0; background: #d5dae0; display: flex; gap: {GAP}px;'
        f' flex-direction: {"row" if beside else "column"}">'
        + "".join(f'<iframe src="{source}" {frame}></iframe>' for source in sources)
    )


def take(chromium: str, report: Path, target: Path, device: tuple[int, int, int, bool]) -> None:
    """Take one picture, and reduce it to 128 colours."""
    width, height, scale, beside = device
    size = (2 * width + GAP, height) if beside else (width, 2 * height + GAP)
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder) / "page.html", Path(folder) / "shot.png"
        page.write_text(frames(report, width, height, beside), encoding="utf-8")
        subprocess.run(
            [chromium, *OPTIONS, f"--user-data-dir={folder}/profile", f"--screenshot={shot}",
             f"--window-size={size[0]},{size[1]}", f"--force-device-scale-factor={scale}",
             page.as_uri()],
            check=True,
        )  # fmt: skip
        with Image.open(shot) as image:
            image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(target, optimize=True)


def main(report: Path, folder: Path) -> None:
    """Take the pictures of all devices."""
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        sys.exit(f"error: none of {', '.join(names)} is installed")
    for name, *device in DEVICES:
        take(chromium, report.resolve(), folder / f"study-report-{name}.png", tuple(device))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images"))
