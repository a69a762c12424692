"""The family's page: what it tells, that nothing in it can run or be fetched, its size, and that a browser draws it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import subprocess
import zlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flows import lineage
from flows.lineage import family, page
from flows.payoff import gains
from genomes import Genome, InvalidGenome
from morphism import INEXACT, Edit
from search import Candidate, Evaluation, Fidelity, non_dominated
from tests.flows.browser import FLAGS, chromium
from tests.flows.families import drawing, edit_of, kin, random

HOSTILE = (
    "</script><script>document.body.dataset.hacked=1</script>",
    "<img src=x onerror=document.body.dataset.hacked=1>",
    "<!--<script>",
    "]]></style>&lt;b&gt;",
    "'\"`${document.body.dataset.hacked=1}",
    "right\u202eleft\u2066\u2028\u2029\x00\x1b[31m",
    "\ud800 half a surrogate",
    "@@data@@ @@script@@ \\1 \\g<0>",
)


def refuse(genome: Genome) -> str:
    raise InvalidGenome(f"no picture of {genome.digest}")


def embedded(text: str) -> Any:
    """Returns the JSON in a page."""
    found = re.search(r'<script type="application/json" id="family">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def unpacked(block: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(block)))


def rendered(text: str, folder: Path, fragment: str = "") -> str:
    """Returns the document as Chromium leaves it after the page's script ran."""
    (folder / "page.html").write_text(text, "utf-8")
    flags = [
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1400,900",
        "--virtual-time-budget=20000",
        "--dump-dom",
    ]
    address = (folder / "page.html").as_uri() + fragment
    done = subprocess.run([chromium(), *flags, address], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def probed(text: str, code: str, folder: Path) -> Any:
    """Returns what `code` puts into `seen` at the end of the page's script, without the policy that forbids it."""
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    probe = f"start();\nconst seen = {{}};\n{code}\ndocument.body.dataset.seen = JSON.stringify(seen);\n"
    document = rendered(free.replace("\nstart();\n", f"\n{probe}"), folder)
    found = re.search(r'<body[^>]* data-seen="([^"]*)"', document)
    assert found is not None, re.search("<body[^>]*>", document)
    return json.loads(html.unescape(found[1]))


def test_a_member_tells_number_status_objectives_parents_and_edits():
    candidates, told = kin(40)
    members = family(candidates, told)["members"]
    assert [member["number"] for member in members] == list(range(40))
    for member in members:
        candidate, evaluation = candidates[member["number"]], told[member["number"]]
        assert member["status"] == evaluation.status
        assert member["parents"] == list(candidate.parents)
        assert member["rules"] == [edit.rule for edit in candidate.edits]
        assert member["control"] == candidate.control
        assert (member["error"] is None) == (not evaluation.ok)


def test_details_pair_each_edit_with_its_certificate():
    candidates, told = kin(60)
    for number, detail in enumerate(family(candidates, told)["details"]):
        assert len(detail["edits"]) == len(candidates[number].edits)
        for shown, edit in zip(detail["edits"], candidates[number].edits, strict=True):
            assert shown["rule"] == edit.rule
            assert shown["site"] == edit.site
            assert ("verdict" in shown) == told[number].ok
            assert set(shown.get("errors", edit.modes)) == edit.modes
            assert set(shown.get("proved", ())) <= edit.modes


def test_a_candidate_without_evaluation_is_pending_and_an_unknown_parent_is_left_out():
    candidates, told = kin(20)
    orphan = replace(candidates[19], parents=(7, 999))
    members = family({**candidates, 19: orphan}, {n: e for n, e in told.items() if n != 19})["members"]
    assert members[19]["status"] == "pending"
    assert members[19]["parents"] == [7]


def test_long_curves_are_thinned_and_keep_both_ends():
    candidates, told = kin(1)
    curve = tuple({"examples": k, "loss": math.nan if k % 2 else 1 / (k + 1)} for k in range(1001))
    shown = family(candidates, {0: replace(told[0], status="ok", curve=curve)})["details"][0]["curve"]
    assert len(shown["examples"]) == lineage.CURVE_POINTS
    assert (shown["examples"][0], shown["examples"][-1]) == (0, 1000)
    assert None in shown["loss"]


def test_the_page_of_no_family_and_of_one_member_are_pages():
    candidates, told = kin(1)
    assert embedded(page("none", {}, {}))["details"] == []
    assert embedded(page("one", candidates, told, drawing))["columns"]["number"] == [0]


def test_packed_details_and_pictures_come_back_whole():
    candidates, told = kin(150)
    document = embedded(page("s", candidates, told, drawing))
    details = [detail for block in document["details"] for detail in unpacked(block)]
    assert details == family(candidates, told)["details"]
    pictures = [picture for sheet in document["pictures"] for picture in unpacked(sheet)]
    for number, place in enumerate(document["columns"]["picture"]):
        assert pictures[place] == drawing(candidates[number].genome)


def test_no_picture_is_added_beyond_the_characters_of_the_page(monkeypatch):
    candidates, told = kin(100)
    monkeypatch.setattr(lineage, "CHARACTERS", len(page("s", candidates, told, refuse)) + 1)
    document = embedded(page("s", candidates, told, drawing))
    assert len(document["pictures"]) == 1


def test_pictures_go_first_to_the_best_and_its_ancestors_and_end_at_the_budget(monkeypatch):
    monkeypatch.setattr(lineage, "PICTURES", 64)
    candidates, told = kin(200)
    places = embedded(page("s", candidates, told, drawing))["columns"]["picture"]
    best = min((e for e in told.values() if e.ok), key=lambda e: (e.objectives["error"], e.objectives["parameters"]))
    at = candidates[best.number]
    assert places[at.number] is not None
    while at.parents:
        at = candidates[at.parents[0]]
        assert places[at.number] is not None
    assert len({place for place in places if place is not None}) == 64


def test_a_genome_that_cannot_be_drawn_has_no_picture():
    candidates, told = kin(5)
    assert embedded(page("s", candidates, told, refuse))["columns"]["picture"] == [None] * 5


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text):
    candidates, told = hostile(text)
    made = page(text, candidates, told, drawing)
    assert made.isascii()
    assert made.lower().count("<script") == made.lower().count("</script") == 2
    assert "<img src=x" not in made
    assert made.count('id="family"') == 1
    reason = unpacked(embedded(made)["details"][0])[1]["reason"]
    assert reason == text
    title = re.search("<title>(.*?)</title>", made, re.DOTALL)
    assert title is not None
    assert "\u202e" not in html.unescape(title[1])


