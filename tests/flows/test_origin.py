"""A search that begins with a network of one's own."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flows.assembly import data, keep, planned, retrainer, tidy, trainer
from flows.home import BadInput, Home
from search import Evaluation, Ledger, WeightStore
from tests.flows.conftest import config
from tests.flows.test_cli import run, written
from training.data import load
from training.loop import normalised

MODEL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(x + self.bn2(self.conv2(y)))


class Net(nn.Module):
    def __init__(self, width=8, channels=1, classes=10):
        super().__init__()
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())
        self.layer1 = nn.Sequential(Block(width), nn.MaxPool2d(2), Block(width))
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        x = self.layer1(self.stem(x))
        return self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.fc = nn.LSTM(8, 8), nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.lstm(x[:, 0])[0][:, 0])


def build():
    return Net()


def colour():
    return Net(channels=3)


def binary():
    return Net(classes=2)


def large():
    return Net(width=128)


def recurrent():
    return Recurrent()


def nothing():
    return None


def broken():
    raise KeyError("no such layer")


number = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a model, and its weights after a little training on the digits."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "model.py").write_text(MODEL)
    spec = importlib.util.spec_from_file_location("own_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    generator = torch.Generator().manual_seed(0)
    model = module.build()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, generator=generator)
    prepared = data(config(), Home(folder / "home"))
    split = load(prepared)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    images = normalised(split.train.images, prepared.normal)
    for _ in range(60):
        chosen = torch.randperm(len(images), generator=generator)[:128]
        loss = nn.functional.cross_entropy(model(images[chosen]), split.train.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_file(model.state_dict(), folder / "w.safetensors")
    torch.save(model.state_dict(), folder / "w.pt")
    wrong = {name.replace("stem", "root"): tensor for name, tensor in model.state_dict().items()}
    save_file(wrong, folder / "other.safetensors")
    save_file({**model.state_dict(), "fc.bias": torch.zeros(9)}, folder / "short.safetensors")
    (folder / "text.safetensors").write_text("no tensors")
    with torch.no_grad():
        judged = model.eval()(normalised(split.validation.images, prepared.normal)).argmax(1)
    (folder / "error").write_text(str(float((judged != split.validation.labels).double().mean())))
    return folder


def begins(folder: Path, build: str = "build", weights: str | None = "w.safetensors") -> dict[str, Any]:
    return {"model": f"{folder}/model.py:{build}", "weights": weights and str(folder / weights)}


LOW = {"recipe": {"learning_rate": 0.001, "crop": 0}, "fidelity": {"examples": 256}}


@pytest.fixture(scope="module")
def searched(prefect_server: None, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the home of a search from the model, which then went away, resumed once."""
    from flows.search import search

    home = tmp_path_factory.mktemp("searched")
    own = tmp_path_factory.mktemp("moved")
    for name in ("model.py", "w.safetensors"):
        (own / name).write_bytes((folder / name).read_bytes())
    search(config(origin=begins(own), budget={"candidates": 4}, **LOW), home)
    for name in ("model.py", "w.safetensors"):
        (own / name).unlink()
    search(config(origin=begins(own), budget={"candidates": 9}, **LOW), home)
    return home


def test_the_first_candidate_begins_with_the_own_networks_weights(searched: Path, folder: Path) -> None:
    own = float((folder / "error").read_text())
    with Ledger.read(searched / "tiny") as ledger:
        first = ledger.evaluations()[0]
    assert own < 0.3
    assert abs(first.objectives["error"] - own) < 0.05
    assert first.initial == (searched / "tiny" / "origin").read_text()


def test_all_others_descend_from_it_with_certificates(searched: Path) -> None:
    with Ledger.read(searched / "tiny") as ledger:
        candidates, evaluations = ledger.candidates(), ledger.evaluations()
    assert len(evaluations) == 9
    assert [number for number, candidate in candidates.items() if not candidate.parents] == [0]
    edited = [candidate for candidate in candidates.values() if candidate.edits]
    assert edited
    for candidate in edited:
        proofs = evaluations[candidate.number].certificates
        assert evaluations[candidate.number].ok
        assert [proof.rule for proof in proofs] == [edit.rule for edit in candidate.edits]
        assert all(proof.verdict for proof in proofs)


def test_a_search_keeps_its_origin_and_needs_the_files_no_more(searched: Path) -> None:
    digest = (searched / "tiny" / "origin").read_text()
    genome, weights = WeightStore(searched / "tiny" / "weights").get(digest)
    with Ledger.read(searched / "tiny") as ledger:
        assert ledger.candidate(0).genome == genome
    assert weights["layer1_0_conv1.weight"].shape == (8, 8, 3, 3)


def test_a_search_from_an_own_network_can_be_verified(
    searched: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "verify", "tiny", "--home", str(searched)) == 0, capsys.readouterr()


@pytest.mark.parametrize("kind", ["nsga2", "aging"])
def test_no_strategy_makes_a_second_founder(kind: str, folder: Path, tmp_path: Path) -> None:
    _, strategy, begun = planned(config(origin=begins(folder), strategy={"kind": kind}), Home(tmp_path))
    assert begun is not None
    assert [candidate.genome for candidate in strategy.ask(3)] == [begun.genome]


