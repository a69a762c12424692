"""The chain space under Optuna's NSGA-II: a strategy here, Optuna in a process of its own.

The decisions are those of `ResidualSpace.sample`, so that every network is a member of the space, and none is edited.
Only the other process imports Optuna; it draws decisions and selects, and sees neither genomes nor training.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from genomes import Genome, InvalidGenome, check
from genomes.spaces.residual import ResidualSpace
from search import Candidate, Evaluation, Fidelity, proposals

TRIES = 100  # draws in a row that are over the limits, as in `ResidualSpace.sample`


def installed() -> bool:
    """Says whether Optuna is there."""
    return find_spec("optuna") is not None


def member(space: ResidualSpace, decisions: Mapping[str, Any]) -> Genome:
    """Returns the network that decisions stand for; those on stages that it does not have count for nothing."""
    blocks = [decisions[f"blocks_{stage}"] for stage in range(decisions["stages"])]
    wide, kernel = decisions["width"], decisions["kernel"]
    return space.member(wide, blocks, kernel, strided=decisions["strided"], separable=decisions["separable"])


class OptunaChain:
    """A strategy that asks Optuna; close it.

    A draw over the limits is told to Optuna as a failed trial at once, and costs nothing, as a redraw does elsewhere.
    """

    def __init__(self, space: ResidualSpace, seed: int, fidelity: Fidelity) -> None:
        """Starts the other process."""
        self.space, self.fidelity, self.trials = space, fidelity, list[int]()
        limits = space.limits
        smallest, largest = limits.width
        asked = {"seed": seed, "stages": limits.stages}
        asked |= {"blocks": limits.blocks, "smallest": smallest, "largest": largest}
        command = [sys.executable, "-c", "import optuna_chain; optuna_chain.serve()", json.dumps(asked)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
        )

    def ask(self, n: int) -> list[Candidate]:
        """Returns `n` candidates without parents; fewer if a hundred draws in a row are over the limits."""
        return proposals(self._one, n)

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """Tells Optuna the error and the parameters, or that the trial failed."""
        values = [evaluation.objectives[name] for name in ("error", "parameters")] if evaluation.ok else None
        self._said({"trial": self.trials[candidate.number], "values": values})

    def close(self) -> None:
        """Ends the other process."""
        with self.process:
            assert self.process.stdin
            self.process.stdin.close()

    def _one(self) -> Candidate | None:
        for _ in range(TRIES):
            drawn = self._said({})
            genome = member(self.space, drawn["decisions"])
            try:
                check(genome, self.space.limits.budgets)
            except InvalidGenome:
                self._said({"trial": drawn["trial"], "values": None})
                continue
            self.trials.append(drawn["trial"])
            return Candidate(len(self.trials) - 1, genome, fidelity=self.fidelity)
        return None

    def _said(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the answer to a message.

        Raises:
            RuntimeError: the other process has ended.
        """
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(message), file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"Optuna's process must answer, it ended with exit code {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve() -> None:
    """Runs in the other process: answers each line of the input, an ask (an empty message) or a tell, with one line."""
    import optuna

    asked = json.loads(sys.argv[1])
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.NSGAIISampler(seed=asked["seed"])
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for line in sys.stdin:
        message, answer = json.loads(line), dict[str, Any]()
        if message:
            state = optuna.trial.TrialState.COMPLETE if message["values"] else optuna.trial.TrialState.FAIL
            study.tell(message["trial"], message["values"], state)
        else:
            trial = study.ask()
            answer = {"trial": trial.number, "decisions": decided(trial, asked)}
        print(json.dumps(answer), flush=True)


def decided(trial: Any, asked: Mapping[str, int]) -> dict[str, Any]:
    """Returns what a trial of Optuna decides; the number of blocks also for stages that the network may not have."""
    blocks = {
        name: trial.suggest_int(name, 0, asked["blocks"]) for name in map("blocks_{}".format, range(asked["stages"]))
    }
    return {
        **blocks,
        "width": trial.suggest_int("width", asked["smallest"], asked["largest"]),
        "stages": trial.suggest_int("stages", 1, asked["stages"]),
        "kernel": trial.suggest_categorical("kernel", (3, 5)),
        "strided": trial.suggest_categorical("strided", (False, True)),
        "separable": trial.suggest_categorical("separable", (False, True)),
    }
