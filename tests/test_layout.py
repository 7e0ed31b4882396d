"""Layouts: read from what language models write, written again, checked, drawn."""

from __future__ import annotations

import json
import math
import random
import re
import time

import pytest
import torch
from layout_cases import CASES, NOTHING, Case

from mmgen_core.conditioners.layout import Layout, LayoutObject, from_boxes, parse
from mmgen_core.conditioners.layout.check import check
from mmgen_core.conditioners.layout.drawing import background_mask, box_masks, compose, picture
from mmgen_core.conditioners.layout.grammar import LayoutGrammar
from mmgen_core.conditioners.layout.planning import Wish, plan, read_answer
from mmgen_core.conditioners.layout.regions import area_regions, elements, gligen_places
from mmgen_core.training.layout_scenes import scene


def places(layout: Layout) -> list[tuple]:
    return [(o.label, o.x, o.y, o.width, o.height) for o in layout.objects]


def test_there_are_enough_cases():
    assert len(CASES) >= 200 and len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case):
    layout = parse(case.text, *case.size, case.grid)
    found = places(layout)
    assert [place[0] for place in found] == [box[0] for box in case.boxes]
    for place, box in zip(found, case.boxes, strict=True):
        assert all(abs(a - b) <= 1 for a, b in zip(place[1:], box[1:], strict=True)), (place, box)
    for wanted in case.issues:
        assert any(re.search(wanted, issue) for issue in layout.issues), layout.issues
    assert len(layout.issues) == len(case.issues), layout.issues
    if case.caption is not None:
        assert layout.caption == case.caption


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_usable(name):
    with pytest.raises(ValueError, match=r"(?i)no layout|none of the|is empty") as caught:
        parse(NOTHING[name], 512, 512)
    assert len(str(caught.value)) < 2000


def test_texts_around_the_objects():
    text = (
        "Caption: a car\nObjects: [('a car', [10, 20, 200, 100])]\n"
        "**Background prompt:** a street\nNegative prompt: rain"
    )
    layout = parse(text, 512, 512)
    assert (layout.caption, layout.background, layout.negative) == ("a car", "a street", "rain")
    ideogram = {
        "high_level_description": "a shop",
        "compositional_deconstruction": {
            "background": "a wall",
            "elements": [
                {"type": "text", "bbox": [0, 0, 500, 1000], "text": "OPEN", "desc": "a sign"}
            ],
        },
    }
    layout = parse(json.dumps(ideogram), 200, 100)
    assert (layout.caption, layout.background) == ("a shop", "a wall")
    assert layout.objects[0] == LayoutObject("a sign", 0, 0, 200, 50, (), "OPEN")


def test_attributes_of_several_words_stand_behind():
    one = LayoutObject("a dog", 0, 0, 1, 1, ("brown", "with a red collar"))
    assert one.description == "a brown dog, with a red collar"


def test_attributes():
    text = (
        '[{"label": "car", "color": "red", "attributes": ["old", "shiny"], "box": [1, 2, 90, 80]}]'
    )
    one = parse(text, 100, 100, "pixels").objects[0]
    assert one.attributes == ("red", "old", "shiny") and one.description == "red old shiny car"


@pytest.mark.parametrize("grid", ["", "percent", 0, -5, math.nan, math.inf, True, None])
def test_bad_grids(grid):
    with pytest.raises(ValueError, match="grid"):
        parse('{"cat": [1, 2, 30, 40]}', 64, 64, grid)


@pytest.mark.parametrize("size", [(0, 64), (64, -1), (64, 1.5), (math.nan, 64), (True, 64)])
def test_bad_sizes(size):
    with pytest.raises(ValueError, match="width|height"):
        parse('{"cat": [1, 2, 30, 40]}', *size)


def test_not_a_text():
    with pytest.raises(ValueError, match="bytes"):
        parse(b"[]", 64, 64)


def test_limits():
    many = json.dumps([{"label": f"cat {i}", "box": [0, 0, 50, 50]} for i in range(130)])
    layout = parse(many, 64, 64, "pixels")
    assert len(layout.objects) == 100 and len(layout.issues) == 30
    long = json.dumps([{"label": "cat " * 500, "box": [0, 0, 50, 50]}])
    layout = parse(long, 64, 64, "pixels")
    assert len(layout.objects[0].label) <= 200 and "shortened" in layout.issues[0]
    control = parse('[{"label": "a\\u0000\\ncat", "box": [0, 0, 50, 50]}]', 64, 64, "pixels")
    assert control.objects[0].label == "a cat"


# Properties


def random_layout(rng: random.Random) -> Layout:
    width, height = rng.choice((64, 512, 768, 1024)), rng.choice((64, 512, 1344))
    objects = []
    for i in range(rng.randint(1, 8)):
        w, h = rng.randint(1, width), rng.randint(1, height)
        x, y = rng.randint(0, width - w), rng.randint(0, height - h)
        label = rng.choice(("cat", "a 'red' car", 'the "big" dog', "猫", "é{[x", "a, b: c"))
        attributes = rng.choice(((), ("red",), ("old", "wet")))
        objects.append(LayoutObject(f"{label} {i}", x, y, w, h, attributes))
    return Layout(width, height, objects, 'a "cap" {tion}', "back, ground")


