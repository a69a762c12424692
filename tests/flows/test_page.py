"""The family's page as people use it: in a window, in MLflow's frame, light and dark, with two thousand candidates."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest

from flows.lineage import page
from flows.payoff import payoffs
from search import Candidate, Evaluation
from tests.flows.browser import Browser, cells, centre, pressed, texts
from tests.flows.families import drawing, kin
from tests.flows.test_lineage import probed

PLACE = "http://tracking.example:5000/base/#/experiments/7/runs/"
SECONDS = 2.0  # in which a page of two thousand is to be drawn and to answer
FRAME = """<!doctype html><body style="margin:0"><script>
const frame = document.createElement('iframe');
frame.sandbox = 'allow-scripts';
frame.style = 'width:100vw;height:100vh;border:0;display:block';
frame.src = URL.createObjectURL(new Blob([@@text@@], { type: 'text/html' }));
document.body.append(frame);
</script>"""
Family = tuple[dict[int, Candidate], dict[int, Evaluation]]


@pytest.fixture
def served() -> Iterator[Callable[[Path], str]]:
    """Yields what serves a folder over HTTP and returns its address."""
    with ExitStack() as stack:

        @cache
        def serve(folder: Path) -> str:
            handler = partial(Quiet, directory=str(folder))
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            return f"http://127.0.0.1:{server.server_port}"

        yield serve


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def folk() -> Family:
    return kin(240)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("large") / "large.html"
    written.write_text(page("large", *kin(2000), drawing))
    return written


@pytest.fixture(scope="module")
def file(folk: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("page") / "page.html"
    written.write_text(page("folk", *folk, drawing, {n: run_of(n) for n in folk[1]}, PLACE))
    return written


def run_of(number: int) -> str:
    return f"{number:032x}"


def shown(tab: Browser, file: Path, fragment: str = "", panel: str | None = None) -> None:
    """Opens a page and waits until it is drawn, and until the panel shows what it is to show."""
    tab.open(file, fragment)
    tab.wait("document.body?.dataset.view && (document.body.dataset.ready || location.hash.length > 1)")
    tab.wait(f"document.body.dataset.panel === '{panel}'" if panel else "document.body.dataset.panel")
    assert tab.value("document.body.dataset.error ?? ''") == ""


def line(candidates: Mapping[int, Candidate], number: int) -> list[int]:
    """Returns the line of weights, from the founder on."""
    path = [number]
    while parents := candidates[path[0]].parents:
        path.insert(0, parents[0])
    return path


def cousins(candidates: Mapping[int, Candidate], told: Mapping[int, Evaluation]) -> tuple[int, int, int]:
    """Returns two trained members and their last common ancestor, neither of them being it."""
    good = [n for n in reversed(candidates) if told[n].ok]
    for a in good:
        for b in good:
            both = [n for n in line(candidates, a) if n in line(candidates, b)]
            if both and both[-1] not in (a, b) and len(line(candidates, a)) - len(both) > 1:
                return a, b, both[-1]
    raise AssertionError("the family has no cousins")


def front_of(told: Mapping[int, Evaluation], until: int) -> list[Evaluation]:
    good = [e for n, e in told.items() if n < until and e.ok]
    points = [(e.objectives["error"], e.objectives["parameters"], e.number) for e in good]
    least = [p for p in points if not any(q[:2] != p[:2] and q[0] <= p[0] and q[1] <= p[1] for q in points)]
    first = {p[:2]: p[2] for p in sorted(least, reverse=True)}
    return sorted((told[n] for n in first.values()), key=lambda e: e.objectives["error"])


def area(told: Mapping[int, Evaluation], until: int) -> float:
    """Returns what the front dominates of the square up to the worst that was seen, on a fine grid of its own."""

    def place(e: Evaluation) -> tuple[float, float]:
        return math.log10(e.objectives["parameters"]), math.log10(e.objectives["error"])

    everyone = [place(e) for e in told.values() if e.ok]
    right, top = (max(values) for values in zip(*everyone, strict=True))
    best = [place(e) for e in front_of(told, until)]
    xs = sorted({x for x, _ in best} | {right})
    columns = [(a, b, min((y for x, y in best if x <= a), default=top)) for a, b in pairwise(xs)]
    return sum((b - a) * (top - y) for a, b, y in columns)


def test_two_thousand_candidates_are_drawn_and_answer_a_click_within_two_seconds(tab: Browser, large: Path) -> None:
    tab.look(1600, 1000)
    taken = []
    for _ in range(3):  # the best of three: other programs run on this machine too
        shown(tab, large)
        assert tab.value("document.body.dataset.ready") == "2000"
        before = tab.value("document.body.dataset.panel")
        pressed(tab, "#panel .chips .link")
        tab.wait(f"document.body.dataset.panel !== '{before}'")
        taken.append(tab.value("performance.now() / 1000"))  # since the navigation began
        if taken[-1] < SECONDS:
            break
    assert min(taken) < SECONDS


@pytest.mark.parametrize("view", ["tree", "time", "progress", "front", "edits", "table"])
def test_each_view_of_two_thousand_opens_within_two_seconds(tab: Browser, large: Path, view: str) -> None:
    taken = []
    for _ in range(3):
        tab.open(large, f"#{view}")
        tab.wait(f"document.body?.dataset.view === '{view}' && document.body.dataset.panel")
        taken.append(tab.value("performance.now() / 1000"))
        if taken[-1] < SECONDS:
            break
    assert min(taken) < SECONDS


def test_it_works_in_a_frame_that_may_do_nothing_but_run_scripts_as_mlflow_shows_it(
    tab: Browser, file: Path, tmp_path: Path, served: Callable[[Path], str]
) -> None:
    text = json.dumps(file.read_text()).replace("<", "\\u003c")
    (tmp_path / "outer.html").write_text(FRAME.replace("@@text@@", text))
    tab.look()
    tab.events.clear()
    tab.open(f"{served(tmp_path)}/outer.html")
    with tab.frame():
        tab.send("Runtime.enable")
        tab.send("Network.enable")
        tab.wait("document.body?.dataset.panel")
        seen = tab.value("[origin, document.body.dataset.ready, document.body.dataset.error ?? '']")
        assert seen == ["null", "240", ""]
        number = int(tab.value("document.body.dataset.panel"))
        tab.value("addEventListener('copy', () => (window.copied = String(getSelection())))")
    for view in ("Pareto front", "Edits", "Table", "Timeline"):
        with tab.frame():
            place = centre(tab, "#tabs button", view)
        tab.click(*place)  # in the window, so that the frame must hear of it
        with tab.frame():
            tab.wait(f"document.querySelector('#tabs [aria-selected=true]').textContent === '{view}'")
    with tab.frame():
        place = centre(tab, "#panel button", "Copy address")
    tab.click(*place)
    with tab.frame():
        address = f"{served(tmp_path)}/base/#/experiments/7/runs/{run_of(number)}?workflowType=machine_learning"
        assert tab.wait("window.copied") == address  # under the name by which the reader reached the server
        assert texts(tab, "#panel output") == ["Copied the address: paste it into the browser."]
    asked = {address for address in tab.requests() if not address.startswith(("blob:", "data:", "about:"))}
    icon = f"{served(tmp_path)}/favicon.ico"  # which Chromium asks every server for
    assert asked - {icon} == {f"{served(tmp_path)}/outer.html"}


def test_a_file_shows_the_run_and_copies_its_id(tab: Browser, file: Path) -> None:
    shown(tab, file, "#tree/17", "17")
    assert tab.value("document.querySelector('input.run').value") == run_of(17)
    tab.value("addEventListener('copy', () => (window.copied = String(getSelection())))")
    pressed(tab, "#panel button", "Copy id")
    assert tab.wait("window.copied") == run_of(17)
    assert tab.value("document.querySelectorAll('a, [href]').length") == 0


def test_without_a_run_or_a_server_nothing_is_offered(tab: Browser, folk: Family, tmp_path: Path) -> None:
    (tmp_path / "bare.html").write_text(page("bare", *folk, drawing, {3: run_of(3)}))
    shown(tab, tmp_path / "bare.html", "#3", "3")
    assert [words for words in texts(tab, "#panel button") if words.startswith("Copy")] == ["Copy id"]
    shown(tab, tmp_path / "bare.html", "#4", "4")
    assert tab.value("document.querySelector('input.run')") is None


def test_two_members_are_compared_with_the_edits_on_the_way_between(tab: Browser, file: Path, folk: Family) -> None:
    candidates, told = folk
    a, b, common = cousins(candidates, told)
    shown(tab, file, f"#table/{a}", str(a))
    tab.value(f"document.querySelector('#panel input[type=number]').value = {b}")
    pressed(tab, "#panel .partners button", "Compare")
    tab.wait(f"document.body.dataset.panel === '{a}~{b}'")
    up = [n for n in reversed(line(candidates, a)) if n > common]
    down = [n for n in line(candidates, b) if n > common]
    assert texts(tab, "#panel .path button") == [str(n) for n in (*up, common, *down)]
    words = texts(tab, "#panel .path li > span:last-child")
    for number, said in zip((*up, common, *down), words, strict=True):
        for edit in candidates[number].edits:
            assert edit.rule in said or number == common
    assert words[len(up)].strip() == "common ancestor"
    rows = cells(tab, "#panel .facts tbody tr")
    error = next(row for row in rows if row[0] == "Error")
    mine, other = told[a].objectives["error"], told[b].objectives["error"]
    assert error[1:3] == [f"{mine:.4f}", f"{other:.4f}"]
    assert signed(error[3]) == pytest.approx(other - mine, abs=6e-5)
    assert tab.value("document.querySelectorAll('#panel .chart polyline').length") == 4  # two curves in each of two
    assert tab.value("document.querySelectorAll('#panel figure img').length") == 2


def test_escape_ends_a_comparison_and_shift_begins_one(tab: Browser, file: Path, folk: Family) -> None:
    child = next(n for n in reversed(folk[0]) if folk[0][n].parents)
    parent = folk[0][child].parents[0]
    shown(tab, file, f"#tree/{child}", str(child))
    pressed(tab, "#panel .chips .link", str(parent), shift=True)
    tab.wait(f"document.body.dataset.panel === '{child}~{parent}' && document.body.dataset.compared === '{parent}'")
    assert texts(tab, "#panel .path li > span:last-child")[-1].strip() == "common ancestor"
    tab.press("Escape")
    tab.wait(f"document.body.dataset.panel === '{child}' && document.body.dataset.compared === undefined")


def test_founders_have_no_common_ancestor(tab: Browser, file: Path) -> None:
    shown(tab, file, "#tree/0~1", "0~1")
    assert "None: 0 comes from founder 0, 1 from 1." in texts(tab, "#panel .note")


def test_the_keyboard_compares_too(tab: Browser, file: Path, folk: Family) -> None:
    child = next(n for n in reversed(folk[0]) if folk[0][n].parents)
    shown(tab, file, f"#tree/{child}", str(child))
    tab.value("document.querySelector('#canvas').focus()")
    tab.press("ArrowLeft", shift=True)
    pair = f"{child}~{folk[0][child].parents[0]}"
    tab.wait(f"document.body.dataset.panel === '{pair}'")
    assert tab.value("document.body.dataset.panel") == pair


@pytest.mark.parametrize("until", [1, 12, 60, 240])
def test_the_slider_shows_the_front_as_it_was(tab: Browser, file: Path, folk: Family, until: int) -> None:
    told = folk[1]
    shown(tab, file, "#front")
    slider = "document.querySelector('#until')"
    tab.value(f"{slider}.value = {until}; {slider}.dispatchEvent(new Event('input'))")
    said = tab.value("document.querySelector('#until-value').textContent")
    best = front_of(told, until)
    assert said.startswith(f"After {until} of 240: ")
    if not best:
        assert "no result yet" in said
        return
    assert f"least error {best[0].objectives['error']:.4f}, {len(best)} on the front" in said
    share = re.search(r"(\d+) % of the final area", said)
    assert share is not None
    assert int(share[1]) == pytest.approx(100 * area(told, until) / area(told, 240), abs=0.6)


def test_the_front_that_is_drawn_is_of_those_who_were_there(folk: Family, tmp_path: Path) -> None:
    until = next(n for n in range(60, 240) if front_of(folk[1], n) != front_of(folk[1], n + 1))
    code = f"""
    showTab('front');
    replayTo({until});
    seen.front = [...replay.front].map((m) => m.number);
    draw(performance.now() + 1e4);
    seen.shown = members.filter((m) => m.shown).map((m) => m.number);
    """
    seen = probed(page("folk", *folk, drawing), code, tmp_path)
    assert seen["front"] == [e.number for e in front_of(folk[1], until)]
    assert seen["shown"] == [n for n, e in folk[1].items() if n < until and e.ok]


def test_the_play_button_runs_through_the_front_and_stops_at_the_end(tab: Browser, file: Path) -> None:
    shown(tab, file, "#front")
    pressed(tab, "#play")
    tab.wait("document.querySelector('#play').title === 'Stop'")
    tab.wait("Number(document.querySelector('#until').value) < 240")
    tab.wait(
        "document.querySelector('#play').title === 'Play' && Number(document.querySelector('#until').value) === 240"
    )
    assert tab.value("document.querySelector('#until').value") == "240"


def test_what_edits_were_worth_is_what_the_report_says(tab: Browser, file: Path, folk: Family) -> None:
    shown(tab, file, "#edits")
    rows = cells(tab, "#worth tbody tr")
    expected = payoffs(*folk)
    assert sum(payoff.low is not None for payoff in expected) > 3
    assert len(rows) == len(expected) > 3
    for row, payoff in zip(rows, expected, strict=True):
        assert row[:4] == [payoff.rule, str(payoff.uses), str(payoff.failures), str(payoff.compared)]
        told = [signed(text) for text in (row[4], *row[5].split(" to "), row[7])]
        ends = [payoff.low] if payoff.low is None else [payoff.low, payoff.high]
        assert told == [pytest.approx(value, abs=6e-5) for value in (payoff.mean, *ends, payoff.best)]


def signed(text: str) -> float | None:
    """Returns a number as the page writes it; None for its dash."""
    return None if text == "\u2013" else float(text.replace("\u2212", "-").lstrip("\u00b1"))


def test_an_edit_leads_to_its_children(tab: Browser, file: Path, folk: Family) -> None:
    shown(tab, file, "#edits")
    pressed(tab, "#worth td.words button", "branch")
    tab.wait("document.body.dataset.view === 'tree'")
    count = sum(any(edit.rule == "branch" for edit in candidate.edits) for candidate in folk[0].values())
    assert texts(tab, "#matches") == [f"{count} of 240"]


def test_the_cost_of_ancestors_adds_up_to_that_of_the_lineage(tab: Browser, file: Path, folk: Family) -> None:
    candidates, told = folk
    number = max(candidates, key=lambda n: len(line(candidates, n)))
    shown(tab, file, f"#tree/{number}", str(number))
    parts = tab.value("[...document.querySelectorAll('.shares i')].map((part) => Number(part.style.flexGrow))")
    assert parts[: len(line(candidates, number))] == [
        pytest.approx(told[n].cost["seconds"], rel=1e-4) for n in line(candidates, number)
    ]
    assert sum(parts) == pytest.approx(told[number].cost["lineage_seconds"], rel=1e-4)


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_light_and_dark(tab: Browser, file: Path, dark: bool) -> None:
    tab.look(dark=dark)
    shown(tab, file)
    assert tab.value("document.documentElement.dataset.theme") == ("dark" if dark else "light")
    names = ["card", "ground", "ink", "soft", "accent", "second", "good", "bad"]
    code = f"{json.dumps(names)}.map((n) => getComputedStyle(document.documentElement).getPropertyValue('--' + n))"
    colours = dict(zip(names, map(luminance, tab.value(code)), strict=True))
    for name in names[2:]:
        light, dim = sorted((colours[name], colours["card"]), reverse=True)
        assert (light + 0.05) / (dim + 0.05) >= (4.5 if name in ("ink", "soft", "second", "good", "bad") else 3.0), name


def luminance(colour: str) -> float:
    """Returns the relative luminance of WCAG 2.1 of a colour such as `#fff` or `#17202b`."""
    digits = colour.strip().lstrip("#")
    digits = "".join(d * 2 for d in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("width", [420, 700, 1024, 1600])
@pytest.mark.parametrize("fragment", ["#front/17", "#edits/17", "#tree/100~17"])
def test_no_text_is_cut_and_nothing_hangs_out_of_the_window(
    tab: Browser, file: Path, width: int, fragment: str
) -> None:
    tab.look(width, 900)
    shown(tab, file, fragment)
    assert tab.value("document.documentElement.scrollWidth") <= width
    cut = """[...document.querySelectorAll('header *, nav *, #panel *, #replay *, #worth h2, #worth p')].filter((e) =>
      e.children.length === 0 && e.textContent.trim() && e.clientWidth && !e.closest('.unseen, select, svg, output')
      && e.scrollWidth > e.clientWidth + 1).map((e) => `${e.tagName} ${e.textContent}`)"""
    assert tab.value(cut) == []
    tab.look()


def test_families_without_much_to_show_open_in_every_view(tab: Browser, tmp_path: Path) -> None:
    candidates, told = kin(12)
    failed = {n: Evaluation(n, "killed", reason="out of memory") for n in candidates}
    for name, family in {
        "none": ({}, {}),
        "one": kin(1),
        "failed": (candidates, failed),
        "new": (candidates, {}),
    }.items():
        (tmp_path / f"{name}.html").write_text(page(name, *family, drawing))
        for view in ("tree", "time", "progress", "front", "edits", "table"):
            tab.open(tmp_path / f"{name}.html", f"#{view}")
            tab.wait(f"document.body?.dataset.view === '{view}'")
            assert tab.value("document.body.dataset.error ?? ''") == ""
    assert told
