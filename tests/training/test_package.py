from __future__ import annotations

import subprocess
import sys

import pytest

import training


def test_values_are_imported_without_torch() -> None:
    program = "import sys; from training import DataSpec, Recipe, DataError; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_public_name_is_there() -> None:
    assert all(getattr(training, name).__name__ == name for name in training.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute nonsense"):
        _ = training.nonsense
