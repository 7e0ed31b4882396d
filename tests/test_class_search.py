"""Finding classes by name, and the ImageNet names themselves."""

from __future__ import annotations

import pytest

from mmgen_core.systems.class_search import NO_CLASS, find_class
from mmgen_core.systems.var import imagenet_classes

NAMES = ["tabby cat", "cat", "red_wine", "volcano", "hot dog", "dog sled"]


@pytest.mark.parametrize(
    "query, found",
    [
        ("volcano", 3),
        ("VOLC", 3),
        ("cat", 1),  # the whole name wins over a part of another
        ("tabby", 0),
        ("red wine", 2),
        ("  hot   dog ", 4),
        ("", NO_CLASS),
        ("  ", NO_CLASS),
        ("No Class", NO_CLASS),
    ],
)
def test_found(query, found):
    assert find_class(NAMES, query) == found


def test_several_matches_are_listed():
    with pytest.raises(ValueError, match=r"2 classes match 'dog': 'hot dog' \(4\), 'dog sled'"):
        find_class(NAMES, "dog")


def test_at_most_twelve_are_listed():
    with pytest.raises(ValueError, match=r"30 classes match .* and 18 more") as caught:
        find_class([f"class {i}" for i in range(30)], "class")
    assert str(caught.value).count("'class ") == 12


def test_closest_names_are_offered():
    with pytest.raises(ValueError, match="None of the model's 6 classes.*'volcano'"):
        find_class(NAMES, "vulcano")


def test_nothing_like_it():
    with pytest.raises(ValueError, match="names look like 'tabby cat'"):
        find_class(NAMES, "xyzzy-42")


def test_model_without_classes():
    with pytest.raises(ValueError, match="no classes"):
        find_class([], "cat")


def test_imagenet_names():
    names = imagenet_classes()
    assert len(names) == len(set(names)) == 1000
    assert (names[980], names[22], names[562]) == ("volcano", "bald eagle", "fountain")
    assert find_class(names, "volcano") == 980
