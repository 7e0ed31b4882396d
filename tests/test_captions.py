"""Words of the drawings: names, captions, the curated subset, the split."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest

from mmgen_core.training import captions as captions_module
from mmgen_core.training import keywords as keywords_module
from mmgen_core.training.captions import article, captioned_drawings, captions_of, words_of
from mmgen_core.training.core_motifs import CORE_MOTIFS, GROUPS
from mmgen_core.training.drawings import Drawings, is_held_out
from mmgen_core.training.keywords import load_keywords, slug

NAMES = ["red-heart", "house", "abacus", "thumbs-up-dark"] * 2
STYLES = ["noto"] * 4 + ["fluent"] * 4
KEYWORDS = {"red-heart": ["emotion", "heart", "love", "red"], "abacus": ["calculation"]}


@pytest.fixture
def few(monkeypatch):
    drawings = Drawings(np.zeros((8, 4, 4, 3), np.uint8), NAMES, STYLES)
    monkeypatch.setattr(captions_module, "load_drawings", lambda side, cache: drawings)
    monkeypatch.setattr(captions_module, "load_keywords", lambda cache: KEYWORDS)


def test_subsets_and_splits(few):
    def names(subset, split):
        return {one.name for one in captioned_drawings(4, subset, split)}

    assert names("core", "train") == {"red-heart"}
    assert names("core", "held-out") == {"house"}
    assert names("all", "train") == {"red-heart", "abacus", "thumbs-up-dark"}
    assert names("all", "both") == set(NAMES)
    with pytest.raises(ValueError, match="core"):
        captioned_drawings(4, "some")


def test_captions_name_motif_and_style(few):
    heart = captioned_drawings(4, "core", "train")[-1]
    assert heart.style == "fluent" and heart.group == "heart" and not heart.held_out
    assert heart.captions[0] == "red heart, fluent style" and "red heart" in heart.captions
    assert "red heart, love, fluent style" in heart.captions
    assert len(set(heart.captions)) == len(heart.captions)
    styled = [text for text in heart.captions if "fluent" in text]
    assert len(styled) == len(heart.captions) - len(heart.names)
    abacus = captioned_drawings(4, "all", "train")[1]
    assert "calculation, noto style" in abacus.captions


def test_every_name_has_captions():
    texts = captions_of(("automobile", "car"), (), [], "noto")
    assert "a car in noto style" in texts and "an automobile in noto style" in texts


def test_words():
    assert words_of("waving-hand-medium-dark") == "waving hand, medium dark skin tone"
    assert words_of("red-apple") == "red apple"
    assert article("owl") == "an owl" and article("jeans") == "jeans"
    assert article("glass") == "a glass"
    assert slug("man’s shoe") == "mans-shoe" and slug("piñata") == "pinata"


def test_core_has_trained_and_held_out_motifs():
    held = [name for name in CORE_MOTIFS if is_held_out(name)]
    assert len(CORE_MOTIFS) > 300 and len(held) >= 20 and "house" in held
    assert {group for group, _ in CORE_MOTIFS.values()} == set(GROUPS)
    everyday = [word for _, words in CORE_MOTIFS.values() for word in words]
    assert len(everyday) == len(set(everyday))  # one name, one motif


def test_keywords_from_the_archive(tmp_path, monkeypatch):
    entries = {"❤": {"default": ["love"], "tts": ["red heart"]}, "x": {"default": ["y"]}}
    text = json.dumps({"annotations": {"annotations": entries}}).encode()
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("package/annotations/en/annotations.json")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    monkeypatch.setattr(keywords_module, "fetch", lambda package, cache: path)
    assert load_keywords(tmp_path) == {"red-heart": ["love"]}
