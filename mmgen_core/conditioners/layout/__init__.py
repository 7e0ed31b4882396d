"""Layouts: what a language model plans to stand where in a picture."""

from .layouts import Layout, LayoutObject, from_boxes
from .parse import parse

__all__ = ["Layout", "LayoutObject", "from_boxes", "parse"]