def near(a: Layout, b: Layout, tolerance: float) -> bool:
    pairs = zip(map(edges, a.objects), map(edges, b.objects), strict=True)
    return all(abs(p - q) <= tolerance for two in pairs for p, q in zip(*two, strict=True))


def edges(one: LayoutObject) -> tuple[int, int, int, int]:
    return one.x, one.y, one.right, one.bottom


@pytest.mark.parametrize("seed", range(60))
def test_round_trips(seed):
    rng = random.Random(seed)
    layout = random_layout(rng)
    size = layout.width, layout.height
    again = parse(json.dumps(layout.to_json(100000)), *size, 100000)
    assert again.objects == layout.objects and not again.issues
    assert (again.caption, again.background) == (layout.caption, layout.background)
    assert places(from_boxes([layout.to_boxes()], *size))[0][1:] == places(layout)[0][1:]
    large = [o for o in layout.objects if min(o.width, o.height) > 8]
    layout = Layout(*size, large or layout.objects)
    if large:
        from_elements = from_boxes(elements(layout), *size)
        assert near(from_elements, layout, max(size) / 1000 + 0.51)
    read = parse(json.dumps(layout.to_boxes()), *size, "pixels")
    assert near(read, layout, 0)


@pytest.mark.parametrize("seed", range(40))
def test_what_comes_out_is_inside(seed):
    """Whatever the numbers, every object is a whole box inside of the picture, or reported."""
    rng = random.Random(seed)
    values = (lambda: rng.uniform(-200, 1200), lambda: rng.choice((0, 1, -1, 1e9, math.nan)))
    entries = [
        {"label": str(i), "box": [rng.choice(values)() if rng.random() < 0.2 else values[0]()
                                  for _ in range(4)]}
        for i in range(8)
    ]  # fmt: skip
    grid = rng.choice(("auto", "pixels", "fraction", 512, 1000))
    try:
        layout = parse(json.dumps(entries), 300, 200, grid)
    except ValueError:
        return
    for one in layout.objects:
        assert all(isinstance(n, int) for n in (one.x, one.y, one.width, one.height))
        assert one.width > 0 and one.height > 0
        assert one.x >= 0 and one.y >= 0 and one.right <= 300 and one.bottom <= 200
    gone = {str(i) for i in range(8)} - {one.label for one in layout.objects}
    for label in gone:
        assert any(f"('{label}')" in issue for issue in layout.issues), (label, layout.issues)


@pytest.mark.parametrize("seed", range(30))
def test_any_cut_of_a_layout_reads_or_says_why(seed):
    rng = random.Random(seed)
    text = json.dumps(random_layout(rng).to_json())
    cut = text[: rng.randint(0, len(text) - 1)]
    try:
        layout = parse(cut, 512, 512, 1000)
    except ValueError as error:
        assert str(error)
        return
    assert any("cut off" in issue for issue in layout.issues), cut


@pytest.mark.parametrize("seed", range(30))
def test_garbage_never_breaks_the_reader(seed):
    rng = random.Random(seed)
    letters = "{}[]()\"',:;.0123456789abc \n\\%-+#/`=<>é“”"
    text = "".join(rng.choice(letters) for _ in range(400))
    try:
        parse(text, 512, 512)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    "text",
    ["[" * 100000, '{"a":' * 40000, "('a'," * 40000, '[{"a": x' * 20000, "cat {" * 20000,
     "a: [1" * 30000, '"' * 100000, "- [1 2 3" * 20000, " " * 200000, '[["a", [1,2,3,4]' * 8000],
)  # fmt: skip
def test_long_garbage_is_read_in_time(text):
    begun = time.monotonic()
    try:
        parse(text, 512, 512)
    except ValueError:
        pass
    assert time.monotonic() - begun < 20  # linear: far below a second where nothing else runs


# Checking and planning


@pytest.mark.parametrize("seed", range(40))
def test_made_up_scenes_fit_their_wish(seed):
    one = scene(random.Random(seed))
    report = check(one.layout, one.prompt)
    assert report.score == 1 and not report.complaints


def layout_of(*boxes: tuple) -> Layout:
    return Layout(512, 512, [LayoutObject(*box) for box in boxes])


CAT, DOG = ("cat", 20, 200, 100, 100), ("brown dog", 300, 200, 180, 180)


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ("a cat left of a dog", None),
        ("a cat to the right of a dog", "'cat' is not to the right of 'dog'"),
        ("a dog bigger than a cat", None),
        ("a cat bigger than the dog", "not bigger than"),
        ("a cat below a dog", "not below"),
        ("three cats and a dog", "3 of 'cat' are asked for, the plan has 1"),
        ("some cats and a dog", "several of 'cat'"),
        ("a cat, a dog and two horses", "'two horses' are asked for, the plan has none"),
        ("a picture of a cat and a dog in the park", None),
    ],
)
def test_complaints(prompt, complaint):
    report = check(layout_of(CAT, DOG), prompt)
    if complaint is None:
        assert not report.complaints and report.score == 1
    else:
        assert any(complaint in text for text in report.complaints), report.complaints
        assert report.score < 1


