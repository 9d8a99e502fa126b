"""The report: one safe file whose numbers are the data's and whose gaps say "not measured"."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_factory import VERSIONS, report_data

from fivefold.errors import DataError
from fivefold.web import charts, text
from fivefold.web.report import render
from fivefold.web.sections.findings import cause_sentence

VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}
EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>\u202egnp.exe\u200b'
SECTIONS = [
    "verdict",
    "numbers",
    "gate",
    "heat",
    "cases",
    "findings",
    "probe",
    "training",
    "guard",
    "judge",
    "card",
    "provenance",
    "limits",
]


class Page(HTMLParser):
    """A strict reader: tags must balance; keeps elements, ids and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        where = self.open[-1] if self.open else ""
        self.inside.setdefault(where, []).append(data)
        if where not in ("script", "style") and data.strip():
            self.texts.append(" ".join(data.split()))

    @property
    def ids(self) -> list[str]:
        return [a["id"] or "" for _, a in self.elements if "id" in a]


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return report_data()


@pytest.fixture(scope="module")
def html(data: dict[str, Any]) -> str:
    return render(data)


def case_block(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="case-data">(.*?)</script>', html, re.S)
    assert found
    return json.loads(found[1])


def test_html_is_well_formed_with_unique_ids_and_every_section_in_order(html: str) -> None:
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    assert [i for i in page.ids if i in SECTIONS] == SECTIONS
    links = [a["href"] for tag, a in page.elements if tag == "a"]
    assert links and all(href and href.startswith("#") and href[1:] in page.ids for href in links)


def test_headings_tables_and_images_are_named(html: str) -> None:
    page = Page(html)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("h1") == 1
    assert tags.count("caption") == tags.count("table") > 10
    labelled = {a.get("aria-labelledby") for tag, a in page.elements if tag == "section"}
    assert labelled <= set(page.ids)
    for tag, a in page.elements:
        if tag == "svg":
            assert a.get("aria-hidden") == "true" or a.get("class") == "chart"
        if tag == "th":
            assert a.get("scope") in ("row", "col", "colgroup")


def test_nothing_is_loaded_from_anywhere(html: str) -> None:
    assert not re.search(r"""(?:src|href|action|data|poster|srcset)\s*=\s*["']?\s*(?:https?:)?//""", html, re.I)
    page = Page(html)
    assert not {"link", "img", "iframe", "object", "embed", "base", "use"} & {tag for tag, _ in page.elements}
    style = "".join(page.inside["style"])
    assert "url(" not in style and "@import" not in style
    assert not any(name.startswith("on") or name == "style" for _, a in page.elements for name in a)


def test_policy_names_exactly_the_style_and_the_script(html: str) -> None:
    page = Page(html)
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and policy.startswith("default-src 'none'") and "unsafe" not in policy
    for content in (
        re.findall(r"<style>(.*?)</style>", html, re.S)[0],
        re.findall(r"<script>(.*?)</script>", html, re.S)[0],
    ):
        wanted = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{wanted}'" in policy
    assert len(re.findall(r"<script[ >]", html)) == 2


def test_script_makes_no_markup() -> None:
    script = (Path(charts.__file__).parent / "templates" / "report.js").read_text(encoding="utf-8")
    for dangerous in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "fetch("):
        assert dangerous not in script


def poison(value: Any) -> Any:
    """Every free text of the data replaced by hostile text; keys, choices and numbers stay."""
    choices = {"kind", "decision", "status", "severity", "basis", "group", "safer", "unit", "metric"}
    ours = {"subject_name", "name", "a", "b", "created_at", "decided_at", "language", "suite", "fingerprint", "subject"}
    if isinstance(value, dict):
        return {k: v if k in choices | ours else poison(v) for k, v in value.items()}
    if isinstance(value, list):
        return [poison(v) for v in value]
    return EVIL + value if isinstance(value, str) else value


