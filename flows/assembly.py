"""Assembly: the parts of a search, made from its configuration."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evo import DISRUPTIONS, NSGA2, AgingEvolution, AgingSettings, NSGA2Settings
from flows.config import SearchConfig, stored
from flows.home import BadInput, Home
from flows.nights.heirs import FOUNDERS, KINDS, Bequest, bequest, kept, source
from flows.origin import Origin, origin
from genomes import Genome, InvalidGenome, expand, load_genome
from genomes.spaces.residual import ResidualSpace
from morphism import CATALOGUE
from search import Ledger, Strategy, WeightStore
from strategies import ASHA, RandomSearch, Screened, SuccessiveHalving
from training.measurement import LATENCY

if TYPE_CHECKING:
    from training.data import Prepared
    from training.slots import Slot
    from training.trainer import Trainer

DATA, WEIGHTS = "data.safetensors", "weights"  # of one search, in its directory
ORIGIN = "origin"  # there too: the digest of the user's network in the weights
RETRAIN = "retrain"  # there too: the record, the weights and the results of the finalists' trainings
FREE = ("name", "budget", "slots", "timeout", "tracking", "retrain")  # what may change when a search is resumed


def document(config: SearchConfig, home: Home) -> dict[str, Any]:
    """Returns a configuration as the ledger is to hold it, as JSON values.

    A search that was begun by an earlier version, which had fewer settings, keeps its words if they mean the same: a
    setting that is new since then has its default.

    Raises:
        BadInput: what the ledger holds is no configuration of this version.
    """
    now = config.model_dump(mode="json")
    if config.name not in home.names():
        return now
    with Ledger.read(home.search(config.name)) as ledger:
        words, meant = ledger.config, stored(ledger).model_dump(mode="json")
    if any(meant[key] != now[key] for key in now if key not in FREE):
        return now  # refused, with what differs
    return {**words, **{key: now[key] for key in FREE}}


class Plan(NamedTuple):
    """The parts of a search that are there before it begins.

    Attributes:
        prepared: the data's file.
        strategy: a fresh one.
        begun: the user's own network, or what a predecessor hands on, if it begins with one of these.
    """

    prepared: "Prepared"
    strategy: Strategy
    begun: Origin | Bequest | None


def planned(config: SearchConfig, home: Home) -> Plan:
    """Returns the parts of a search; makes the data's file if it is not there yet, writes nothing of the search.

    Raises:
        BadInput: the data, the origin or the predecessor cannot be had, or no network fits the data and the limits.
    """
    prepared, directory = data(config, home), home.search(config.name)
    try:
        space = ResidualSpace(prepared.shape, prepared.classes, config.space)
        begun = bequeathed(config, home, space) or ancestor(config, space, directory)
        return Plan(prepared, proposer(config, space, directory, prepared, begun), begun)
    except InvalidGenome as error:
        raise BadInput(f"{error} (the data are kept in {prepared.file}: remove it after changing them)") from None


def bequeathed(config: SearchConfig, home: Home, space: ResidualSpace) -> Bequest | None:
    """Returns what a predecessor hands on: the search's own copy, or for a new one as it is now; None without one.

    Raises:
        BadInput: the predecessor has nothing to hand on, or other data.
        InvalidGenome: no starter fits the limits.
    """
    if not config.predecessor or (copy := kept(home.search(config.name))):
        return copy if config.predecessor else None
    settings = _settings(config)
    count = max(KINDS, min(settings.founders, KINDS * settings.population))
    return bequest(source(config, home), space.founders(config.seed), space.limits.budgets, count)


def _settings(config: SearchConfig) -> AgingSettings | NSGA2Settings:
    """Returns the settings of the kind of evolution that is chosen."""
    return config.strategy.aging if config.strategy.kind == "aging" else config.strategy.nsga2


def ancestor(config: SearchConfig, space: ResidualSpace, directory: Path) -> Origin | None:
    """Returns the network that a search begins with: the search's own copy, or for a new one that of the user.

    Raises:
        BadInput: the user's network cannot be used.
        CorruptWeights: the copy is missing or damaged.
    """
    if kept := _origin(directory):
        return Origin(*WeightStore(directory / WEIGHTS).get(kept))
    return origin(config.origin, space.shape, space.classes, space.limits.budgets) if config.origin else None


def _origin(directory: Path) -> str | None:
    """Returns the digest of a search's own copy of the user's network; None if there is none."""
    file = directory / ORIGIN
    return file.read_text().strip() if file.exists() else None


def data(config: SearchConfig, home: Home) -> "Prepared":
    """Returns the data's file: the search's own, or for a new one that of the cache, made if it is not there yet.

    Raises:
        BadInput: the data cannot be had.
    """
    from training.data import Prepared, prepare
    from training.errors import DataError

    own = home.search(config.name) / DATA
    if config.predecessor and not own.exists():
        own = source(config, home) / DATA
    try:
        return Prepared.at(own) if own.exists() else prepare(config.data, home.data)
    except DataError as error:
        raise BadInput(str(error)) from None


def keep(config: SearchConfig, home: Home, prepared: "Prepared", begun: Origin | Bequest | None = None) -> "Prepared":
    """Gives a search its own data, founders and origin, which no change elsewhere reaches, and returns the data."""
    directory = home.search(config.name)
    for stale in directory.glob("partial-*/"):  # of a session that was killed here
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(dir=directory, prefix="partial-") as scratch:
        if not (own := directory / DATA).exists():
            shutil.copyfile(prepared.file, Path(scratch) / DATA).rename(own)
        if config.founders and not (founders := directory / FOUNDERS).exists():
            (partial := Path(scratch) / FOUNDERS).mkdir()
            for number, file in enumerate(config.founders):
                shutil.copyfile(file, partial / f"{number:06}.json")
            partial.rename(founders)
        if isinstance(begun, Bequest) and not (founders := directory / FOUNDERS).exists():
            old = WeightStore(home.search(config.predecessor or "") / WEIGHTS)
            begun.copy_weights(old, WeightStore(directory / WEIGHTS))
            begun.write(partial := Path(scratch) / FOUNDERS)
            partial.rename(founders)
        if isinstance(begun, Origin) and not _origin(directory):
            (partial := Path(scratch) / ORIGIN).write_text(WeightStore(directory / WEIGHTS).put(*begun))
            partial.rename(directory / ORIGIN)
    return type(prepared).at(own)


def slots(config: SearchConfig) -> "tuple[Slot, ...]":
    """Returns the slots that a configuration asks for.

    Raises:
        BadInput: a device is not there.
    """
    from training.slots import cpu_slots, cuda_slots, remote_slots

    if ray := config.slots.ray:
        return remote_slots(ray.kind, ray.children)
    if config.slots.cuda is None:
        return cpu_slots(config.slots.cpu)
    there, wanted = _cuda_devices(), config.slots.cuda.devices
    if not there:
        raise BadInput(
            "slots.cuda must be left out where torch finds no CUDA device: use slots: {cpu: N}, or look whether "
            "nvidia-smi lists a device and torch is a build for its driver"
        )
    if wanted != "all" and (missing := sorted(set(wanted) - set(range(there)))):
        raise BadInput(f"slots.cuda.devices must be among 0 to {there - 1}, which torch finds; got {missing}")
    return cuda_slots(range(there) if wanted == "all" else wanted, config.slots.cuda.per_device)


def local_slots(config: SearchConfig) -> "tuple[Slot, ...]":
    """Returns the slots of this machine: those of the configuration, or one for each core if they are on a cluster.

    Raises:
        BadInput: a device is not there.
    """
    from training.slots import cpu_slots

    return cpu_slots() if config.slots.ray else slots(config)


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count()


def trainer(
    config: SearchConfig, home: Home, prepared: "Prepared", places: "tuple[Slot, ...] | None" = None
) -> "Trainer":
    """Returns the evaluator of a search, which trains in these slots; on each core if none are given."""
    from training.pool import Pool
    from training.slots import cpu_slots
    from training.trainer import Trainer

    directory = home.search(config.name)
    return Trainer(
        WeightStore(directory / WEIGHTS),
        prepared,
        config.recipe,
        config.seed,
        config.timeout,
        directory / "results",
        config.space.budgets,
        _origin(directory),
        config.strategy.variation.choice == "gradient",
        config.latency if set(LATENCY) & set(config.strategy.objectives) else None,
        Pool(places or cpu_slots()),
        heirs=copy.heirs if (copy := kept(directory)) else {},
    )


def retrainer(config: SearchConfig, home: Home) -> "Trainer":
    """Returns the evaluator of finalists: from fresh weights, by the full recipe, with a store and results of its own.

    What it stores is out of reach of a search that begins anew and tidies up.

    Raises:
        BadInput: the search's data cannot be had.
    """
    directory = home.search(config.name) / RETRAIN
    return replace(
        trainer(config, home, data(config, home), local_slots(config)),
        store=WeightStore(directory / WEIGHTS),
        recipe=config.full()[0],
        timeout=config.retrain.timeout,
        scratch=directory / "results",
        origin=None,
        heirs={},
        gradients=False,
        latency=None,
    )


def tidy(ledger: Ledger, evaluator: "Trainer") -> None:
    """Removes what a killed session left behind: weights without an evaluation, results that are recorded.

    The evaluator learns again which networks do not fit.

    A result that landed and is not recorded stays, with its weights, and is taken instead of training again.
    """
    evaluations = ledger.evaluations()
    evaluator.clear(set(evaluations))
    evaluator.recall(ledger.candidates([n for n, e in evaluations.items() if e.status == "out_of_memory"]), evaluations)
    kept = {evaluation.weights for evaluation in evaluations.values() if evaluation.weights}
    evaluator.store.collect(kept | evaluator.needed_weights())


def proposer(
    config: SearchConfig,
    space: ResidualSpace,
    directory: Path,
    prepared: "Prepared",
    begun: Origin | Bequest | None = None,
) -> Strategy:
    """Returns the strategy that a configuration asks for; with an origin, all that it proposes descends from that.

    What is screened out never gets onto a ladder.

    Raises:
        BadInput: a founder's file cannot be used.
        InvalidGenome: no starter fits the limits.
    """
    proposing = _screened(config, _proposing(config, space, directory, begun), prepared)
    if (ladder := config.strategy.ladder) is None:
        return proposing
    wrapper: type[ASHA | SuccessiveHalving] = ASHA if ladder.kind == "asha" else SuccessiveHalving
    return wrapper(proposing, ladder, config.fidelity, config.strategy.objectives)


def _screened(config: SearchConfig, strategy: Strategy, prepared: "Prepared") -> Strategy:
    """Returns the strategy behind the screen that a configuration asks for; the strategy itself if it asks for none."""
    settings = config.strategy.screen
    if settings.proxy == "none":
        return strategy
    from training.proxies import scorer

    score = scorer(settings.proxy, prepared, config.seed)
    return Screened(strategy, score, settings.draws, founders=config.strategy.kind == "random")


def _proposing(config: SearchConfig, space: ResidualSpace, directory: Path, begun: Origin | Bequest | None) -> Strategy:
    chosen, limits = config.strategy, config.space.budgets
    if chosen.kind == "random":
        edits = (*CATALOGUE, *DISRUPTIONS)
        return RandomSearch(space, limits, config.seed, chosen.random, config.fidelity, edits)
    starters, mutants = _starters(config, space, directory, begun), not isinstance(begun, Origin)
    settings = _settings(config)
    count = settings.founders  # as many shapes as the space is asked for; given ones are filled up to a population
    if isinstance(begun, Bequest) or config.founders:
        count = max(len(starters), min(settings.founders, settings.population))
    given, drawn = (starters, limits, config.seed), (chosen.variation, config.fidelity)
    if chosen.kind == "aging":
        aging = replace(chosen.aging, founders=count)
        return AgingEvolution(*given, aging, *drawn, mutants=mutants, judgement=chosen.judgement)
    nsga2 = replace(chosen.nsga2, founders=count)
    return NSGA2(*given, nsga2, *drawn, mutants=mutants, judgement=chosen.judgement)


def _starters(
    config: SearchConfig, space: ResidualSpace, directory: Path, begun: Origin | Bequest | None
) -> Sequence[Genome]:
    """Returns the genomes that founders have."""
    match begun:
        case Origin():
            return [begun.genome]
        case Bequest():
            return begun.founders
    files = sorted((directory / FOUNDERS).glob("*.json")) or [Path(file) for file in config.founders]
    return [founder(file, space) for file in files] or space.founders(config.seed, _settings(config).founders)


def founder(file: Path, space: ResidualSpace) -> Genome:
    """Returns the genome in a file.

    Raises:
        BadInput: the file cannot be read, holds no valid genome, or one for other data or over the limits.
    """
    try:
        genome = load_genome(file.read_bytes(), space.limits.budgets)
    except OSError as error:
        raise BadInput(f"the founder {file} cannot be read: {error.strerror}") from None
    except InvalidGenome as error:
        raise BadInput(f"the founder {file} must be a valid genome within the limits of `space`: {error}") from None
    expansion = expand(genome)
    given = (expansion.shape(genome[genome.root].inputs[0]), expansion.shape(genome[genome.root].output))
    if given != (space.shape, (space.classes,)):
        raise BadInput(
            f"the founder {file} must map {list(space.shape)} to {space.classes} classes, as the data does; "
            f"it maps {list(given[0])} to {list(given[1])}"
        )
    return genome
