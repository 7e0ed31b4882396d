"""Lumina-mGPT's files are Chameleon's, with q/k norms per model-parallel part."""

from sizes_chameleon import check as check