def test_hostile_text_stays_text_everywhere() -> None:
    found = report_data(behaviours=6)
    found["model"]["name"] = EVIL
    hostile = render(poison(found))
    page = Page(hostile)
    assert sum(tag == "script" for tag, _ in page.elements) == 2
    assert "img" not in {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert "\u202e" not in hostile and "\u200b" not in hostile
    assert any("\u27e8U+202E\u27e9gnp.exe\u27e8U+200B\u27e9" in t for t in page.texts)
    prompts = [c["prompt"] for c in case_block(hostile)["cases"] if c["prompt"]]
    assert prompts and all(p.startswith(EVIL) for p in prompts)


def test_hostile_keys_cannot_leave_their_place() -> None:
    found = report_data(behaviours=4)
    found["transcripts"] = {EVIL + k: v for k, v in found["transcripts"].items()}
    found["heatmap"] = {EVIL: found["heatmap"]["base"]}
    found["guard"]["rows"][0][EVIL] = 1
    found["findings"][0]["cause"] = {EVIL: EVIL}
    found["findings"][0]["id"] = EVIL
    found["training"]["examples"] = {EVIL: 3}
    page = Page(render(found))
    assert sum(tag == "script" for tag, _ in page.elements) == 2 and "img" not in {t for t, _ in page.elements}


def test_lone_surrogates_do_not_break_the_file(data: dict[str, Any]) -> None:
    found = report_data(behaviours=3)
    first = next(iter(found["transcripts"].values()))
    first["answers"]["base"]["text"] = "half \ud83d"
    found["limits"] = ["half \udc00"]
    page = render(found)
    assert "\u27e8U+DC00\u27e9" in page
    assert "half \\ud83d" in page.encode("utf-8").decode("utf-8")


@pytest.mark.parametrize("nothing", [{}, "none", "empty"])
def test_missing_data_says_not_measured(nothing: Any, data: dict[str, Any]) -> None:
    if nothing:
        kinds = {list: [], dict: {}, str: ""}
        nothing = {k: None if nothing == "none" else kinds.get(type(v)) for k, v in data.items() if k != "model"}
        nothing["decision"] = None
    html = render(nothing)
    page = Page(html)
    assert [i for i in page.ids if i in SECTIONS] == SECTIONS
    for section in SECTIONS:
        body = html[html.index(f'<section id="{section}"') :].split("</section>")[0]
        if section == "findings" and nothing.get("findings") == []:
            assert "found nothing" in body
        else:
            assert "not measured" in body.lower(), section
        assert not re.search(r">\s*(?:0|0\.0%|None|nan)\s*<", body)


def test_unscored_measurement_is_not_zero(data: dict[str, Any]) -> None:
    m = {**data["measurements"][0], "estimate": None, "low": None, "high": None, "n_scored": 0, "n_errored": 9}
    m["slice"] = {"language": "en"}
    page = Page(render({"measurements": [m]}))
    assert "n = 0, 9 errored" in page.texts
    assert not any(t.startswith("0.0%") for t in page.texts)


def test_numbers_shown_are_the_datas(data: dict[str, Any], html: str) -> None:
    cells = dict(re.findall(r'<td data-label="[^"]*" id="(m-[^"]+)"[^>]*>(.*?)</td>', html, re.S))
    assert len(cells) == len({m["id"] for m in data["measurements"]})
    for m in data["measurements"]:
        shown = " ".join(re.sub(r"<[^>]+>", " ", cells[text.anchor("m", m["id"])]).split())
        signed = m["metric"] == "capability_change"
        estimate = f"{100 * m['estimate']:+.1f} pts" if signed else f"{100 * m['estimate']:.1f}%"
        ends = [f"{100 * m[e]:+.1f}" if signed else f"{100 * m[e]:.1f}" for e in ("low", "high")]
        wanted = f"{estimate} {ends[0]} to {ends[1]}{' pts' if signed else '%'} n = {m['n_scored']}"
        assert shown.startswith(wanted.replace("-", text.MINUS)), (shown, wanted)
        assert (f"{m['n_errored']} errored" in shown) == bool(m["n_errored"])


def test_verdict_comes_first_with_owner_and_next_measurement(data: dict[str, Any], html: str) -> None:
    page = Page(html)
    assert "".join(page.inside["h1"]).strip() == "Ship with safeguards"
    top = html[html.index('<section id="verdict"') : html.index('<section id="numbers"')]
    for wanted in (
        data["decision"]["owner"],
        "About 22 more cases",
        "6 passed, 1 waived",
        "needs its guards at run time",
    ):
        assert wanted in top


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("ship", "Ship"),
        ("block", "Do not ship"),
        ("undecided", "Undecided"),
        ("ship_with_safeguards", "Ship with safeguards"),
    ],
)
def test_every_decision_has_its_headline(kind: str, words: str) -> None:
    html = render({"decision": {"decision": kind, "reasons": ["because"]}})
    assert "".join(Page(html).inside["h1"]).strip() == words and "no owner is named" in html


def test_gate_table_shows_every_verdict_and_waiver(data: dict[str, Any], html: str) -> None:
    section = html[html.index('<section id="gate"') : html.index('<section id="heat"')]
    kinds = [g["verdict"]["kind"] for g in data["decision"]["gates"]]
    for kind in ("pass", "fail", "undecided", "waived"):
        assert section.count(f"badge b-{kind}") == 2 * kinds.count(kind)
    assert "Waived by R. Okafor until 2026-02-28" in section


def test_heat_map_cells_carry_counts_and_find_their_cases(data: dict[str, Any], html: str) -> None:
    cells = case_block(html)["cells"]
    rows = [r for v in VERSIONS for r in data["heatmap"].get(v, [])]
    assert len(cells) == len(rows)
    assert sorted(c["note"].split(" behaviours")[0] for c in cells) == sorted(
        f"{r['successes']} of {r['n']}" for r in rows
    )
    assert all(c["cases"] for c in cells)
    fractions = re.findall(r"<small>(\d+/\d+)\*?</small>", html)
    assert sorted(fractions) == sorted(f"{r['successes']}/{r['n']}" for r in rows)


