"""Own code: functions of the user's that a configuration names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def function(name: str, folder: Path) -> Callable[..., Any]:
    """Returns the function `package.module:function` or `file.py:function`.

    Args:
        name: a file's path is relative to the folder.
        folder: modules are also looked for there.

    Raises:
        ImportError: there is none; says why.
    """
    place, _, attribute = name.rpartition(":")
    sys.path.append(str(folder.absolute()))
    try:
        module = _file(folder / place) if place.endswith(".py") else importlib.import_module(place)
        found = getattr(module, attribute)
    except Exception as error:  # it is the user's code
        raise ImportError(str(error) or type(error).__name__) from error
    finally:
        sys.path.remove(str(folder.absolute()))
    if not callable(found):
        raise ImportError(f"{attribute} is no function")
    made: Callable[..., Any] = found
    return made


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ImportError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"{path.stem}_of_a_user", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and others look their module up
    spec.loader.exec_module(module)
    return module