def hostile(text: str) -> tuple[dict[int, Candidate], dict[int, Evaluation]]:
    """Returns a family of two that has `text` wherever text may stand."""
    candidates, told = kin(2, founders=1)
    change = Edit(text, {"module": text, text: [text]}, candidates[1].genome, {}, INEXACT)
    child = Candidate(1, candidates[1].genome, (0,), (change,))
    failed = Evaluation(1, "build_error", reason=text, cost={"seconds": 1.0})
    return {0: candidates[0], 1: child}, {0: told[0], 1: failed}


def test_the_page_names_no_address_and_its_policy_forbids_requests():
    candidates, told = kin(30)
    made = page("s", candidates, told, drawing)
    assert set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s'\"]*", made)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"<(?:link|iframe|object|embed|base|a)\b|\bfetch\(|XMLHttpRequest|localStorage|innerHTML|eval\(", made
    )
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', made)
    assert policy is not None
    script = made.rsplit("<script>", 1)[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy[1] == f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"


def test_two_thousand_candidates_stay_below_five_megabytes():
    candidates, told = kin(2000)
    assert len(page("s", candidates, told, drawing)) < 5_000_000


def test_the_same_family_gives_the_same_page():
    assert page("s", *kin(50), drawing) == page("s", *kin(50), drawing)


@pytest.mark.parametrize("view", ["tree", "time", "progress", "front", "table"])
def test_a_browser_draws_every_candidate(tmp_path, view):
    document = rendered(page("digits", *kin(300), drawing), tmp_path, f"#{view}/17")
    assert f'data-view="{view}"' in document
    assert 'data-panel="17"' in document  # details and picture were unpacked
    assert "data-error=" not in document
    if view != "table":
        assert 'data-ready="300"' in document
    else:
        assert document.count("data-number=") > 20


def test_a_browser_draws_two_thousand_candidates_and_none(tmp_path):
    assert 'data-ready="2000"' in rendered(page("large", *kin(2000), drawing), tmp_path)
    assert "The family has no member yet." in rendered(page("empty", {}, {}), tmp_path)


def test_a_browser_runs_nothing_of_the_data(tmp_path):
    text = "".join(HOSTILE)
    candidates, told = hostile(text)
    wicked = (
        '<svg xmlns="http://www.w3.org/2000/svg" onload="top.document.body.dataset.hacked=1"><script>alert(1)</script>'
    )
    document = rendered(page(text, candidates, told, lambda _: f"{wicked}</svg>"), tmp_path, "#1")
    assert "data-error=" not in document
    assert 'data-panel="1"' in document
    assert 'data-hacked="' not in document.split("<main>")[0]
    assert "\u202e" not in document


def test_the_best_and_the_way_to_it_are_selected_first(tmp_path):
    candidates, told = kin(120)
    seen = probed(page("s", candidates, told, drawing), "seen.line = [...state.line].map((m) => m.number);", tmp_path)
    best = min((e for e in told.values() if e.ok), key=lambda e: (e.objectives["error"], e.objectives["parameters"]))
    assert seen["line"][-1] == best.number
    for parent, child in pairwise(seen["line"]):
        assert candidates[child].parents[0] == parent


def test_clicks_and_keys_select(tmp_path):
    code = """
    const press = (key) => canvas.dispatchEvent(new KeyboardEvent('keydown', { key, cancelable: true }));
    const child = members.find((m) => m.parent && m.heir);
    const box = canvas.getBoundingClientRect();
    canvas.setPointerCapture = () => {};
    for (const type of ['pointerdown', 'pointerup']) {
      canvas.dispatchEvent(new PointerEvent(type, { clientX: box.left + child.sx, clientY: box.top + child.sy }));
    }
    seen.clicked = state.chosen === child;
    press('ArrowLeft');
    seen.parent = state.chosen === child.parent;
    press('ArrowRight');
    seen.heir = state.chosen === child.parent.heir;
    press('Home');
    seen.founder = state.chosen.founder;
    press('b');
    seen.best = state.chosen === best;
    """
    seen = probed(page("s", *kin(60), drawing), code, tmp_path)
    assert seen == dict.fromkeys(("clicked", "parent", "heir", "founder", "best"), True)


def test_filters_and_sorting_act_on_the_table(tmp_path):
    candidates, told = kin(200)
    code = """
    $('rule').value = 'branch';
    $('filters').dispatchEvent(new Event('input'));
    seen.rule = listed.map((m) => m.number).sort((a, b) => a - b);
    $('filters').reset();
    $('failed').checked = false;
    filter();
    sortBy('error');
    seen.errors = listed.map((m) => m.error);
    """
    seen = probed(page("s", candidates, told, drawing), code, tmp_path)
    assert seen["rule"] == [n for n, c in candidates.items() if any(edit.rule == "branch" for edit in c.edits)]
    assert seen["errors"] == sorted(seen["errors"], reverse=True)
    assert len(seen["errors"]) == sum(e.ok for e in told.values())


def test_no_two_members_of_the_tree_share_a_place(tmp_path):
    seen = probed(page("s", *kin(400), drawing), "seen.places = members.map((m) => m.place.join());", tmp_path)
    assert len(set(seen["places"])) == 400


@pytest.mark.parametrize(("founders", "children"), [(60, 9), (60, 0), (12, 9), (3, 0)])
def test_many_founders_without_children_stand_beside_the_trees(tmp_path, founders, children):
    candidates = {n: replace(kin(1)[0][0], number=n) for n in range(founders)}
    candidates |= {n: Candidate(n, candidates[0].genome, (n % 3,)) for n in range(founders, founders + children)}
    code = """
    const spot = (m) => [m.number, ...m.place];
    seen.alone = members.filter((m) => m.founder && !m.children.length).map(spot);
    seen.kin = members.filter((m) => !m.founder || m.children.length).map(spot);
    """
    seen = probed(page("s", candidates, {}, drawing), code, tmp_path)
    placed = {tuple(one[1:]) for one in (*seen["alone"], *seen["kin"])}
    assert len(placed) == len(candidates)
    assert all(column == (0 if number < founders else 1) for number, column, _ in seen["kin"])
    columns = {column for _, column, _ in seen["alone"]}
    if founders == 60:
        assert max(columns) < 0
        rows = [row for _, _, row in seen["alone"]]
        assert max(rows) - min(rows) < 12
        assert seen["alone"] == sorted(seen["alone"], key=lambda one: one[1:])  # column by column, by number
    else:
        assert columns == {0}


def test_the_gain_is_the_no_op_controls_error_minus_the_childs(tmp_path):
    candidates, told = kin(150)
    code = "seen.gains = Object.fromEntries(members.filter((m) => m.gain !== null).map((m) => [m.number, m.gain]));"
    shown = probed(page("s", candidates, told, drawing), code, tmp_path)["gains"]
    assert shown
    for number, gain in shown.items():
        parent = candidates[int(number)].parents[0]
        rivals = [
            told[n].objectives["error"]
            for n, c in candidates.items()
            if c.control and c.parents[0] == parent and told[n].ok
        ]
        assert any(gain == pytest.approx(rival - told[int(number)].objectives["error"], abs=1e-5) for rival in rivals)


def test_the_front_is_of_the_objectives_that_the_search_has(tmp_path):
    candidates, told = kin(60)
    rng = random.Random(0)
    timed = {n for n, e in told.items() if e.ok and rng.random() < 0.9}
    told |= {
        n: replace(told[n], objectives={**told[n].objectives, "latency_ratio": rng.uniform(0.5, 9)}) for n in timed
    }
    text = page("fast", candidates, told, drawing, axis="latency_ratio")
    code = (
        "seen.front = front.map((m) => m.number); showTab('front'); seen.shown = members.filter((m) => m.place).length"
    )
    seen = probed(text, code, tmp_path)
    points = {n: tuple(told[n].objectives[name] for name in ("error", "latency_ratio")) for n in timed}
    assert seen["front"] == non_dominated(points)
    assert seen["front"] != non_dominated({n: (p, told[n].objectives["parameters"]) for n, (p, _) in points.items()})
    assert seen["shown"] == len(timed)
    assert "error and latency ratio" in rendered(text, tmp_path)


def test_promotions_are_named_and_gains_compare_at_one_fidelity_as_the_report_does(tmp_path):
    candidates, told = kin(6)
    founder, edit, high = candidates[0], edit_of(random.Random(0), candidates[0].genome), Fidelity(60_000)
    control = Candidate(6, founder.genome, (0,))
    child = Candidate(7, founder.genome, (0,), (edit,))
    climbed = [
        replace(child, number=8, fidelity=high, promotes=7),
        replace(control, number=9, fidelity=high, promotes=6),
        replace(child, number=10, parents=(7,), edits=(), fidelity=high, promotes=7),
        replace(child, number=11, parents=(7,)),  # a child of the child, which has no control of this fidelity
    ]
    candidates |= {c.number: c for c in (control, child, *climbed)}
    told |= {n: replace(told[1], number=n, status="ok", objectives={"error": n / 50}) for n in range(6, 12)}
    told[0] = replace(told[1], number=0)
    code = """
    seen.gains = Object.fromEntries(members.filter((m) => m.gain !== null).map((m) => [m.number, m.gain]));
    seen.edits = members.slice(6).map((m) => show.edits(m));
    """
    seen = probed(page("s", candidates, told, drawing), code, tmp_path)
    gained = gains(candidates, told)
    assert gained == {7: pytest.approx(-0.02), 8: pytest.approx(0.02)}
    assert {int(n): pytest.approx(gain) for n, gain in seen["gains"].items()} == gained
    up = [f"{n} promoted to 60k examples" for n in (7, 6, 7)]
    assert seen["edits"] == ["no-op control", edit.rule, *up, edit.rule]


def test_a_browser_draws_families_without_a_result(tmp_path):
    candidates, told = kin(12)
    failed = {n: Evaluation(n, "killed", reason="out of memory") for n in candidates}
    for n, evaluations in enumerate(({}, failed, {0: told[0]})):
        (tmp_path / str(n)).mkdir()
        document = rendered(page("s", candidates, evaluations, drawing), tmp_path / str(n))
        assert 'data-ready="12"' in document
        assert "data-panel=" in document
        assert "data-error=" not in document
