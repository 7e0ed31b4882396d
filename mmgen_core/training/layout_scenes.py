"""Made-up wishes for pictures, the layouts and the rewritten texts that answer them: what the demo
language model learns from. A grammar of counts, colours, sizes, places and relations; no data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..conditioners.layout import Layout, LayoutObject

SIDE, STEP = 1000, 20
NOUNS = (
    "heart star circle square cat dog mouse rabbit fox bear panda koala tiger lion cow pig frog "
    "monkey chicken penguin bird duck owl horse unicorn zebra giraffe elephant turtle snake whale "
    "dolphin fish shark octopus crab snail butterfly bee ladybug spider sheep flamingo parrot "
    "flower rose sunflower tulip tree palm-tree cactus leaf mushroom apple pear lemon banana "
    "pineapple strawberry tomato carrot bread burger pizza egg cake cookie ice-cream sun moon "
    "cloud rainbow snowflake snowman fire umbrella car taxi bus truck train bicycle plane "
    "helicopter rocket boat house castle church mountain volcano book gift bell candle key "
    "hammer pencil "
    "crown ring hat guitar trumpet camera clock ball trophy bomb balloon lamp robot ghost face "
    "bottle cup chair table door window lighthouse bridge boy girl woman man"
).split()
PLURALS = {"mouse": "mice", "woman": "women", "man": "men", "sheep": "sheep", "fish": "fish"}
PLURALS |= {"leaf": "leaves", "pencil": "pencils"}
COLOURS = "red orange yellow green blue purple pink brown black white grey golden".split()
SIZES = {"big": 1.0, "large": 1.0, "huge": 1.0, "small": 0.42, "tiny": 0.36, "little": 0.42}
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
BEGINNINGS = (
    "",
    "",
    "",
    "",
    "a picture of ",
    "draw ",
    "a drawing of ",
    "an image of ",
    "please draw ",
)
BACKGROUNDS = (
    *("on a white background", "in the snow", "on a beach", "in a park", "at night", "in a field"),
    *("in a kitchen", "in a forest", "under a blue sky", "in the city", "by a lake", "on grass"),
)
PLACES = {
    "in the middle": (200, 200, 800, 800),
    "in the center": (200, 200, 800, 800),
    "on the left": (0, 160, 500, 840),
    "on the right": (500, 160, 1000, 840),
    "at the top": (160, 0, 840, 500),
    "at the bottom": (160, 500, 840, 1000),
    "in the top left corner": (0, 0, 480, 480),
    "in the top right corner": (520, 0, 1000, 480),
    "in the bottom left corner": (0, 520, 480, 1000),
    "in the bottom right corner": (520, 520, 1000, 1000),
}
LEFT, RIGHT = (0, 160, 500, 840), (500, 160, 1000, 840)
TOP, BOTTOM = (160, 0, 840, 500), (160, 500, 840, 1000)
RELATIONS = {
    "to the left of": (LEFT, RIGHT),
    "left of": (LEFT, RIGHT),
    "next to": (LEFT, RIGHT),
    "to the right of": (RIGHT, LEFT),
    "right of": (RIGHT, LEFT),
    "above": (TOP, BOTTOM),
    "over": (TOP, BOTTOM),
    "on top of": (TOP, BOTTOM),
    "below": (BOTTOM, TOP),
    "under": (BOTTOM, TOP),
}
COMPARISONS = {"bigger than": (1.0, 0.5), "larger than": (1.0, 0.5), "smaller than": (0.5, 1.0)}
STYLES = (
    *(
        "noto style",
        "fluent style",
        "flat drawing, bright colours",
        "simple shapes, clean outlines",
    ),
    *("soft light, detailed", "white background, centred", "cheerful colours, high quality"),
)
SYLLABLES = "ba ko mi ra zu lo ven tar pil dor sha nek fu gri wex yo cla stu ber qui".split()

Region = tuple[int, int, int, int]


@dataclass(frozen=True)
class Thing:
    """One or several of the same kind: "three small red apples"."""

    noun: str
    count: int = 1
    size: str = ""
    colour: str = ""

    @property
    def words(self) -> str:
        noun = self.noun.replace("-", " ")
        name = " ".join(filter(None, (self.size, self.colour, noun)))
        if self.count > 1:
            number = next(word for word, n in NUMBERS.items() if n == self.count)
            return f"{number} {name.removesuffix(noun)}{plural(self.noun)}"
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"

    def objects(self, region: Region, factor: float, rng: random.Random) -> list[LayoutObject]:
        """As many boxes in rows of the region, all of one size."""
        factor = SIZES.get(self.size, factor)
        words = tuple(filter(None, (self.size, self.colour)))
        boxes = [_box(cell, factor, rng) for cell in _cells(region, self.count)]
        return [LayoutObject(self.noun.replace("-", " "), *box, words) for box in boxes]


@dataclass(frozen=True)
class Scene:
    """A wish and its answers."""

    prompt: str
    layout: Layout
    rewritten: str


@dataclass
class _Draft:
    text: str
    objects: list[LayoutObject] = field(default_factory=list)


def plural(noun: str) -> str:
    words = noun.replace("-", " ")
    if noun in PLURALS:
        return PLURALS[noun]
    if words.endswith(("s", "x", "ch", "sh")):
        return f"{words}es"
    return f"{words[:-1]}ies" if words[-1] == "y" and words[-2] not in "aeiou" else f"{words}s"


def scene(rng: random.Random, nouns: Sequence[str] = NOUNS) -> Scene:
    """A made-up scene. One noun in six is no word, so that the model learns to copy."""
    draft = rng.choice((_groups, _groups, _related, _related, _placed, _compared))(rng, nouns)
    background = rng.choice(BACKGROUNDS) if rng.random() < 0.35 else ""
    wish = f"{draft.text} {background}".strip()
    caption = wish
    prompt = rng.choice(BEGINNINGS) + wish
    if rng.random() < 0.2:
        prompt = prompt.capitalize() + rng.choice((".", "", "!"))
    around = background.split(" ", 1)[-1] if background else "plain white background"
    around = around.removeprefix("a ").removeprefix("the ")
    layout = Layout(SIDE, SIDE, draft.objects, caption, around)
    return Scene(prompt, layout, f"{wish}, {rng.choice(STYLES)}")


def _noun(rng: random.Random, nouns: Sequence[str]) -> str:
    if rng.random() < 1 / 6:
        return "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((2, 2, 3))))
    return rng.choice(nouns)


def _thing(rng: random.Random, nouns: Sequence[str], most: int = 1) -> Thing:
    count = rng.randint(2, most) if most > 1 and rng.random() < 0.6 else 1
    size = rng.choice(tuple(SIZES)) if rng.random() < 0.25 else ""
    colour = rng.choice(COLOURS) if rng.random() < 0.4 else ""
    return Thing(_noun(rng, nouns), count, size, colour)


def _groups(rng: random.Random, nouns: Sequence[str]) -> _Draft:
    amount = rng.choice((1, 1, 2, 2, 3))
    things = [
        _thing(rng, nouns, 6 if amount == 1 else 4 if amount == 2 else 2) for _ in range(amount)
    ]
    words = [thing.words for thing in things]
    text = words[0] if amount == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    draft = _Draft(text)
    for thing, region in zip(things, _bands(amount, sum(t.count for t in things) > 3), strict=True):
        draft.objects += thing.objects(region, 0.78, rng)
    return draft


def _bands(amount: int, rows: bool) -> list[Region]:
    """Regions one below the other, or one beside the other."""
    edges = [round(SIDE * i / amount) for i in range(amount + 1)]
    bands = list(zip(edges[:-1], edges[1:], strict=True))
    across = 0 if amount == 1 else 100
    if rows:
        return [(0, a, SIDE, b) for a, b in bands]
    return [(a, across, b, SIDE - across) for a, b in bands]


def _related(rng: random.Random, nouns: Sequence[str]) -> _Draft:
    first, second = (_thing(rng, nouns, rng.choice((1, 1, 3))) for _ in range(2))
    words = rng.choice(tuple(RELATIONS))
    regions = RELATIONS[words]
    draft = _Draft(f"{first.words} {words} {second.words}")
    draft.objects += first.objects(regions[0], 0.78, rng)
    draft.objects += second.objects(regions[1], 0.78, rng)
    return draft


def _placed(rng: random.Random, nouns: Sequence[str]) -> _Draft:
    places = rng.sample(tuple(PLACES), rng.choice((1, 1, 2)))
    if len(places) == 2 and _overlap(PLACES[places[0]], PLACES[places[1]]):
        places = places[:1]
    things = [_thing(rng, nouns, rng.choice((1, 1, 3))) for _ in places]
    parts = [f"{thing.words} {place}" for thing, place in zip(things, places, strict=True)]
    draft = _Draft(" and ".join(parts))
    for thing, place in zip(things, places, strict=True):
        draft.objects += thing.objects(PLACES[place], 0.85, rng)
    return draft


def _compared(rng: random.Random, nouns: Sequence[str]) -> _Draft:
    first = Thing(_noun(rng, nouns), colour=rng.choice(("", *COLOURS)))
    second = Thing(_noun(rng, nouns), colour=rng.choice(("", *COLOURS)))
    words = rng.choice(tuple(COMPARISONS))
    draft = _Draft(f"{first.words} {words} {second.words}")
    for thing, region, factor in zip(
        (first, second), (LEFT, RIGHT), COMPARISONS[words], strict=True
    ):
        draft.objects += thing.objects(region, factor, rng)
    return draft


def _overlap(a: Region, b: Region) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _cells(region: Region, count: int) -> list[Region]:
    """Rows of equal cells: the longer side of a region is divided first."""
    left, top, right, bottom = region
    width, height = right - left, bottom - top
    rows = 1 if count <= 3 or width >= 2 * height else 2
    if height >= 2 * width and count > 1:
        rows = count
    columns = -(-count // rows)
    cells = []
    for i in range(count):
        row, column = divmod(i, columns)
        alone = min(columns, count - row * columns)
        x = left + (width - alone * width / columns) / 2 + column * width / columns
        y = top + row * height / rows
        cells.append((round(x), round(y), round(x + width / columns), round(y + height / rows)))
    return cells


def _box(cell: Region, factor: float, rng: random.Random) -> tuple[int, int, int, int]:
    """x, y, width, height of a box in the middle of a cell, on the grid of coordinates."""
    left, top, right, bottom = cell
    side = max(60, min(right - left, bottom - top) * factor * rng.uniform(0.92, 1.0))
    side = round(side / STEP) * STEP
    x = round((left + right - side) / 2 / STEP) * STEP
    y = round((top + bottom - side) / 2 / STEP) * STEP
    x, y = max(0, min(SIDE - side, x)), max(0, min(SIDE - side, y))
    return x, y, side, side
