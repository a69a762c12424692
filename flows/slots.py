"""Slots: where children are trained and how many at a time, as a part of the configuration and in words."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flows.home import BadInput, redacted
from training.slots import cores

MAX_SLOTS = 256
WORDS = r"(?:(cpu):)?(\d{1,4})|(cuda):(\d{1,4})(?:@(\d{1,3}(?:,\d{1,3})*))?"  # of slots on one machine
RAY_WORDS = r"ray:(\d{1,4})@(\S+)"  # of slots on a cluster
STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)  # of each part of the configuration
SlotWords = Annotated[str, Field(pattern=f"^(?:{WORDS}|{RAY_WORDS})$")]  # parameter of a flow, refused before a run


class CudaSlots(BaseModel):
    """Which CUDA devices are used, and how many children share each."""

    model_config = STRICT
    devices: Annotated[
        Literal["all"] | tuple[Annotated[int, Field(ge=0, le=63)], ...],
        Field(description="their indices as torch counts them, or all"),
    ] = "all"
    per_device: Annotated[int, Field(ge=1, le=64, description="each child may use this fraction of its memory")] = 1

    @model_validator(mode="after")
    def _meant(self) -> Self:
        """Refuses a list of devices that is none."""
        if self.devices != "all" and (not self.devices or len(set(self.devices)) < len(self.devices)):
            raise ValueError(f"devices must be all, or one or more different indices, got {list(self.devices)}")
        return self


class RaySlots(BaseModel):
    """A Ray cluster on whose nodes children are trained."""

    model_config = STRICT
    address: Annotated[
        str,
        Field(
            pattern=r"^(auto|(ray://)?[A-Za-z0-9._-]+:\d{1,5})$",
            description="auto (the cluster that this machine is a node of), HOST:PORT of its head, or ray://HOST:PORT",
        ),
    ] = "auto"
    children: Annotated[int, Field(ge=1, le=MAX_SLOTS, description="at a time, on all nodes together")]
    cpus: Annotated[float, Field(gt=0, le=64, description="of a node that Ray keeps for each child")] = 1.0
    gpus: Annotated[
        float, Field(ge=0, le=1, description="of a device that Ray keeps for each child, memory too; 0: the CPU")
    ] = 0.0
    store: Annotated[
        str | None,
        Field(
            pattern=r"^[a-z0-9+]+://",
            description="what all nodes reach through fsspec, such as s3://bucket/searches; none: they see --home",
        ),
    ] = None

    @model_validator(mode="after")
    def _open(self) -> Self:
        """Refuses what would be stored in the clear."""
        if self.store and redacted(self.store) != self.store:
            raise ValueError("store must hold no user, password or token: set them where fsspec looks, on each node")
        return self

    @property
    def kind(self) -> str:
        """The kind of the devices that children are trained on: `cpu` or `cuda`."""
        return "cuda" if self.gpus else "cpu"


class Slots(BaseModel):
    """Where children are trained and how many at a time, of one kind; may differ when a search is resumed."""

    model_config = STRICT
    cpu: Annotated[
        int | None, Field(ge=1, le=MAX_SLOTS, description="processes of one thread each; none: the cores")
    ] = None
    cuda: Annotated[CudaSlots | None, Field(description="fractions of CUDA devices; none: the CPU")] = None
    ray: Annotated[RaySlots | None, Field(description="many machines, as a Ray cluster; none: this one")] = None

    @model_validator(mode="before")
    @classmethod
    def _somewhere(cls, given: Any) -> Any:
        """Returns a slot for each core that may be used, if nothing is asked for."""
        return {"cpu": min(cores(), MAX_SLOTS)} if given == {} else given

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        """Refuses two kinds of device, or none."""
        if sum(kind is not None for kind in (self.cpu, self.cuda, self.ray)) != 1:
            raise ValueError(
                "slots must have one of cpu, cuda and ray, not two and not none: with two, a child's numbers would "
                "depend on where it happened to be trained"
            )
        return self

    def crowded(self) -> str:
        """Returns a warning if there are more slots on the CPU than cores; else nothing."""
        if self.cpu is None or self.cpu <= cores():
            return ""
        return f"slots.cpu is {self.cpu} and there are {cores()} cores: children share them, and each takes its memory"

    @classmethod
    def words(cls, text: str, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Returns the document that a few words of the command line stand for.

        Args:
            text: `4` or `cpu:4`, `cuda:4` (on each device), `cuda:4@0,1` (on these), or `ray:8@HOST:PORT`.
            before: the document until now; what the words do not say of a cluster stays.

        Raises:
            BadInput: it is none of these.
        """
        if cluster := re.fullmatch(RAY_WORDS, text):
            stays = (before or {}).get("ray") or {}
            return {"ray": {**stays, "children": int(cluster[1]), "address": cluster[2]}}
        found = re.fullmatch(WORDS, text)
        if not found:
            raise BadInput(
                "slots must be N, cpu:N, cuda:N (on each device) or cuda:N@0,1 (on these), ray:N@auto or "
                f"ray:N@HOST:PORT, got {text!r}"
            )
        _, count, cuda, per_device, devices = found.groups()
        if not cuda:
            return {"cpu": int(count)}
        chosen = [int(device) for device in devices.split(",")] if devices else "all"
        return {"cuda": {"devices": chosen, "per_device": int(per_device)}}
