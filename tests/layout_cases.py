"""Layouts as language models write them, in many formats, all saying the same two boxes.

The cases are made by crossing forms of writing with units and with what models add around an
answer; hand-written oddities follow.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

WIDTH, HEIGHT = 768, 512
CAPTION, BACKGROUND = "a cat beside a red car", "a street at night"
# label, x, y, width, height in pixels
BOXES = (("a cat", 96, 256, 192, 192), ("red car", 384, 128, 360, 320))


@dataclass(frozen=True)
class Case:
    """A text, the grid to read it with, and what must come out of it.

    Attributes:
        boxes: (label, x, y, width, height) with a pixel of tolerance.
        issues: words that must stand in the issues, one issue for each; empty: no issue at all.
    """

    name: str
    text: str
    grid: str | int = "auto"
    boxes: tuple = BOXES
    caption: str | None = None
    background: str | None = None
    issues: tuple[str, ...] = ()
    size: tuple[int, int] = (WIDTH, HEIGHT)


UNITS: dict[str, tuple[str | int, Callable[[float, int], float]]] = {
    "fraction": ("fraction", lambda v, side: round(v / side, 4)),
    "pixels": ("pixels", lambda v, side: v),
    "square512": (512, lambda v, side: round(v * 512 / side, 2)),
    "square1000": (1000, lambda v, side: round(v * 1000 / side)),
}


def scaled(unit: str, corners: bool) -> list[tuple[str, list[float]]]:
    scale = UNITS[unit][1]
    found = []
    for label, x, y, w, h in BOXES:
        ends = (x + w, y + h) if corners else (w, h)
        numbers = (x, y, *ends)
        sides = (WIDTH, HEIGHT) * 2
        found.append((label, [scale(n, side) for n, side in zip(numbers, sides, strict=True)]))
    return found


def _objects(unit: str) -> str:
    entries = [{"label": label, "box": box} for label, box in scaled(unit, True)]
    return json.dumps({"caption": CAPTION, "background": BACKGROUND, "objects": entries})


def _named_sizes(unit: str) -> str:
    names = ("x", "y", "width", "height")
    entries = [
        {"name": label, **dict(zip(names, box, strict=True))} for label, box in scaled(unit, False)
    ]
    return json.dumps({"caption": CAPTION, "background": BACKGROUND, "elements": entries}, indent=2)


def _named_corners(unit: str) -> str:
    names = ("x_min", "y_min", "x_max", "y_max")
    entries = [
        {"object": label, "bounding_box": dict(zip(names, box, strict=True))}
        for label, box in scaled(unit, True)
    ]
    return json.dumps({"prompt": CAPTION, "background_prompt": BACKGROUND, "layout": entries})


def _bare_list(unit: str) -> str:
    return json.dumps([{"label": label, "bbox": box} for label, box in scaled(unit, True)])


def _by_label(unit: str) -> str:
    return json.dumps({label: box for label, box in scaled(unit, True)})


def _parallel(unit: str) -> str:
    labels, boxes = zip(*scaled(unit, True), strict=True)
    return json.dumps({"caption": CAPTION, "phrases": labels, "boxes": boxes})


def _lmd(unit: str) -> str:
    pairs = ", ".join(f"('{label}', {box})" for label, box in scaled(unit, False))
    return f"Caption: {CAPTION}\nObjects: [{pairs}]\nBackground prompt: {BACKGROUND}"


def _lmd_json(unit: str) -> str:
    pairs = json.dumps([[label, box] for label, box in scaled(unit, False)])
    return f"Objects: {pairs}\nBackground prompt: {BACKGROUND}\nNegative prompt: rain"


def _css(unit: str) -> str:
    names = ("left", "top", "width", "height")
    lines = []
    for label, box in scaled(unit, False):
        body = " ".join(f"{n}: {v}px;" for n, v in zip(names, box, strict=True))
        lines.append(f"{label} {{{body} }}")
    return "Layout:\n" + "\n".join(lines)


def _lines(unit: str) -> str:
    return "\n".join(f"{i}. {label}: {box}" for i, (label, box) in enumerate(scaled(unit, True), 1))


FORMS = {
    "objects": _objects,
    "named_sizes": _named_sizes,
    "named_corners": _named_corners,
    "bare_list": _bare_list,
    "by_label": _by_label,
    "parallel": _parallel,
    "lmd": _lmd,
    "lmd_json": _lmd_json,
    "css": _css,
    "lines": _lines,
}
JSON_FORMS = tuple(FORMS)[:6]


def _python_style(text: str) -> str:
    return text.replace('"', "'")


def _trailing_commas(text: str) -> str:
    return text.replace("]}", ",]}").replace("}]", "},]").replace("]]", "],]")


AROUND: dict[str, Callable[[str], str]] = {
    "bare": lambda text: text,
    "prose": lambda text: f"Sure! Here is a layout (it fits the picture):\n\n{text}\n\nEnjoy!",
    "fence": lambda text: f"```json\n{text}\n```",
    "fence_and_prose": lambda text: f"I planned it:\n```\n{text}\n```\nThe cat is on the left.",
    "thinking": lambda text: f'<think>maybe {{"objects": [1]}}...</think>\n{text}',
}


def crossed() -> list[Case]:
    cases = []
    for form, write in FORMS.items():
        for unit, (grid, _) in UNITS.items():
            text = write(unit)
            cases.append(Case(f"{form}-{unit}-told", text, grid))
            if unit == "square512" and form not in ("lmd", "lmd_json"):
                continue  # within pixels that a larger picture has too: nothing tells them apart
            if unit == "pixels" and form in ("lmd", "lmd_json"):
                continue  # these lists count on 512 by definition
            cases.append(Case(f"{form}-{unit}-auto", text))
        for around in ("prose", "thinking"):
            text = AROUND[around](write("fraction"))
            cases.append(Case(f"{form}-fraction-{around}-auto", text))
        for around in ("prose", "fence", "fence_and_prose", "thinking"):
            cases.append(Case(f"{form}-{around}", AROUND[around](write("square1000")), 1000))
    for form in JSON_FORMS:
        text = FORMS[form]("square1000")
        cases.append(Case(f"{form}-trailing_commas", _trailing_commas(text), 1000))
        cases.append(Case(f"{form}-single_quotes", _python_style(text), 1000))
        cases.append(Case(f"{form}-comments", text.replace("[", "[ // here\n", 1), 1000))
    return cases


def case(name: str, text: str, *boxes, grid="auto", issues=(), size=(512, 512), **more) -> Case:
    return Case(name, text, grid, boxes, issues=tuple(issues), size=size, **more)


CAT, DOG = ("cat", 100, 100, 200, 200), ("dog", 320, 300, 150, 180)
TWO = '{"objects": [{"label": "cat", "box": [100, 100, 300, 300]}, {"label": "dog", "box": '


def by_hand() -> list[Case]:
    return [
        # what is around or inside of the JSON
        case(
            "jsonl",
            '{"label": "cat", "box": [100, 100, 300, 300]}\n'
            '{"label": "dog", "box": [320, 300, 470, 480]}',
            CAT,
            DOG,
            grid="pixels",
        ),
        case(
            "apostrophe",
            "[('the cat's toy', [100, 100, 200, 200])]",
            ("the cat's toy", 100, 100, 200, 200),
        ),  # fmt: skip
        case(
            "quote_in_label",
            '[{"label": "a 12" record", "box": [100, 100, 300, 300]}]',
            ('a 12" record', 100, 100, 200, 200),
            grid="pixels",
        ),  # fmt: skip
        case(
            "escapes",
            '[{"label": "caf\\u00e9 \\"x\\"", "box": [100, 100, 300, 300]}]',
            ('café "x"', 100, 100, 200, 200),
            grid="pixels",
        ),  # fmt: skip
        case(
            "umlauts",
            '[{"label": "猫", "box": [100, 100, 300, 300]}]',
            ("猫", 100, 100, 200, 200),
            grid="pixels",
        ),  # fmt: skip
        case(
            "bare_keys",
            "{objects: [{label: 'cat', box: [100, 100, 300, 300]}]}",
            CAT,
            grid="pixels",
        ),  # fmt: skip
        case("missing_comma", '[{"label": "cat" "box": [100 100 300 300]}]', CAT, grid="pixels"),
        case("arrow", '{"cat" => [100, 100, 300, 300]}', CAT, grid="pixels"),
        case(
            "python_none",
            "[{'label': 'cat', 'box': (100, 100, 300, 300), 'color': None}]",
            CAT,
            grid="pixels",
        ),  # fmt: skip
        case("smart_quotes", "[{“label”: “cat”, “box”: [100, 100, 300, 300]}]", CAT, grid="pixels"),
        case(
            "ellipsis", '[{"label": "cat", "box": [100, 100, 300, 300]}, ...]', CAT, grid="pixels"
        ),  # fmt: skip
        case(
            "wrong_bracket",
            '{"objects": [{"label": "cat", "box": [100, 100, 300, 300)}]}',
            CAT,
            grid="pixels",
        ),  # fmt: skip
        case(
            "inside_string",
            json.dumps({"arguments": TWO + "[320, 300, 470, 480]}]}"}),
            CAT,
            DOG,
            grid="pixels",
        ),  # fmt: skip
        case(
            "reply",
            json.dumps({"choices": [{"message": {"content": TWO + "[320,300,470,480]}]}"}}]}),
            CAT,
            DOG,
            grid="pixels",
        ),  # fmt: skip
        # forms of a box
        case(
            "two_points", '[{"label": "cat", "box": [[100, 100], [300, 300]]}]', CAT, grid="pixels"
        ),  # fmt: skip
        case(
            "text_numbers", '[{"label": "cat", "box": "100, 100, 300, 300"}]', CAT, grid="pixels"
        ),  # fmt: skip
        case(
            "pixel_unit",
            '[{"label": "cat", "x": "100px", "y": "100px", "width": "200px", "height": "200px"}]',
            CAT,
        ),  # fmt: skip
        case(
            "percent",
            '[{"label": "cat", "left": "25%", "top": "50%", "width": "50%", "height": "25%"}]',
            ("cat", 128, 256, 256, 128),
        ),  # fmt: skip
        case(
            "centre",
            '[{"label": "cat", "cx": 200, "cy": 200, "w": 200, "h": 200}]',
            CAT,
            grid="pixels",
        ),  # fmt: skip
        case(
            "position_size",
            '[{"label": "cat", "position": {"x": 100, "y": 100}, "size": '
            '{"width": 200, "height": 200}}]',
            CAT,
            grid="pixels",
        ),  # fmt: skip
        case(
            "position_lists",
            '[{"label": "cat", "position": [100, 100], "size": [200, 200]}]',
            CAT,
            grid="pixels",
        ),  # fmt: skip
        case(
            "x1y1",
            '[{"label": "cat", "x1": 100, "y1": 100, "x2": 300, "y2": 300}]',
            CAT,
            grid="pixels",
        ),  # fmt: skip
        case(
            "x0y0",
            '[{"label": "cat", "x0": 100, "y0": 100, "x1": 300, "y1": 300}]',
            CAT,
            grid="pixels",
        ),  # fmt: skip
        case(
            "gemini",
            '[{"box_2d": [500, 250, 750, 1000], "label": "cat"}]',
            ("cat", 128, 256, 384, 128),
        ),  # fmt: skip
        case(
            "canvas_element",
            '[{"type": "obj", "bbox": [500, 250, 750, 1000], "desc": "cat"}]',
            ("cat", 128, 256, 384, 128),
        ),  # fmt: skip
        case(
            "canvas_frame",
            '[[{"x": 100, "y": 100, "width": 200, "height": 200, "metadata": '
            '{"type": "obj", "text": "", "desc": "cat", "palette": []}}]]',
            CAT,
        ),  # fmt: skip
        case("flat", '[["cat", 100, 100, 200, 200]]', CAT, grid="pixels"),
        case(
            "many_boxes",
            '[{"label": "cat", "boxes": [[100, 100, 300, 300], [320, 300, 470, 480]]}]',
            CAT,
            ("cat", *DOG[1:]),
            grid="pixels",
        ),  # fmt: skip
        case(
            "many_by_label",
            '{"cat": [[100, 100, 300, 300], [320, 300, 470, 480]]}',
            CAT,
            ("cat", *DOG[1:]),
            grid="pixels",
        ),  # fmt: skip
        case(
            "same_key_twice",
            '{"cat": [100, 100, 300, 300], "cat": [320, 300, 470, 480]}',
            CAT,
            ("cat", *DOG[1:]),
            grid="pixels",
        ),  # fmt: skip
        case(
            "sizes_not_corners",
            '[{"label": "cat", "box": [300, 100, 200, 50]}]',
            ("cat", 300, 100, 200, 50),
            grid="pixels",
        ),  # fmt: skip
        case(
            "named_canvas",
            '{"width": 1024, "height": 1024, "objects": [{"label": "cat", "box": '
            "[200, 200, 600, 600]}]}",
            CAT,
        ),  # fmt: skip
        case(
            "layout_gpt_64",
            "cat {width: 25px; height: 25px; left: 12.5px; top: 12.5px; }\n"
            "dog {height: 20px; width: 20px; top: 40px; left: 40px; }",
            CAT,
            ("dog", 320, 320, 160, 160),
        ),  # fmt: skip
        case(
            "up_to_1000_on_a_larger_picture",
            '[{"label": "sky", "box": [0, 0, 1000, 500]}, {"label": "cat", "box": [250, 500, 500, '
            "750]}]",
            ("sky", 0, 0, 1024, 512),
            ("cat", 256, 512, 256, 256),
            size=(1024, 1024),
        ),
        # what is dropped or altered
        case(
            "partly_outside",
            '[{"label": "cat", "x": -50, "y": 400, "width": 150, "height": 200}]',
            ("cat", 0, 400, 100, 112),
            grid="pixels",
            issues=["cut at the edge"],
        ),  # fmt: skip
        case(
            "fraction_outside",
            '[{"label": "cat", "box": [0.5, 0.5, 1.2, 0.9]}]',
            ("cat", 256, 256, 256, 205),
            issues=["cut at the edge"],
        ),  # fmt: skip
        case(
            "wholly_outside",
            TWO + "[600, 10, 700, 90]}]}",
            CAT,
            grid="pixels",
            issues=["'dog'.*outside the canvas"],
        ),  # fmt: skip
        case(
            "left_of_the_canvas",
            TWO + "[-90, 10, -10, 90]}]}",
            CAT,
            grid="pixels",
            issues=["'dog'.*outside"],
        ),  # fmt: skip
        case(
            "no_width",
            '[{"label": "cat", "box": [100, 100, 300, 300]}, '
            '{"label": "dog", "x": 5, "y": 5, "width": 0, "height": 9}]',
            CAT,
            grid="pixels",
            issues=["'dog'.*empty"],
        ),  # fmt: skip
        case(
            "negative_width",
            '[{"label": "cat", "box": [100, 100, 300, 300]}, '
            '{"label": "dog", "x": 50, "y": 5, "width": -20, "height": 9}]',
            CAT,
            grid="pixels",
            issues=["'dog'.*empty"],
        ),  # fmt: skip
        case(
            "infinite",
            TWO + "[0, 0, Infinity, 90]}]}",
            CAT,
            grid="pixels",
            issues=["'dog'.*not finite"],
        ),  # fmt: skip
        case(
            "overflow",
            TWO + "[0, 0, 1e999, 90]}]}",
            CAT,
            grid="pixels",
            issues=["'dog'.*not finite"],
        ),  # fmt: skip
        case(
            "not_a_number",
            TWO + "[0, NaN, 50, 90]}]}",
            CAT,
            grid="pixels",
            issues=["'dog'.*not finite"],
        ),  # fmt: skip
        case(
            "null", TWO + "[0, null, 50, 90]}]}", CAT, grid="pixels", issues=["'dog'.*no number"]
        ),  # fmt: skip
        case(
            "three_numbers", TWO + "[0, 50, 90]}]}", CAT, grid="pixels", issues=["'dog'.*3 numbers"]
        ),  # fmt: skip
        case(
            "words_for_a_box",
            TWO + '"bottom left"}]}',
            CAT,
            grid="pixels",
            issues=["'dog'.*no box"],
        ),  # fmt: skip
        case(
            "no_label",
            '[{"label": "cat", "box": [100, 100, 300, 300]}, {"box": [0, 0, 90, 90]}]',
            CAT,
            grid="pixels",
            issues=["no label"],
        ),  # fmt: skip
        case(
            "speck",
            TWO + "[10.1, 10.1, 10.3, 10.3]}]}",
            CAT,
            grid="pixels",
            issues=["'dog'.*smaller than a pixel"],
        ),  # fmt: skip
        case(
            "swapped_corners",
            '[{"label": "cat", "x1": 300, "y1": 300, "x2": 100, "y2": 100}]',
            CAT,
            grid="pixels",
            issues=["wrong order"],
        ),  # fmt: skip
        case(
            "labels_without_boxes",
            '{"labels": ["cat", "dog"], "boxes": [[100, 100, 300, 300]]}',
            CAT,
            grid="pixels",
            issues=["2 labels and 1 boxes"],
        ),  # fmt: skip
        case(
            "code",
            TWO + "[0, 0, __import__('os').system('touch /tmp/owned'), 9]}]}",
            CAT,
            grid="pixels",
            issues=["'dog'.*no number"],
        ),  # fmt: skip
        case(
            "arithmetic",
            TWO + "[0, 0, 512 - 100, 9]}]}",
            CAT,
            grid="pixels",
            issues=["'dog'.*no number"],
        ),  # fmt: skip
        case(
            "two_answers",
            '[{"label": "cat", "box": [1, 1, 9, 9]}]\nBetter:\n'
            '[{"label": "cat", "box": [100, 100, 300, 300]}]',
            CAT,
            grid="pixels",
            issues=["other layouts"],
        ),  # fmt: skip
        # cut-off ends
        case(
            "cut_in_box", TWO + "[320, 30", CAT, grid="pixels", issues=["cut off", "'dog'.*cut off"]
        ),  # fmt: skip
        case(
            "cut_after_a_number",
            TWO + "[320, 300, 470, 48",
            CAT,
            grid="pixels",
            issues=["cut off", "'dog'.*cut off"],
        ),  # fmt: skip
        case(
            "cut_after_the_box",
            TWO + "[320, 300, 470, 480]",
            CAT,
            DOG,
            grid="pixels",
            issues=["cut off"],
        ),  # fmt: skip
        case(
            "cut_in_a_label", TWO[: TWO.index('dog"') + 1], CAT, grid="pixels", issues=["cut off"]
        ),  # fmt: skip
        case(
            "cut_in_a_list",
            "Objects: [('cat', [100, 100, 200, 200]), ('dog', [320,",
            CAT,
            issues=["cut off", "cut off"],
        ),  # fmt: skip
        case(
            "cut_css",
            "cat {left: 100px; top: 100px; width: 200px; height: 200px;}\n"
            "dog {left: 320px; top: 300px; width: 15",
            CAT,
            grid="pixels",
            issues=["cut off", "'dog'.*not complete"],
        ),  # fmt: skip
        case(
            "cut_caption",
            TWO + '[320, 300, 470, 480]}], "caption": "a cat and',
            CAT,
            DOG,
            grid="pixels",
            issues=["cut off"],
            caption="",
        ),  # fmt: skip
    ]


CASES = [*crossed(), *by_hand()]

NOTHING = {
    "empty": "",
    "space": " \n ",
    "prose": "I cannot help with that.",
    "json_without_boxes": '{"answer": "a cat on the left"}',
    "labels_only": '{"objects": ["cat", "dog"]}',
    "no_objects": '{"caption": "a cat", "objects": []}',
    "all_outside": '[{"label": "cat", "x": 600, "y": 600, "width": 9, "height": 9}]',
    "all_empty": '[{"label": "cat", "x": 1, "y": 1, "width": 0, "height": 0}]',
    "cut_before_anything": '{"caption": "a cat", "objects": [{"label": "c',
    "numbers": "[1, 2, 3, 4]",
    "brackets": "[" * 5000,
    "html": "<html><body>502 Bad Gateway</body></html>",
}
