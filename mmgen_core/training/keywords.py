"""What people call the drawings: English names and keywords from Unicode's CLDR annotations."""

from __future__ import annotations

import json
import re
import tarfile
import unicodedata
from pathlib import Path

from .drawings import Package, fetch

ANNOTATIONS = Package(
    "keywords",
    "cldr-annotations-full",
    "48.2.0",
    "DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
    "Unicode-3.0",
)


def load_keywords(cache: str | Path = ".cache/drawings") -> dict[str, list[str]]:
    """Keywords and synonyms by motif ("red-heart" -> ["emotion", "heart", "love", "red"]).

    Raises:
        DrawingsError: the package cannot be fetched or is not the pinned one.
    """
    with tarfile.open(fetch(ANNOTATIONS, Path(cache))) as archive:
        file = archive.extractfile("package/annotations/en/annotations.json")
        entries = json.load(file)["annotations"]["annotations"].values()
    keywords: dict[str, list[str]] = {}
    for entry in entries:
        for name in entry.get("tts", []):
            keywords.setdefault(slug(name), entry.get("default", []))
    return keywords


def slug(name: str) -> str:
    """A CLDR name as the icon sets write it: "man’s shoe" -> "mans-shoe"."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain.replace("'", "")).strip("-")
