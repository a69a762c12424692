"""The services of compose.yaml as plain processes: PostgreSQL, a Prefect server, an MLflow server, a worker.

For machines without a container engine, for the demonstration and for the tests. Every server listens on the loopback
interface only, asks for a password of this very start, and dies with the block that started it. PostgreSQL comes from
the system's package; as root it runs as the package's own user, since it refuses to run as root.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 180.0  # seconds for a server to answer; a Prefect server makes its tables first
BIN = Path(sys.executable).parent
BATCHES = ("TASK_RUN_RECORDER", "TASK_RUN_RECORDER_READ", "EVENT_PERSISTER", "EVENT_PERSISTER_READ", "TRIGGERS_READ")
POOL = "morphogen"


class Unavailable(RuntimeError):
    """A service could not be started; the message says which, and what it said last."""


@dataclass(frozen=True)
class Servers:
    """What is running.

    Attributes:
        prefect: address of the Prefect server.
        mlflow: address of the MLflow server.
        environment: all variables of a client or a worker, with the passwords.
        logs: the directory of what the servers say.
    """

    prefect: str
    mlflow: str
    environment: Mapping[str, str]
    logs: Path


@contextmanager
def servers(directory: Path) -> Iterator[Servers]:
    """Yields PostgreSQL, a Prefect server and an MLflow server with authentication, which run while the block does.

    Args:
        directory: an existing one, for what the services keep and say, but for the database.

    Raises:
        Unavailable: one of them did not start.
    """
    password, secret = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
    with ExitStack() as stack:
        database = stack.enter_context(postgres(directory / "postgres.log", ("prefect", "mlflow")))
        prefect, mlflow = free_port(), free_port()
        answers = f"http://127.0.0.1:{prefect}/api/health", f"http://127.0.0.1:{mlflow}/health"
        environment = _clean()
        for name, command, variables, address in (
            ("prefect", ["server", "start"], _prefect(directory, database, prefect, secret), answers[0]),
            ("mlflow", _mlflow_command(directory, mlflow), _mlflow(directory, database, password), answers[1]),
        ):
            log = directory / f"{name}.log"
            process = stack.enter_context(running([str(BIN / name), *command], {**environment, **variables}, log))
            until(lambda address=address: healthy(address), name, log, process)  # type: ignore[misc]
        clients = {
            "PREFECT_HOME": str(directory / "client"),
            "PREFECT_API_URL": f"http://127.0.0.1:{prefect}/api",
            "PREFECT_API_AUTH_STRING": f"admin:{secret}",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow}",
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": password,
        }
        yield Servers(
            f"http://127.0.0.1:{prefect}", f"http://127.0.0.1:{mlflow}", {**environment, **clients}, directory
        )


@contextmanager
def worker(there: Servers, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yields a Prefect worker of the process pool, which dies with the block, and its flow runs with it.

    Args:
        there: the servers.
        directory: that it works in.
    """
    command = [str(BIN / "prefect"), "worker", "start", "--pool", POOL, "--type", "process"]
    log = there.logs / "worker.log"
    with running(command, there.environment, log, cwd=directory) as process:
        until(lambda: b"started!" in log.read_bytes(), "worker", log, process)
        yield process


@contextmanager
def postgres(log: Path, databases: Sequence[str]) -> Iterator[str]:
    """Yields the part of a database's address between the scheme and its name, of a server with these databases.

    Raises:
        Unavailable: PostgreSQL is not installed, or did not start.
    """
    programs, user = _postgres_programs(), "postgres" if os.geteuid() == 0 else None
    password, port = secrets.token_urlsafe(16), free_port()
    with tempfile.TemporaryDirectory(prefix="postgres-") as place:
        root, data = Path(place), Path(place) / "data"
        (root / "password").write_text(password)
        if user:
            for path in (root, root / "password"):
                shutil.chown(path, user, user)

        def done(program: str, *arguments: str) -> None:
            command = [str(programs / program), *arguments]
            variables = {**os.environ, "PGPASSWORD": password}
            finished = subprocess.run(command, cwd=root, env=variables, capture_output=True, user=user, check=False)
            if finished.returncode:
                raise Unavailable(f"{program} failed: {finished.stderr.decode()[-1000:]}")

        done("initdb", "-D", str(data), "-U", "morphogen", "-A", "scram-sha-256", f"--pwfile={root / 'password'}")
        command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(root)]
        with running(command, os.environ, log, user=user, ending=signal.SIGINT, cwd=root) as process:
            connection = ("-h", "127.0.0.1", "-p", str(port), "-U", "morphogen")
            until(lambda: b"ready to accept" in log.read_bytes(), "PostgreSQL", log, process)
            for name in databases:
                done("createdb", *connection, name)
            yield f"morphogen:{password}@127.0.0.1:{port}"


@contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    *,
    cwd: Path | None = None,
    user: str | None = None,
    ending: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """Yields a process that leads a group of its own, and ends it and its descendants with the block."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, cwd=cwd, user=user, start_new_session=True
        )
        try:
            yield process
        finally:
            left = descendants(process.pid)
            process.send_signal(ending)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            killed(process)
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def killed(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and all that descend from it, as a power cut would."""
    for pid in (process.pid, *descendants(process.pid)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def descendants(root: int) -> list[int]:
    """Returns the numbers of the processes that descend from one, as long as their parents live."""
    parents = dict[int, int]()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def until(condition: Callable[[], bool], what: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    """Waits for a condition.

    Raises:
        Unavailable: the process ended before, or it took too long.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise Unavailable(f"{what} did not start: {log.read_text(errors='replace')[-1500:]}")
        time.sleep(0.2)


def healthy(address: str) -> bool:
    """Says whether a server answers."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    """Returns a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _clean() -> dict[str, str]:
    """Returns the environment without the settings of another Prefect or MLflow."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}


def _postgres_programs() -> Path:
    """Returns the directory of PostgreSQL's programs; that of the newest version, where there are several."""
    found = [Path(program).resolve().parent] if (program := shutil.which("initdb")) else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    for path in found:
        if all((path / program).exists() for program in ("initdb", "postgres", "createdb")):
            return path
    raise Unavailable("PostgreSQL must be installed: on Debian, apt-get install postgresql")


def _prefect(directory: Path, database: str, port: int, secret: str) -> dict[str, str]:
    return {
        "PREFECT_HOME": str(directory / "prefect"),
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_API_AUTH_STRING": f"admin:{secret}",
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{database}/prefect",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        **{f"PREFECT_SERVER_SERVICES_{service}_BATCH_SIZE": "100" for service in BATCHES},
    }


def _mlflow(directory: Path, database: str, password: str) -> dict[str, str]:
    settings = directory / "mlflow-auth.ini"
    settings.touch(mode=0o600)
    accounts = f"sqlite:///{directory / 'mlflow-auth.db'}"
    settings.write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = {accounts}\nadmin_username = admin\n"
        "auth_cache_ttl_seconds = 60\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    return {
        "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://{database}/mlflow",  # a command line is seen by all users
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_urlsafe(32),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def _mlflow_command(directory: Path, port: int) -> list[str]:
    artifacts = ["--artifacts-destination", str(directory / "artifacts")]
    return ["server", "--app-name", "basic-auth", "--port", str(port), "--workers", "2", *artifacts]
