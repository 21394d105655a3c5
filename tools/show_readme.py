"""Shows README.md as a visitor sees it: pictures at the width of a laptop and of a phone.

    python tools/show_readme.py OUT

It needs a Chromium, and Markdown, which comes with `.[test]`. The style is a plain one, close to
that of a repository's page.
"""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import markdown

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "benchmarks"))

from browser import Browser, find_chromium  # noqa: E402

WIDTHS = {"laptop": 1280, "phone": 390}
"""In pixels."""

STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 830px; margin: 32px auto; padding: 0 16px }
h1 { border-bottom: 1px solid #d1d9e0; padding-bottom: 8px }
pre { background: #f6f8fa; padding: 16px; overflow: auto; font-size: 85% }
code { background: #f6f8fa; font-size: 85% }
pre code { font-size: 100% }
table { display: block; width: max-content; max-width: 100%; overflow: auto }
table { border-collapse: collapse }
th, td { border: 1px solid #d1d9e0; padding: 6px 13px }
img { max-width: 100% }
"""


def make_page() -> str:
    """Returns README.md as a page of HTML."""
    text = (REPO / "README.md").read_text(encoding="utf-8")
    body = markdown.markdown(text, extensions=["tables", "fenced_code"])
    return (
        f'<!doctype html><meta charset="utf-8"><base href="{REPO.as_uri()}/">'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>{body}'
    )


def show(out: Path) -> Iterator[tuple[Path, bool]]:
    """Yields each picture that it wrote, and whether the page fits its width."""
    with TemporaryDirectory() as place:
        page = Path(place) / "readme.html"
        page.write_text(make_page(), encoding="utf-8")
        with Browser(Path(place)) as browser:
            for name, width in WIDTHS.items():
                browser.resize(width, 800)
                browser.open(page)
                fits = browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
                found = browser.call("Page.captureScreenshot", captureBeyondViewport=True)
                (out / f"readme-{name}.png").write_bytes(base64.b64decode(found["data"]))
                yield out / f"readme-{name}.png", fits


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for the pictures")
    out: Path = parser.parse_args().out
    if find_chromium() is None:
        sys.exit("error: there is no Chromium on this machine")
    out.mkdir(parents=True, exist_ok=True)
    for path, fits in show(out):
        print(f"{path}{'' if fits else ': the page is wider than the screen'}")


if __name__ == "__main__":
    main()
