"""Registry: the champions of a search as versions of a registered model in MLflow, a view of the record of retrainings.

Each network that became champion is one version, an ONNX model with its evidence beside it; the aliases `champion` and
`previous` say who holds the place. What is missing is made, and nothing is made twice: whoever was killed, or found
MLflow dead, goes on with `morphogen sync`.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from flows.assembly import RETRAIN, WEIGHTS, data
from flows.champions import champion, evidence
from flows.config import stored
from flows.home import Home, redacted
from flows.tracking import Tracker
from search import Ledger, Retraining, Retrainings, WeightStore

if TYPE_CHECKING:
    from training.data import Prepared

CHAMPION, PREVIOUS = "champion", "previous"  # aliases
MODEL = "model"  # the directory of a model among the artifacts of its training's run
EXPORT = "export"  # in there: what `morphogen export` writes
REQUIREMENTS = ("mlflow", "onnx", "onnxruntime")  # of who serves it
log = logging.getLogger("morphogen.registry")


class Found(NamedTuple):
    """What MLflow holds of a search's champions.

    Attributes:
        model: the name of the registered model.
        versions: by the digest of their weights.
        aliases: the version of each.
    """

    model: str
    versions: Mapping[str, ModelVersion]
    aliases: Mapping[str, str]


def tell(tracker: Tracker, home: Home, record: Retrainings) -> bool:
    """Registers the champions and returns whether that went well; a dead server is a warning."""
    try:
        register(tracker, home, record)
    except Exception as error:  # nothing that goes wrong here may harm the trainings
        log.warning("MLflow does not hold the champion: %s", redacted(" ".join(str(error).split()))[:200])
        return False
    return True


def register(tracker: Tracker, home: Home, record: Retrainings) -> None:
    """Brings the registered model into line with the record.

    Args:
        tracker: that has told of the trainings.
        home: of the search.
        record: of the trainings and the decisions.

    Raises:
        Exception: the server refused, or did not answer; the record says what is missing.
    """
    places, trainings, last = record.holders(), record.recorded(), champion.last(record)
    if places.champion is None:
        return
    runs, client = tracker.finalists(), MlflowClient(tracker.place)
    model, versions, aliases = _found(client, tracker, make=True)
    made = {weights: str(one.version) for weights, one in versions.items()}
    for key in dict.fromkeys(one.key for one in record.promotions() if one.outcome == "promoted"):
        if (weights := trainings[key].evaluation.weights or "") not in made:
            made[weights] = _version(client, model, tracker.name, runs[key], home, record, trainings[key])
    for alias, holder in ((PREVIOUS, places.previous), (CHAMPION, places.champion)):
        if holder and aliases.get(alias) != (wanted := made[trainings[holder].evaluation.weights or ""]):
            client.set_registered_model_alias(model, alias, wanted)
    for tag, words in (("champion", champion.holding(record)), ("decision", last and last.words)):
        client.set_tag(tracker.run, f"morphogen.{tag}", words)


def found(tracker: Tracker) -> Found:
    """Returns what MLflow holds of a search's champions.

    Raises:
        Exception: it cannot be reached.
    """
    return _found(MlflowClient(tracker.place), tracker, make=False)


def _found(client: MlflowClient, tracker: Tracker, *, make: bool) -> Found:
    """Returns what is there; with `make`, the registered model is made if it is missing.

    It has the search's name; if that is taken by another search, or by somebody's own model, a part of the search's
    identity is added.
    """
    identity = tracker.identity()
    for name in (tracker.name, f"{tracker.name}-{identity[:8]}"):
        try:
            there = client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            if make:
                tags = {"morphogen.id": identity, "morphogen.search": tracker.name}
                client.create_registered_model(name, tags, f"Champions of search {tracker.name}.\n\n{USAGE}")
            return Found(name, {}, {})
        if there.tags.get("morphogen.id") == identity:
            versions = client.search_model_versions(f"name = '{name}'", max_results=1000)
            known = {one.tags["morphogen.weights"]: one for one in versions if "morphogen.weights" in one.tags}
            return Found(name, known, {alias: str(number) for alias, number in there.aliases.items()})
    raise MlflowException(f"the registered model {tracker.name} must be this search's own: rename it in MLflow")


def _version(
    client: MlflowClient, model: str, name: str, run: Run, home: Home, record: Retrainings, one: Retraining
) -> str:
    """Makes a version of a champion, whose files lie with the run of its training, and returns its number."""
    with tempfile.TemporaryDirectory() as scratch:
        words = write(Path(scratch) / MODEL, name, home, record, one)
        client.log_artifacts(run.info.run_id, scratch)
    tags = {"search": name, "retraining": one.key, "weights": one.evaluation.weights or "", "decision": words}
    version = client.create_model_version(
        model,
        f"{run.info.artifact_uri}/{MODEL}",
        run.info.run_id,
        {f"morphogen.{tag}": value for tag, value in tags.items()},
        description=f"{words}.\n\n{USAGE}",
    )
    return str(version.version)


def write(directory: Path, name: str, home: Home, record: Retrainings, one: Retraining) -> str:
    """Writes a champion's MLflow model with its evidence, without any pickle, and returns the decision in words."""
    from training import serving
    from training.export import export

    weights = one.evaluation.weights or ""
    decision, test = champion.stored(record, one.key), record.test_errors().get(weights)
    genome, tensors = WeightStore(home.search(name) / RETRAIN / WEIGHTS).get(weights)
    with Ledger.read(home.search(name)) as ledger, tempfile.TemporaryDirectory() as scratch:
        prepared = data(stored(ledger), home)
        serving.write(genome, tensors, file := Path(scratch) / "model.onnx", prepared.normal)
        _save(file, directory, prepared, {"search": name, "child": one.number, "decision": decision.words})
        evidence.write(name, ledger, decision, one, test, directory)
    mean, std = prepared.normal
    error = one.evaluation.objectives["error"]
    export(genome, tensors, directory / EXPORT, mean=mean, std=std, classes=prepared.classes, error=error)
    return decision.words


def _save(file: Path, directory: Path, prepared: Prepared, facts: dict[str, Any]) -> None:
    """Makes a directory with an ONNX file as an MLflow model.

    Its signature is for any batch size. The input example is noise, since the user's images may be private.
    """
    import numpy as np
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns of type hints of its own
        import mlflow.onnx
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        images = TensorSpec(np.dtype("uint8"), (-1, *prepared.shape), "images")
        probabilities = TensorSpec(np.dtype("float32"), (-1, prepared.classes), "probabilities")
        mlflow.onnx.save_model(
            onnx.load(file),
            str(directory),
            signature=ModelSignature(Schema([images]), Schema([probabilities])),
            input_example={"images": np.random.default_rng(0).integers(0, 256, (1, *prepared.shape), "uint8")},
            pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
            metadata=facts,
        )


USAGE = """Takes `images`, uint8 `[N, C, H, W]`: pixels from 0 to 255 as in the file; normalised inside.
Returns `probabilities`, float32 `[N, classes]`. Beside the model: `evidence.md`, `evidence.json`, `lineage.json`;
in `export/` the weights, the genome, the PyTorch source and an ONNX file without the normalisation."""