def test_flips_are_those_of_the_comparisons(data: dict[str, Any], html: str) -> None:
    block = case_block(html)
    shown = {(c["id"], block["pairs"][p]["title"], way) for c in block["cases"] for p, way, _ in c["flips"]}
    wanted = set()
    for c in data["comparisons"]:
        title = f"Base \u2192 {c['b'].replace('+', ' + ')}"
        wanted |= {(i, title, 1) for i in c["to_safer"]} | {(i, title, -1) for i in c["to_worse"]}
    assert shown == wanted and len(wanted) > 50


def test_flipped_case_without_a_transcript_is_kept(data: dict[str, Any]) -> None:
    comparison = {**data["comparisons"][0], "to_safer": ["lost/1"]}
    block = case_block(render({"comparisons": [comparison], "transcripts": {}}))
    assert {k: block["cases"][0][k] for k in ("id", "prompt")} == {"id": "lost/1", "prompt": None}


def test_newest_measurement_counts_and_the_raw_one_stands_beside_the_corrected(data: dict[str, Any]) -> None:
    old = {**data["measurements"][0], "estimate": 0.111, "id": "old"}
    new = {**old, "estimate": 0.222, "id": "new"}
    fixed = {**old, "estimate": 0.333, "id": "fixed", "corrects": "new"}
    html = render({"measurements": [old, new, fixed]})
    assert "11.1%" not in html and "22.2%" in html and "33.3%" in html
    assert html.count("corrected for the judge&#39;s error") + html.count("corrected for the judge's error") == 1


def test_cause_is_one_sentence_and_honest() -> None:
    told = {"concept": "harmfulness", "layer": 17, "projection": -0.21, "percentile": 9, "threshold": 0.41}
    assert cause_sentence(told) == (
        "On the harmfulness direction at layer 17 the prompt lies at \u22120.21, above 9% of plainly harmful prompts, "
        "below the threshold of 0.41."
    )
    assert cause_sentence({"sentence": "It hid."}) == "It hid."
    assert "not measured" in cause_sentence({}) and "not measured" in cause_sentence({"layer": 3})


def test_regressed_finding_does_not_look_verified(data: dict[str, Any]) -> None:
    finding = {**data["findings"][0], "status": "regressed", "history": [["open", "r1", ""], ["verified", "r2", ""]]}
    html = render({"findings": [finding]})
    life = re.search(r'<span class="life".*?</summary>', html, re.S)
    assert life and "regressed" in life[0] and "verified" not in life[0]


def test_malformed_data_is_refused_with_its_place() -> None:
    with pytest.raises(DataError, match=r"measurements\.0\.metric"):
        render({"measurements": [{"estimate": 0.5}]})
    with pytest.raises(DataError, match=r"decision\.decision"):
        render({"decision": {"decision": "maybe"}})
    with pytest.raises(DataError, match="plain JSON"):
        render({"seconds": float("nan")})


def test_charts_draw_what_they_are_given() -> None:
    counts = charts.bins([{"score": s, "group": "benign"} for s in (0.0, 0.0, 1.0)], 0.0, 1 / charts.BINS)
    assert [(c["from"], c["prompts"]) for c in counts] == [(0.0, 2), (1 - 1 / charts.BINS, 1)]
    drawn = charts.loss_chart([{"step": 1, "loss": 2.0, "stage": EVIL}, {"step": 2, "loss": 1.0, "stage": EVIL}])
    assert "<script" not in drawn and "<img" not in drawn and "\u202e" not in drawn and "http" not in drawn


def test_hidden_characters_are_the_same_in_page_and_script() -> None:
    assert text.visible("a\u202eb\u00adc\U000e0041") == "a\u27e8U+202E\u27e9b\u27e8U+00AD\u27e9c\u27e8U+E0041\u27e9"
    assert text.visible("둘째 줄\n三つ\t\u2764\ufe0f") == "둘째 줄\n三つ\t\u2764\ufe0f"
    assert text.hidden_pattern().count("\\u{") == 2 * len(text.HIDDEN_RANGES)


def test_size_and_speed_of_a_full_run(html: str) -> None:
    assert len(html.encode()) < 6_000_000


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium on the path")
def test_a_browser_shows_hostile_transcripts_as_text(tmp_path: Path) -> None:
    found = report_data(behaviours=2)
    case = next(iter(found["transcripts"]))
    found["transcripts"][case]["answers"]["base"]["text"] = EVIL
    path = tmp_path / "report.html"
    path.write_text(render(found), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--dump-dom"]
    command += ["--enable-logging=stderr", f"file://{path}#case:{case.replace('/', '%2F')}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    viewer = done.stdout[done.stdout.index('<dialog id="viewer"') :].split("</dialog>")[0]
    assert "&lt;script&gt;alert" in viewer and "<img" not in viewer
    assert re.search(r'<span class="inv"[^>]*>\u27e8U\+202E\u27e9</span>', viewer)
    assert "CONSOLE" not in done.stderr
