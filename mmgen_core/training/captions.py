"""Drawings with words: several captions of each, its keywords, and a curated subset.

    for one in captioned_drawings(64, "core", split="train"):
        one.picture                # uint8 [64, 64, 3]
        one.captions               # "red heart, noto style", "noto style red heart", ...

Every caption that ends up in a training set or a test comes from here, so all demo models
read the same words. The split goes by the motif's name: both art styles, all skin tones and all
captions of a motif fall on one side.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .core_motifs import CORE_MOTIFS
from .drawings import Drawings, is_held_out, load_drawings, motif
from .keywords import load_keywords

SUBSETS = ("core", "all")
SPLITS = ("train", "held-out", "both")
STYLES = ("noto", "fluent")
EXTRA_WORDS = 3  # keywords beside the name in as many captions
_TONE = re.compile(r"-(medium-light|medium-dark|light|medium|dark)(?:-skin-tone)?(?=-|$)")


@dataclass(frozen=True)
class CaptionedDrawing:
    """One drawing and its words.

    Attributes:
        name: of the drawing ("waving-hand-dark"); motif: the same without skin tone.
        style: "noto" or "fluent".
        group: "animal", "food" ... for a motif of the core, "" for the others.
        names: what the motif is called, the full name first ("automobile", "car", "red car").
        captions: texts that name motif and style, then some without the style.
        keywords: of CLDR, related words of every kind, most of them shared with other motifs.
        picture: uint8 [side, side, 3] on white.
    """

    name: str
    motif: str
    style: str
    group: str
    names: tuple[str, ...]
    captions: tuple[str, ...]
    keywords: tuple[str, ...]
    picture: np.ndarray

    @property
    def held_out(self) -> bool:
        return is_held_out(self.motif)


def captioned_drawings(
    side: int = 64,
    subset: str = "core",
    split: str = "train",
    cache: str | Path = ".cache/drawings",
) -> list[CaptionedDrawing]:
    """Drawings with their words, in a fixed order.

    Args:
        side: of the pictures; they are drawn once and kept in ``cache``.
        subset: "core", some 330 popular motifs in both styles (`core_motifs`), or "all".
        split: "train", "held-out" (about one motif in twenty; 26 of the core) or "both".

    Raises:
        DrawingsError: the packages cannot be had.
        ValueError: an unknown subset or split.
    """
    if subset not in SUBSETS or split not in SPLITS:
        raise ValueError(f"{subset!r}, {split!r}: one of {SUBSETS} and of {SPLITS} is needed.")
    drawings, keywords = load_drawings(side, cache), load_keywords(cache)
    uses = Counter(word for words in keywords.values() for word in set(words))
    chosen = []
    for index in range(len(drawings.names)):
        one = _captioned(drawings, index, keywords, uses)
        wanted = split == "both" or one.held_out == (split == "held-out")
        if wanted and (subset == "all" or one.group):
            chosen.append(one)
    return chosen


def _captioned(
    drawings: Drawings, index: int, keywords: dict[str, list[str]], uses: Counter
) -> CaptionedDrawing:
    name, style = drawings.names[index], drawings.styles[index]
    key = motif(name)
    group, others = CORE_MOTIFS.get(key, ("", ()))
    if key != name:
        group = ""  # a skin tone of a core motif
    words = tuple(keywords.get(key, ()))
    full = words_of(name)
    names = tuple(dict.fromkeys([full, *others]))
    own = [word for word in words if uses[word] == 1 and len(word) > 3 and word not in names]
    captions = captions_of(names, words, own, style)
    return CaptionedDrawing(name, key, style, group, names, captions, words, drawings.pixels[index])


def words_of(name: str) -> str:
    """As words: "waving-hand-medium-dark" -> "waving hand, medium dark skin tone"."""
    tones = [tone.replace("-", " ") for tone in _TONE.findall(name)]
    plain = _TONE.sub("", name).replace("-skin-tone", "").replace("-", " ")
    return ", ".join([plain, *(f"{tone} skin tone" for tone in tones)])


def captions_of(
    names: tuple[str, ...], keywords: tuple[str, ...], own: list[str], style: str
) -> tuple[str, ...]:
    """The full name in many phrasings, the other names in two, keywords beside the name, and
    alone those of the motif's ``own`` keywords that no other motif has."""
    full = names[0]
    texts = [
        f"{full}, {style} style",
        f"{style} style {full}",
        f"{article(full)} in {style} style",
        f"a {style} emoji of {article(full)}",
        f"a {style} style drawing of {article(full)}",
    ]
    for other in names[1:]:
        texts += [f"{other}, {style} style", f"{article(other)} in {style} style"]
    spare = [word for word in keywords if word not in full and word not in names][:EXTRA_WORDS]
    texts += [f"{word}, {style} style" for word in own[:EXTRA_WORDS]]
    texts += [f"{full}, {word}, {style} style" for word in spare]
    return tuple(dict.fromkeys([*texts, *names]))


def article(name: str) -> str:
    """With an article: "a red apple", "an owl"; plurals stay as they are."""
    last = name.split(", ")[0].split()[-1]
    if last.endswith("s") and not last.endswith("ss"):
        return name
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"
