"""Checkpoints: open a file safely, recognise what it is, load it whole or say what is wrong."""

from .files import Checkpoint, CheckpointError, read_checkpoint

__all__ = ["Checkpoint", "CheckpointError", "read_checkpoint"]
