"""Home: the directory that holds searches, prepared data and, without a server, the MLflow store."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
DEFAULT = Path("searches")  # below the directory in which a command is given
TAKEN = ("data", "mlflow-artifacts")  # of the directories beside the searches


class BadInput(ValueError):
    """What the user gave cannot be used; the message says what should be, where, and what to do."""


def redacted(text: str) -> str:
    """Returns `text` without the user and password of any address in it."""
    return re.sub(r"((?:password|token)=)[^&\s]+", r"\1***", re.sub(r"://\S*@", "://***@", text))


def line(error: BaseException) -> str:
    """Returns what went wrong in one line of some 300 characters, without passwords."""
    return redacted((str(error).strip() or type(error).__name__).splitlines()[0])[:300]


@dataclass(frozen=True)
class Home:
    """The layout of the files of all searches below one directory.

    Attributes:
        root: the directory; made when first written to.
    """

    root: Path

    @property
    def data(self) -> Path:
        """Where prepared data sets are kept for all searches."""
        return self.root / "data"

    @property
    def tracking_uri(self) -> str:
        """The MLflow store that is used when no server is configured."""
        return f"sqlite:///{self.tracking_file.absolute()}"

    @property
    def tracking_file(self) -> Path:
        """The SQLite file of that store."""
        return self.root / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """Where MLflow keeps artifacts when no server is configured."""
        return (self.root / "mlflow-artifacts").absolute()

    def search(self, name: str) -> Path:
        """Returns the directory of one search.

        Raises:
            BadInput: not a name that is safe as a directory, or that of another directory.
        """
        if name in TAKEN:
            raise BadInput(
                f"a search's name must not be {' or '.join(TAKEN)}, which are other directories; got {name!r}"
            )
        if not NAME.fullmatch(name):
            raise BadInput(f"a search's name must match {NAME.pattern}, got {name!r}")
        return self.root / name

    def command(self, verb: str, name: str) -> str:
        """Returns the command line for a search that is here, as this program was called."""
        return shlex.join([sys.argv[0], verb, name, *([] if self.root == DEFAULT else ["--home", str(self.root)])])

    def names(self) -> list[str]:
        """Returns the names of the searches that are there."""
        return sorted(path.parent.name for path in self.root.glob("*/ledger.sqlite"))

    def make(self) -> None:
        """Makes the directory.

        Raises:
            BadInput: it cannot be written.
        """
        if "?" in str(self.root.absolute()):
            raise BadInput(f"--home must have no ? in its path, which ends the path of MLflow's file; got {self.root}")
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            probe = self.data / ".writable"
            probe.touch()
            probe.unlink(missing_ok=True)  # another process may probe too
        except OSError as error:
            raise BadInput(f"--home must be a writable directory, {self.root} is not: {error.strerror}") from None
