"""The files of infra are what their own schemas say, and as safe as they promise; nothing is started here."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from flows.config import PRESETS, SearchConfig, read
from search import Budget

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
KUBERNETES = "1.32"


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((INFRA / "compose.yaml").read_text()))


def deployments() -> list[dict[str, Any]]:
    return list(yaml.safe_load((INFRA / "prefect.yaml").read_text())["deployments"])


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((INFRA / "k8s" / "morphogen.yaml").read_text()))


def test_the_compose_file_keeps_the_specification() -> None:
    services = PyCompose.from_json(json.dumps(compose()))
    services.validate()
    assert set(services.service_names()) == {"postgres", "prefect", "mlflow", "deploy", "worker", "worker-gpu"}


def test_a_wrong_key_in_the_compose_file_would_be_seen() -> None:
    wrong = json.dumps(compose()).replace("shm_size", "shm_sise")
    with pytest.raises(ValueError, match="shm_sise"):
        PyCompose.from_json(wrong).validate()


@pytest.mark.parametrize("name", ["prefect", "mlflow", "deploy", "worker", "worker-gpu"])
def test_a_container_can_do_no_more_than_it_must(name: str) -> None:
    service = compose()["services"][name]
    assert not service["user"].startswith(("0", "root"))
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert "no-new-privileges:true" in service["security_opt"]
    assert not any("docker.sock" in volume for volume in service["volumes"]) if "volumes" in service else True


def test_ports_are_on_the_loopback_interface() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", ())]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_password_is_written_down() -> None:
    text = (INFRA / "compose.yaml").read_text()
    secrets = re.findall(r"(?:PASSWORD|SECRET_KEY|AUTH_STRING): (.+)", text)
    assert len(secrets) >= 5
    assert all("${" in secret and ":?" in secret for secret in secrets), secrets
    names = set(re.findall(r"\$\{(\w+)", text))
    assert names == {line.rstrip("=") for line in (INFRA / ".env.example").read_text().splitlines() if "=" in line}


def test_whoever_waits_waits_for_a_service_that_can_be_asked() -> None:
    services = compose()["services"]
    for service in services.values():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other], other


def test_the_image_holds_every_package_and_the_tested_versions() -> None:
    text = (INFRA / "Dockerfile").read_text()
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    for package in (pattern.removesuffix("*") for pattern in found["include"]):
        assert f"\nCOPY {package} {package}\n" in text
        assert f"!{package}\n" in (INFRA / "Dockerfile.dockerignore").read_text()
    assert re.search(r"^torch==", (INFRA / "constraints.txt").read_text(), re.MULTILINE)
    assert re.search(r"^USER (?!root)\w+", text, re.MULTILINE)


@pytest.mark.parametrize("manifest", manifests(), ids=lambda manifest: manifest["kind"])
def test_a_manifest_keeps_the_schema_of_kubernetes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_a_wrong_key_in_a_manifest_would_be_seen() -> None:
    wrong = {**manifests()[0], "spek": {}}
    with pytest.raises(kubernetes_validate.ValidationError, match="spek"):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_the_job_of_a_flow_run_keeps_the_schema_of_kubernetes_and_is_hardened() -> None:
    template = json.loads((INFRA / "k8s" / "job-template.json").read_text())
    variables = template["variables"]["properties"]
    given = {
        name: entry.get("default", {"object": {}, "string": "x"}[entry["type"]]) for name, entry in variables.items()
    }
    given |= {"command": ["python", "-m", "prefect.flow_engine"], "env": [{"name": "A", "value": "1"}]}

    def filled(value: Any) -> Any:
        match value:
            case dict():
                return {key: filled(part) for key, part in value.items()}
            case list():
                return [filled(part) for part in value]
            case str() if found := re.fullmatch(r"\{\{ (\w+) \}\}", value):
                return given[found[1]]
            case str():
                return re.sub(r"\{\{ (\w+) \}\}", lambda found: str(given[found[1]]), value)
        return value

    job = filled(template["job_configuration"]["job_manifest"])
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    pod = job["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    claims = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
    assert claims == {m["metadata"]["name"] for m in manifests() if m["kind"] == "PersistentVolumeClaim"}


def test_each_deployment_has_a_description_a_flow_and_valid_parameters() -> None:
    from importlib import import_module

    for deployment in deployments():
        module, _, name = deployment["entrypoint"].partition(":")
        flow = getattr(import_module(module), name)
        assert deployment["description"]
        assert flow.validate_parameters(deployment["parameters"])


@pytest.mark.parametrize(("name", "preset"), [("digits", "digits"), ("fashion-mnist", "fashion_mnist")])
def test_a_deployed_search_is_that_of_the_preset(name: str, preset: str) -> None:
    deployed = [d["parameters"]["config"] for d in deployments() if d["name"] == name and "config" in d["parameters"]]
    assert deployed
    for config in deployed:
        free = {"budget": Budget()}  # a nightly one has another
        assert SearchConfig.model_validate(config).model_copy(update=free) == read(
            PRESETS / f"{preset}.yaml"
        ).model_copy(update=free)