def test_overlap_is_a_complaint_unless_the_text_allows_it():
    over = layout_of(("cat", 0, 0, 100, 100), ("dog", 10, 10, 100, 100))
    assert "cover each other" in check(over, "a cat and a dog").complaints[0]
    assert not check(over, "a cat inside a dog").complaints


ANSWER = '{"objects": [{"label": "cat", "box": [0, 0, 400, 400]}]}'
BETTER = ANSWER[:-2] + ', {"label": "cat", "box": [500, 0, 900, 400]}]}'


def test_asks_again_with_the_complaint():
    answers, told = [ANSWER, "no idea", BETTER, ANSWER], []

    def ask(text, attempt, grammar):
        told.append(text)
        return answers[attempt]

    found = plan(Wish("two cats", 512, 512), ask, retries=3)
    assert len(found.layout.objects) == 2 and found.attempts == 3
    assert "2 of 'cat'" in told[1] and "no layout" in told[2].lower()
    with pytest.raises(ValueError, match="planned no layout"):
        plan(Wish("two cats", 512, 512), lambda *_: "no", retries=1)
    with pytest.raises(ValueError, match="empty"):
        plan(Wish(" ", 512, 512), ask)


def test_answers_on_the_asked_grid_and_others():
    wish = Wish("a cat", 1024, 1024)
    assert places(read_answer(ANSWER, wish)) == [("cat", 0, 0, 410, 410)]
    fractions = ANSWER.replace("400", "0.4")
    assert places(read_answer(fractions, wish)) == [("cat", 0, 0, 410, 410)]


def test_grammar_takes_what_we_write_and_repairs_what_is_cut():
    grammar = LayoutGrammar(least=1)
    layout = Layout(1000, 1000, [LayoutObject("a \\ cat", 0, 10, 500, 600, ("red",))], 'a "x"', "b")
    text = json.dumps(layout.to_json(), ensure_ascii=False)
    assert grammar.feed(text).complete
    for end in range(len(text)):
        state = grammar.feed(text[:end])
        assert state is not None and not state.complete
        whole = state.repaired(text[:end])
        assert whole is None or json.loads(whole)["objects"]
    for bad in ('{"caption": "a\n', '{"objects"', text.replace("500", "0"), text + " "):
        assert grammar.feed(bad) is None


# Uses


def test_masks_and_picture():
    layout = layout_of(("cat", 0, 0, 100, 50), ("dog", 100, 100, 200, 200))
    masks = box_masks(layout)
    assert masks.shape == (2, 512, 512) and masks[0].sum() == 5000 and masks[1].sum() == 40000
    assert background_mask(masks).sum() == 512 * 512 - 45000
    soft = box_masks(layout, 10)
    assert soft[0, 0, 0] == 1 and 0 < soft[0, 49, 0] < 0.2 and soft[1, 200, 200] == 1
    assert (soft <= masks).all()
    drawn = picture(layout)
    assert drawn.shape == (1, 512, 512, 3) and drawn.min() >= 0 and drawn.max() <= 1
    assert (drawn[0, 500, 500] == 1).all() and drawn[0, 20:40, 20:80].std() > 0


def test_composition():
    layout = layout_of(("a", 0, 0, 256, 512), ("b", 256, 0, 256, 512))
    red, green = torch.zeros(8, 8, 3), torch.zeros(20, 9, 3)
    red[..., 0], green[..., 1] = 1, 1
    image = compose(layout, [red, green])[0]
    assert torch.allclose(image[:, 10], torch.tensor([1.0, 0, 0]), atol=1e-3)
    assert torch.allclose(image[:, 400], torch.tensor([0, 1.0, 0]), atol=1e-3)
    white = torch.ones(8, 8, 3)
    seen = compose(layout, [white, green], background=red, clear_white=0.1)[0]
    assert torch.allclose(seen[:, 10], torch.tensor([1.0, 0, 0]), atol=1e-2)
    with pytest.raises(ValueError, match="1 pictures for 2 boxes"):
        compose(layout, [red])


def test_latent_units():
    layout = layout_of(("cat", 16, 24, 100, 203), ("dog", 500, 0, 12, 512))
    assert gligen_places(layout, 2) == [("cat", (25, 12, 3, 2)), ("dog", (64, 1, 0, 62))]
    with pytest.raises(ValueError, match="2 boxes.*room for 1"):
        gligen_places(layout, 1)
    assert area_regions(layout)[1] == ("dog", (64, 8, 0, 56))
    with pytest.raises(ValueError, match="at least 64"):
        area_regions(Layout(48, 512, layout.objects))


def test_boxes_without_descriptions():
    with pytest.raises(ValueError, match="elements output"):
        from_boxes([[{"x": 1, "y": 2, "width": 3, "height": 4}]], 64, 64)
    with pytest.raises(ValueError, match="no boxes"):
        from_boxes([], 64, 64)
    with pytest.raises(ValueError, match="2 frames"):
        from_boxes([[], []], 64, 64)
