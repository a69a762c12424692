"""The package's door."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import search


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import sys, search; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_package_is_this_repositorys() -> None:
    assert Path(search.__file__).parent == Path(__file__).parents[2] / "search"


def test_every_error_is_a_search_error_and_every_name_is_there() -> None:
    public = {name: getattr(search, name) for name in search.__all__}
    errors = [value for value in public.values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(errors) == 10
    assert all(issubclass(error, search.SearchError) for error in errors)
