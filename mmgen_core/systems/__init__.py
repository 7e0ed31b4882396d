"""The public systems: what each file is, how it is built, its published defaults."""

from __future__ import annotations

from ..checkpoints.architecture import Architecture, Match
from ..checkpoints.files import Checkpoint, CheckpointError
from . import (
    chameleon,
    dreamllm,
    llama,
    seed,
    seed_llama,
    seed_x,
    show_o,
    star,
    transfusion,
    unified_io,
    unified_io_2,
    unified_io_vqgan,
    var,
    vqgan,
)

ARCHITECTURES: tuple[Architecture, ...] = (
    *transfusion.ARCHITECTURES,  # before llama, whose trunk it has
    *var.ARCHITECTURES,
    *star.ARCHITECTURES,
    *show_o.ARCHITECTURES,
    *chameleon.ARCHITECTURES,
    *vqgan.ARCHITECTURES,
    *seed.ARCHITECTURES,
    *seed_llama.ARCHITECTURES,  # before llama, which it is
    *llama.ARCHITECTURES,
    *seed_x.ARCHITECTURES,
    *dreamllm.ARCHITECTURES,
    *unified_io.ARCHITECTURES,
    *unified_io_2.ARCHITECTURES,
    *unified_io_vqgan.ARCHITECTURES,
)


def identify(checkpoint: Checkpoint, kind: str | None = None) -> Match:
    """What a checkpoint is, from names and shapes, with config or values where those are silent.

    Raises:
        CheckpointError: unknown, or another kind than asked for.
    """
    other = None
    for architecture in ARCHITECTURES:
        params = architecture.recognise(checkpoint)
        if params is None:
            continue
        if kind in (None, architecture.kind):
            return Match(architecture.sized(params), params)
        other = other or architecture  # go on: one file may hold a model and its tokenizer
    if other is not None:
        raise CheckpointError(
            f"{checkpoint.path.name} is a {other.name} ({other.kind}); a {kind} is needed here."
        )
    names = sorted(checkpoint.tensors)
    wanted = sorted(a.name for a in ARCHITECTURES if kind in (None, a.kind))
    raise CheckpointError(
        f"{checkpoint.path.name} is none of the known architectures ({', '.join(wanted)}). It has "
        f"{len(names)} tensors, such as {', '.join(names[:3])}."
    )
