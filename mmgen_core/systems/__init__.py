"""The public systems: what each file is, how it is built, its published defaults."""

from __future__ import annotations

from ..checkpoints.architecture import Architecture, Match
from ..checkpoints.files import Checkpoint, CheckpointError
from . import show_o, star, var

ARCHITECTURES: tuple[Architecture, ...] = (
    *var.ARCHITECTURES,
    *star.ARCHITECTURES,
    *show_o.ARCHITECTURES,
)


def identify(checkpoint: Checkpoint, kind: str | None = None) -> Match:
    """What a checkpoint is, from names and shapes, with config or values where those are silent.

    Raises:
        CheckpointError: unknown, or another kind than asked for.
    """
    for architecture in ARCHITECTURES:
        params = architecture.recognise(checkpoint)
        if params is None:
            continue
        if kind not in (None, architecture.kind):
            raise CheckpointError(
                f"{checkpoint.path.name} is a {architecture.name} ({architecture.kind}); "
                f"a {kind} is needed here."
            )
        return Match(architecture, params)
    names = sorted(checkpoint.tensors)
    wanted = sorted(a.name for a in ARCHITECTURES if kind in (None, a.kind))
    raise CheckpointError(
        f"{checkpoint.path.name} is none of the known architectures ({', '.join(wanted)}). It has "
        f"{len(names)} tensors, such as {', '.join(names[:3])}."
    )
