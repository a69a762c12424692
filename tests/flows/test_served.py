"""Real servers: `mlflow models serve` answers on the champion, and a server with passwords holds it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from flows.assembly import RETRAIN
from flows.champions import registry
from flows.home import Home
from search import Retrainings
from tests.flows.champions import held, promoted, tell, tracker
from tests.servers import answers, free_port

pytestmark = pytest.mark.slow
SECONDS = 240  # for a server to answer
PASSWORD = "a long enough password"


@pytest.fixture
def home(trained_home: Path, tmp_path: Path, written_once: None) -> Path:
    return Path(shutil.copytree(trained_home, tmp_path / "home"))


@contextmanager
def served(log: Path, address: str, words: list[str], **variables: str) -> Iterator[None]:
    """Runs the `mlflow` command until its server has answered and the block has ended."""
    command = [str(Path(sys.executable).parent / "mlflow"), *words]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # a server of models starts uvicorn by its name
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env={**os.environ, "PATH": path, **variables}, stdout=output, stderr=output, start_new_session=True
        )
        try:
            deadline = time.monotonic() + SECONDS
            while not answers(address):
                assert server.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.5)
            yield
        finally:
            os.killpg(server.pid, 15)
            server.wait(60)


def asked(address: str, question: bytes) -> Mapping[str, list[list[float]]]:
    request = urllib.request.Request(address, question, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.loads(answer.read())["predictions"])


def test_mlflow_serves_the_champion_as_it_is_and_answers_as_onnxruntime_does(
    home: Path, shelf: Path, tmp_path: Path
) -> None:
    with Retrainings.open(home / "tiny" / RETRAIN) as record:
        one = promoted(home, record, 0)
        tell(home, record)
    model = shelf / one.key
    images = np.random.default_rng(7).integers(0, 256, (5, 1, 8, 8), "uint8")
    (wanted,) = onnxruntime.InferenceSession(model / "model.onnx").run(None, {"images": images})
    address = f"http://127.0.0.1:{(free := free_port())}"
    words = ["models", "serve", "-m", "models:/tiny@champion", "--env-manager", "local", "--port", str(free)]
    settings = {"MLFLOW_TRACKING_URI": Home(home).tracking_uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    with served(tmp_path / "log.txt", f"{address}/ping", words, **settings):
        question = json.dumps({"inputs": {"images": images.tolist()}}).encode()
        found = asked(f"{address}/invocations", question)
        np.testing.assert_allclose(found["probabilities"], wanted, atol=1e-6)
        example = asked(f"{address}/invocations", (model / "serving_input_example.json").read_bytes())
        assert np.shape(example["probabilities"]) == (1, 10)
        with pytest.raises(urllib.error.HTTPError):  # an image too small
            asked(f"{address}/invocations", json.dumps({"inputs": {"images": images[..., :7].tolist()}}).encode())


def test_a_server_with_passwords_holds_the_champion_for_who_knows_them(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\nadmin_username = admin\n"
        f"database_uri = sqlite:///{tmp_path}/auth.db\nauthorization_function = "
        "mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    address = f"http://127.0.0.1:{(free := free_port())}"
    words = ["server", "--port", str(free), "--workers", "1", "--app-name", "basic-auth"]
    words += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{tmp_path}/kept"]
    settings = {
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret for a test",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (
        served(tmp_path / "log.txt", f"{address}/health", words, **settings),
        Retrainings.open(home / "tiny" / RETRAIN) as record,
    ):
        first = promoted(home, record, 0).evaluation.weights
        assert not tracker(home, address).tell_retrained(record)
        assert not registry.tell(tracker(home, address), Home(home), record)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")  # on a loaded machine
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        for _ in range(2):
            tell(home, record, address)
            assert held(home, address) == ({first: "1"}, {"champion": "1"})
        second = promoted(home, record, 1).evaluation.weights
        tell(home, record, address)
        assert held(home, address) == ({first: "1", second: "2"}, {"champion": "2", "previous": "1"})
    assert PASSWORD.encode() not in b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
