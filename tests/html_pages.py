"""A report as a browser sees it: its elements, its text, how it comes out."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
DASH = "\N{EN DASH}"


class Page(HTMLParser):
    """What a browser would make of a page: its elements, its text, its tables."""

    VOID = ("meta", "link", "img", "br", "input", "path", "use")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text("utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(self.source)
        assert not self._open

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def row(self, name: str) -> list[str]:
        return next(row for row in self.rows if row[:1] == [name])


def measure(paths: Sequence[Path], folder: Path) -> tuple[list[dict], str]:
    """Show pages 1280 and 400 pixels wide and ask the browser how they came out.

    Each is shown in a frame of that width, because a window cannot be as narrow.
    """
    frames = "".join(
        f'<iframe width="{width}" height="900" srcdoc="{html.escape(p.read_text())}">'
        "</iframe>"
        for p in paths
        for width in (1280, 400)
    )
    script = """
    const look = frame => {
      const page = frame.contentDocument, inner = [...page.querySelectorAll("iframe")];
      const documents = [page, ...inner.map(one => one.contentDocument)];
      // A viewer without a bar of colours has an empty picture in its place.
      const images = documents.flatMap(one => [...one.images])
        .filter(one => !one.src.endsWith("base64,"));
      const loads = documents.flatMap(one =>
        one.defaultView.performance.getEntriesByType("resource").map(e => e.name));
      return {
        width: frame.contentWindow.innerWidth,
        needed: page.documentElement.scrollWidth,
        images: images.length,
        rows: [...page.querySelectorAll("tbody tr")].map(one => one.innerText),
        links: [...page.querySelectorAll("svg a")].map(one => one.getAttribute("href")),
        broken: images.filter(one => !one.complete || !one.naturalWidth).length,
        loads: loads.filter(name => !name.startsWith("data:")),
        viewers: documents.flatMap(one => [...one.querySelectorAll("canvas")])
          .filter(one => one.width > 100).length,
        tall: inner.filter(one =>
          one.contentDocument.documentElement.scrollHeight > one.clientHeight).length,
      };
    };
    const viewer = (frame, number) => frame.contentDocument
      .querySelectorAll("iframe")[number]?.contentDocument.querySelector("canvas");
    addEventListener("load", () => setTimeout(() => {
      const frames = [...document.querySelectorAll("body > iframe")];
      const before = frames.map(one => viewer(one, 1)?.toDataURL());
      for (const canvas of frames.map(one => viewer(one, 0)).filter(one => one)) {
        const place = canvas.getBoundingClientRect();
        canvas.dispatchEvent(new MouseEvent("click", {
          clientX: place.left + place.width / 10,
          clientY: place.top + place.height / 2,
        }));
      }
      setTimeout(() => {
        const found = frames.map((one, number) => ({
          ...look(one),
          follows: viewer(one, 1)?.toDataURL() !== before[number],
        }));
        document.body.textContent = JSON.stringify(found);
      }, 500);
    }, 500));
    """
    wrapper = folder / "wrapper.html"
    wrapper.write_text(
        f"<!DOCTYPE html><meta charset=utf-8><body>{frames}<script>{script}</script>"
    )
    command = [
        str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu",
        "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}",
        "--window-size=1400,1000", "--virtual-time-budget=20000", "--dump-dom",
        wrapper.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    assert body, done.stderr
    return json.loads(html.unescape(body[1])), done.stderr


def run_script(path: Path, script: str, folder: Path) -> list:
    """Run a script at the end of a page, and return what it puts into `found`."""
    end = f"""<script>
    const found = [];
    {script}
    document.body.textContent = JSON.stringify(found);
    </script></body>"""
    copy = folder / "scripted.html"
    copy.write_text(path.read_text("utf-8").replace("</body>", end), "utf-8")
    command = [
        str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}", "--dump-dom", copy.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    assert body, done.stderr
    return json.loads(html.unescape(body[1]))
