"""The house stands as it is drawn: layers, sizes, doors, and what is imported when."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("genomes", "morphism", "search", "evo", "strategies", "training", "flows")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def test_the_layers_are_kept() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_the_one_of_this_repository(package: str) -> None:
    module = importlib.import_module(package)
    assert Path(str(module.__file__)).is_relative_to(ROOT)


@pytest.mark.parametrize("module", ["genomes", "morphism", "search", "evo", "strategies", "training", "flows.config"])
def test_torch_is_not_imported_before_it_is_needed(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("module", ["flows.search", "flows.retrain"])
def test_a_flow_module_imports_neither_torch_nor_mlflow(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules or 'mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_only_tracking_and_the_registry_import_mlflow() -> None:
    importers = [file.name for file in SOURCES if "mlflow" in imported(file)]
    assert importers == ["registry.py", "tracking.py"]


def test_flow_modules_have_no_postponed_annotations() -> None:
    for file in SOURCES:
        text = file.read_text()
        if "@flow" in text or "@task" in text:
            assert "from __future__ import annotations" not in text, file


def test_no_file_is_longer_than_400_lines() -> None:
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    assert [file.name for file in files if len(file.read_text().splitlines()) > 400] == []


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names
