"""The family's page: what it tells, that nothing in it can run or be fetched, its size, and that a browser draws it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import random
import re
import shutil
import subprocess
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import lineage
from flows.lineage import family, page
from genomes import Genome, InvalidGenome, Module
from genomes.operations import Conv, GlobalPool, Input, Linear, Operation, Output, ReLU
from morphism import EXACT, INEXACT, Certificate, Edit
from search import Candidate, Evaluation

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RULES = ("widen.split", "deepen.residual", "kernel.grow", "skip.add", "branch", "remove_node", "change_stride")
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


def genome_of(widths: tuple[int, ...]) -> Genome:
    """Returns a plain chain of convolutions."""
    nodes: dict[str, Operation] = {"image": Input(shape=(1, 8, 8))}
    chain = ["image"]
    for i, width in enumerate(widths):
        nodes |= {f"conv_{i}": Conv(out_channels=width, kernel=(3, 3), padding=(1, 1)), f"relu_{i}": ReLU()}
        chain += [f"conv_{i}", f"relu_{i}"]
    nodes |= {"pool": GlobalPool(), "head": Linear(out_features=10), "logits": Output()}
    chain += ["pool", "head", "logits"]
    return Genome.of({"net": Module.of(nodes, list(zip(chain, chain[1:], strict=False)))})


def edit_of(rng: random.Random, genome: Genome) -> Edit:
    rule = rng.choice(RULES)
    site = {"module": "net", "node": f"conv_{rng.randrange(4)}", "copies": rng.randrange(1, 9)}
    return Edit(rule, site, genome, {}, INEXACT if rule in RULES[-2:] else EXACT)


def proof_of(rng: random.Random, edit: Edit) -> Certificate:
    errors = {"eval": rng.random() * 1e-15, "train": rng.random() * 1e-14} if edit.modes else {"eval": rng.random()}
    return Certificate(edit.rule, "0" * 64, edit.genome.digest, "1" * 64, tuple(sorted(edit.modes)), errors, 7, True)


def evaluation_of(rng: random.Random, candidate: Candidate, told: Mapping[int, Evaluation]) -> Evaluation:
    """Returns a plausible result: some fail, some repeat another, the rest is a little better or worse than the parent."""
    parent = told.get(candidate.parents[0]) if candidate.parents else None
    size = sum(op.out_channels * 90 for _, op in candidate.genome["net"].nodes if isinstance(op, Conv))
    seconds = 4 + size / 400 + rng.random()
    own = {"seconds": seconds, "examples": 20_000, "macs": size * 30 * 20_000}
    cost = own | {f"lineage_{k}": v + (parent.cost[f"lineage_{k}"] if parent else 0) for k, v in own.items()}
    if rng.random() < 0.08:
        status = rng.choice(("non_finite", "over_budget", "timeout", "killed"))
        return Evaluation(
            candidate.number, status, cost=cost, reason=f"step {rng.randrange(400)}: the loss is not finite"
        )
    start = parent.objectives["error"] if parent else 0.3 + 0.25 * rng.random()
    floor = 0.03 + 3 / size  # a network of this size does no better
    drift = rng.gauss(0.01 if candidate.control else 0.03, 0.02 if candidate.control else 0.07)
    error = min(floor + max(start - floor, 0.002) * math.exp(drift), 0.9)
    curve = tuple(
        {
            "examples": k * 1000,
            "loss": 2.3 * (error + 0.9 * math.exp(-k / 5)) + rng.random() / 20,
            "error": error + 0.4 * math.exp(-k / 4),
        }
        for k in range(1, 21)
    )
    proofs = tuple(proof_of(rng, edit) for edit in candidate.edits)
    twin = rng.randrange(candidate.number) if candidate.number > 9 and rng.random() < 0.03 else None
    objectives = {"error": error, "parameters": float(size), "macs": float(size * 30)}
    return Evaluation(candidate.number, "ok", objectives, cost, curve, "2" * 64, certificates=proofs, twin=twin)


def child_of(rng: random.Random, number: int, living: list[Candidate], told: Mapping[int, Evaluation]) -> Candidate:
    """Returns a child of the best of a few living members."""
    pick = min(rng.sample(living, min(5, len(living))), key=lambda c: told[c.number].objectives["error"])
    if rng.random() < 0.07:
        return Candidate(number, pick.genome, (pick.number,))
    widths = [op.out_channels for _, op in pick.genome["net"].nodes if isinstance(op, Conv)]
    at = rng.randrange(len(widths))
    widths[at] = max(widths[at] + rng.choice((-3, -1, 2, 3, 5)), 2)
    grown = genome_of((*widths, 8) if rng.random() < 0.06 and len(widths) < 9 else tuple(widths))
    edits = tuple(edit_of(rng, grown) for _ in range(1 + (rng.random() < 0.15)))
    other = (rng.choice(living).number,) if rng.random() < 0.08 else ()
    return Candidate(number, grown, (pick.number, *(n for n in other if n != pick.number)), edits)


def kin(count: int, seed: int = 5, founders: int = 6) -> tuple[dict[int, Candidate], dict[int, Evaluation]]:
    """Returns a family as ageing evolution makes them: several founders, dead branches, error that falls."""
    rng = random.Random(seed)
    candidates: dict[int, Candidate] = {}
    told: dict[int, Evaluation] = {}
    living: list[Candidate] = []
    for number in range(count):
        founder = number < founders or not living
        widths = tuple(rng.randrange(3, 9) for _ in range(rng.randrange(2, 4)))
        candidate = Candidate(number, genome_of(widths)) if founder else child_of(rng, number, living, told)
        candidates[number], told[number] = candidate, evaluation_of(rng, candidate, told)
        living += [candidate] if told[number].ok else []
        del living[: max(len(living) - max(8, round(count**0.5)), 0)]
    return candidates, told


def drawing(genome: Genome) -> str:
    """Returns an SVG as large as a real one, which deflates no better."""
    noise = hashlib.sha256(genome.digest.encode()).hexdigest()
    shapes = "".join(
        f'<rect x="{i}" y="{int(noise[i % 60 : i % 60 + 4], 16) % 997}" width="80" height="20"/>' for i in range(180)
    )
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 1000">{shapes}</svg>'


def embedded(text: str) -> Any:
    """Returns the JSON in a page."""
    found = re.search(r'<script type="application/json" id="family">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def unpacked(block: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(block)))


def rendered(text: str, folder: Path, fragment: str = "") -> str:
    """Returns the document as Chromium leaves it after the page's script ran."""
    if CHROMIUM is None:
        message = "Chromium is not installed (Debian: apt-get install chromium)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    (folder / "page.html").write_text(text, "utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += [
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1400,900",
        "--virtual-time-budget=8000",
        "--dump-dom",
    ]
    address = (folder / "page.html").as_uri() + fragment
    done = subprocess.run([CHROMIUM, *flags, address], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


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


def test_a_candidate_without_evaluation_is_pending_and_an_unknown_parent_is_left_out():
    candidates, told = kin(20)
    orphan = replace(candidates[19], parents=(7, 999))
    members = family({**candidates, 19: orphan}, {n: e for n, e in told.items() if n != 19})["members"]
    assert members[19]["status"] == "pending"
    assert members[19]["parents"] == [7]


def test_long_curves_are_thinned_and_keep_both_ends():
    candidates, told = kin(1)
    curve = tuple({"examples": k, "loss": math.nan if k == 500 else 1 / (k + 1)} for k in range(1001))
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


def test_pictures_go_first_to_the_best_and_its_ancestors_and_end_at_the_budget(monkeypatch):
    monkeypatch.setattr(lineage, "PICTURES", 32)
    candidates, told = kin(200)
    places = embedded(page("s", candidates, told, drawing))["columns"]["picture"]
    best = min((e for e in told.values() if e.ok), key=lambda e: (e.objectives["error"], e.objectives["parameters"]))
    at = candidates[best.number]
    assert places[at.number] is not None
    while at.parents:
        at = candidates[at.parents[0]]
        assert places[at.number] is not None
    assert len({place for place in places if place is not None}) == 32


def test_a_genome_that_cannot_be_drawn_has_no_picture():
    def refuse(genome: Genome) -> str:
        raise InvalidGenome(f"no picture of {genome.digest}")

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
    assert "data-error" not in document
    if view != "table":
        assert 'data-ready="300"' in document
    else:
        assert document.count("data-number=") > 20


def test_a_browser_draws_two_thousand_candidates_and_none(tmp_path):
    assert 'data-ready="2000"' in rendered(page("large", *kin(2000), drawing), tmp_path)
    assert "The family has no member yet." in rendered(page("empty", {}, {}), tmp_path)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_browser_runs_nothing_of_the_data(tmp_path, text):
    candidates, told = hostile(text)
    wicked = '<svg xmlns="http://www.w3.org/2000/svg" onload="document.body.dataset.hacked=1"><script>alert(1)</script></svg>'
    document = rendered(page(text, candidates, told, lambda _: wicked), tmp_path, "#1")
    assert 'data-panel="1"' in document
    assert 'data-hacked="' not in document.split("<main>")[0]
    assert "\u202e" not in document
