"""Environment defaults that Prefect and MLflow read when they are imported; import this module before them."""

from __future__ import annotations

import os

BATCHES = ("TASK_RUN_RECORDER", "TASK_RUN_RECORDER_READ", "EVENT_PERSISTER", "EVENT_PERSISTER_READ", "TRIGGERS_READ")

# Batches of 100 cut the server's cost of a task run from 41-54 to 12-19 CPU ms; a fresh embedded server needs up to
# 20 s to start, which is also Prefect's default time-out.
DEFAULTS = {
    **{f"PREFECT_SERVER_SERVICES_{service}_BATCH_SIZE": "100" for service in BATCHES},
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the outbox tries again; a request sent twice could make two runs
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

for name, value in DEFAULTS.items():
    os.environ.setdefault(name, value)
