"""The page: its data, that nothing in it escapes, and how it behaves in a real browser."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from eventide.bench import TraceSet
from eventide.bench.leaderboard import page_data, render_page, write_page
from eventide.errors import BenchError

from .demo import HOSTILE, demo

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc)


def _block(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found.group(1))


def test_the_data_block_is_the_data() -> None:
    data = demo()
    page = render_page(data, title="demo", now=NOW)
    assert _block(page) == json.loads(json.dumps(page_data(data)))
    assert "made 2026-01-02 03:04 UTC" in page


def test_the_page_is_self_contained() -> None:
    page = render_page(demo(), title="demo", now=NOW)
    outside = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.S)
    assert re.findall(r"https?://[^\s\"']+", outside) == ["http://www.w3.org/2000/svg"]  # a name, not a request
    assert "default-src 'none'" in page and 'name="viewport"' in page

    class Attributes(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert not {"src", "href", "srcset"} & {name for name, _ in attrs}, (tag, attrs)

    Attributes().feed(page)


def test_nothing_escapes_into_markup() -> None:
    page = render_page(demo(), title=f"<b>{HOSTILE}", now=NOW)
    assert HOSTILE not in page and page.count("</script>") == 2
    assert any(HOSTILE in s["sources"][0]["content"] for s in _block(page)["solutions"].values())


def test_non_finite_numbers_are_words() -> None:
    from eventide.bench import Trace

    from .records import TRACE, changed

    record = changed(changed(TRACE, "evaluation.correctness.max_absolute_error", "NaN"), "solution", "s")
    record = changed(record, "evaluation.performance.speedup_factor", "Infinity")
    result = page_data(TraceSet(traces=[Trace.model_validate(record)]))["rows"][0]["results"][0]
    assert (result["abs"], result["speedup"]) == ("NaN", "Infinity")


def test_without_sources() -> None:
    assert all(s["sources"] == [] for s in page_data(demo(), with_sources=False)["solutions"].values())


def test_a_data_set_without_results(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="has no results to show; run `eventide bench run` first"):
        write_page(TraceSet(root=tmp_path), tmp_path / "page.html", title="t")


# ---- in the browser

# appended to the page for the tests: acts like a person, then leaves what it saw in the document's title
_DRIVE = """
<script>
addEventListener("load", () => {
  const seen = { errors: window.__errors ?? [] };
  const rows = () => document.querySelectorAll("#definitions tbody tr").length;
  const pick = (id, value) => { const s = byId(id); s.value = value; s.dispatchEvent(new Event("change")); };
  seen.hardware = [...byId("f-hardware").options].map((o) => o.value);
  seen.rows = rows();
  seen.paths = document.querySelectorAll("#curves path").length;
  seen.legend = byId("curves").innerText;
  pick("f-author", "ada"); seen.ada = rows();
  pick("f-author", ""); pick("f-language", "triton"); seen.triton = rows();
  pick("f-language", ""); pick("f-hardware", "NVIDIA H200");
  seen.h200 = document.querySelector("#definitions tbody tr").innerText;
  byId("f-text").value = "h4096"; byId("f-text").dispatchEvent(new Event("input")); seen.found = rows();
  byId("f-text").value = "nothing like it"; byId("f-text").dispatchEvent(new Event("input"));
  seen.none = byId("definitions").innerText;
  byId("f-text").value = ""; byId("f-text").dispatchEvent(new Event("input"));
  [...document.querySelectorAll("#definitions .link")].find((b) => b.innerText.includes("eve")).click();
  seen.open = byId("detail").open;
  seen.detail = byId("detail-body").innerText;
  seen.pre = [...document.querySelectorAll("#detail-body pre")].map((p) => p.textContent);
  byId("close").click(); seen.closed = !byId("detail").open;
  seen.width = innerWidth;
  seen.overflow = document.documentElement.scrollWidth - innerWidth;
  document.body.replaceChildren(el("pre", { id: "seen" }, JSON.stringify(seen)));
});
</script></body>"""


def _chromium(page: Path, *options: str, size: str = "1200,900") -> str:
    assert CHROMIUM is not None
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--hide-scrollbars", *quiet]
    command += [f"--user-data-dir={page.parent / 'profile'}", f"--window-size={size}", *options, page.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: chromium)")


def _drive(tmp_path: Path) -> dict[str, Any]:
    page = render_page(demo(), title="demo", now=NOW)
    errors = "<head><script>window.__errors = []; addEventListener('error', (e) => __errors.push(e.message));</script>"
    page = page.replace("<head>", errors, 1).replace("</body>", _DRIVE, 1)
    (tmp_path / "page.html").write_text(page)
    found = re.search(r'<pre id="seen">(.*?)</pre>', _chromium(tmp_path / "page.html", "--dump-dom"), re.S)
    assert found is not None, "the page's script did not finish"
    seen: dict[str, Any] = json.loads(html.unescape(found.group(1)))
    return seen


@needs_chromium
def test_the_page_works_in_a_browser(tmp_path: Path) -> None:
    seen = _drive(tmp_path)
    assert seen["errors"] == []
    assert seen["hardware"] == ["AMD EPYC", "NVIDIA H200"]
    assert (seen["rows"], seen["paths"]) == (12, 4)
    assert "ada: fast_1 100%" in seen["legend"] and "grace: fast_1 0%" in seen["legend"]
    assert (seen["ada"], seen["triton"], seen["found"]) == (3, 3, 4)
    assert seen["h200"].startswith("scale_h16384_ada_cuda") and "▲" in seen["h200"]
    assert seen["none"] == "Nothing fits these filters."
    assert seen["open"] and seen["closed"]
    assert "4321" in seen["detail"] and "GB/s" in seen["detail"]
    assert "wall clock of the demo" in seen["detail"] and "5 + 5" in seen["detail"] and "1980" in seen["detail"]
    assert "runtime error" in seen["detail"] and "NVIDIA H200" in seen["detail"]
    assert any(HOSTILE in text and "out of range" in text for text in seen["pre"])  # as text, not as markup
    assert any("def run(x, alpha, y)" in text for text in seen["pre"])
    assert seen["overflow"] <= 0


@needs_chromium
def test_the_page_fits_a_phone(tmp_path: Path) -> None:
    # a frame is as narrow as it is told to be, a headless window is not
    page = html.escape(render_page(demo(), title="demo", now=NOW))
    script = """
      addEventListener("load", () => {
        const inner = frames[0], page = inner.document;
        page.querySelector("#definitions .link").click();
        const dialog = page.getElementById("detail").getBoundingClientRect();
        const seen = {
          inner: inner.innerWidth, scroll: page.documentElement.scrollWidth, dialog: [dialog.left, dialog.right],
          svg: page.querySelector("#curves svg").getBoundingClientRect().right,
          head: inner.getComputedStyle(page.querySelector(".stack thead")).display,
        };
        document.body.replaceChildren(Object.assign(document.createElement("pre"), { id: "seen" }));
        document.getElementById("seen").textContent = JSON.stringify(seen);
      });"""
    frame = f'<iframe width="360" height="740" style="border:0" srcdoc="{page}"></iframe><script>{script}</script>'
    (tmp_path / "frame.html").write_text(f"<!DOCTYPE html><body>{frame}</body>")
    out = _chromium(tmp_path / "frame.html", "--dump-dom")
    found = re.search(r'<pre id="seen">(.*?)</pre>', out, re.S)
    assert found is not None, out[-2000:]
    seen = json.loads(html.unescape(found.group(1)))
    assert seen["inner"] == 360 and seen["scroll"] <= 360 and seen["svg"] <= 360
    assert seen["dialog"][0] >= 0 and seen["dialog"][1] <= 360 and seen["head"] == "none"


@needs_chromium
def test_a_screenshot_is_not_blank(tmp_path: Path) -> None:
    write_page(demo(), tmp_path / "page.html", title="demo", now=NOW)
    shot = tmp_path / "shot.png"
    _chromium(tmp_path / "page.html", f"--screenshot={shot}", "--virtual-time-budget=2000", size="1200,1600")
    # a blank page of this size compresses to a few kilobytes
    assert shot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and shot.stat().st_size > 40_000