def test_without_weights_the_network_is_taken_as_it_is_built(folder: Path, tmp_path: Path) -> None:
    _, _, begun = planned(config(origin=begins(folder, weights=None)), Home(tmp_path))
    assert begun is not None
    assert {tensor.dtype for tensor in begun.weights.values()} == {torch.float32}


def test_what_nobody_names_is_tidied_away_but_the_origin_stays(folder: Path, tmp_path: Path) -> None:
    settings, home = config(origin=begins(folder)), Home(tmp_path)
    prepared, _, begun = planned(settings, home)
    home.make()
    with Ledger.create(home.search("tiny"), {}) as ledger:
        evaluator = trainer(settings, home, keep(settings, home, prepared, begun))
        assert begun is not None
        loose = evaluator.store.put(begun.genome, {name: 2 * t for name, t in begun.weights.items()})
        tidy(ledger, evaluator)
    assert not evaluator.store.path(loose).exists()
    assert evaluator.store.get((tmp_path / "tiny" / "origin").read_text())[0] == begun.genome


BAD: dict[str, tuple[tuple[str, str | None], list[str]]] = {
    "a missing weights file": (("build", "no.safetensors"), ["origin.weights", "no.safetensors"]),
    "no safetensors": (("build", "text.safetensors"), ["must be a safetensors file"]),
    "a pickle": (("build", "w.pt"), ["safetensors.torch.save_file(model.state_dict()"]),
    "weights of another model": (("build", "other.safetensors"), ["stem.0.weight is missing", "more)"]),
    "weights of another shape": (("build", "short.safetensors"), ["fc.bias must have shape [10], got [9]"]),
    "no such function": (("make", None), ["origin.model", "make"]),
    "no function": (("number", None), ["number is no function"]),
    "no module": (("nothing", None), ["must return a torch.nn.Module, got NoneType"]),
    "a function that fails": (("broken", None), ["no such layer"]),
    "other images": (("colour", None), ["must take images [N, 1, 8, 8]"]),
    "other classes": (("binary", None), ["to 10 classes, as the data does; it maps to [2]"]),
    "an operation that no genome has": (("recurrent", None), ["lstm (torch.nn.LSTM) is no operation"]),
    "a network over the budget": (("large", None), ["space.parameters must be at least", "it is 30000"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_an_origin_is_one_line_and_leaves_nothing(
    case: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    prefect_server: None,
) -> None:
    (build, weights), words = BAD[case]
    begun = begins(folder, build, weights)
    given = ["--from", begun["model"], *(["--weights", begun["weights"]] if weights else [])]
    assert run(monkeypatch, "search", "--config", written(tmp_path), *given, "--home", str(tmp_path / "h")) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("morphogen:")]
    assert len(said) == 1
    for word in words:
        assert word in said[0]
    assert not (tmp_path / "h" / "tiny").exists()


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"there is no file .*nowhere.py"):
        planned(config(origin={"model": f"{tmp_path}/nowhere.py:build"}), Home(tmp_path))


def test_weights_without_a_model_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "search", "--weights", "w.safetensors", "--home", str(tmp_path)) == 2
    assert "--weights must come with --from" in capsys.readouterr().err


def test_an_unknown_key_of_the_origin_is_told_with_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, origin={"model": "a.py:b", "weigths": "w"})
    assert run(monkeypatch, "search", "--config", file, "--home", str(tmp_path)) == 2
    assert "the keys there are model, weights" in capsys.readouterr().err


def test_the_configuration_survives_the_ledger() -> None:
    settings = config(origin={"model": "a.py:b"})
    assert type(settings).model_validate(json.loads(settings.model_dump_json())) == settings


def test_what_did_not_fit_is_refused_after_a_restart_too(tmp_path: Path) -> None:
    settings, home = config(), Home(tmp_path)
    prepared, strategy, _ = planned(settings, home)
    (candidate,) = strategy.ask(1)
    with Ledger.create(home.search("tiny"), {}) as ledger:
        ledger.asked(candidate, "key", 0.0)
        ledger.told(Evaluation(0, "out_of_memory", slot="cpu:0"), 0.0)
        evaluator = trainer(settings, home, prepared)
        tidy(ledger, evaluator)
    assert "candidate 0, which ran out of memory" in str(evaluator.lessons.refusal("cpu", candidate.genome))


def test_a_warm_start_keeps_what_the_own_network_has_learned(searched: Path, tmp_path: Path) -> None:
    from flows.retrain import retrain

    home = Path(shutil.copytree(searched, tmp_path / "home"))
    cold, warm = (retrain("tiny", 1, 1, 256, warm, home)["second_validation_error"] for warm in (False, True))
    assert warm < 0.3 < cold


def test_finalists_have_nothing_that_the_search_began_with_or_measures(searched: Path) -> None:
    strategy = {"variation": {"choice": "gradient"}, "nsga2": {"objectives": ["error", "latency_ratio"]}}
    settings = config(origin={"model": "a.py:b"}, strategy=strategy, retrain={"timeout": 5000})
    children = trainer(settings, Home(searched), data(settings, Home(searched)))
    assert all((children.origin, children.gradients, children.latency))
    full = retrainer(settings, Home(searched))
    assert (full.origin, full.gradients, full.latency, full.timeout) == (None, False, None, 5000)
