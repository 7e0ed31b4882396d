"""Layouts in JSON of many shapes, and in LLM-grounded diffusion's lists of pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .boxes import BOX_KEYS, RawBox, box_of, boxes_of, flat_boxes, plain, read_box
from .drafts import JSON, PAIRS, Draft, RawObject, cut_off, with_box
from .reading import Broken, Value, as_number, find_values

MAX_TEXT_DEPTH = 3  # JSON inside of a JSON string

LABEL_KEYS = (
    *("label", "name", "object", "objectname", "phrase", "category", "class", "classname"),
    *("entity", "subject", "item", "tag", "desc", "description", "caption", "prompt", "title"),
    *("text", "content", "id"),
)
LIST_KEYS = (
    *("objects", "elements", "boxes", "bboxes", "boundingboxes", "layout", "items", "regions"),
    *("entities", "annotations", "detections", "instances", "subjects", "components", "children"),
    *("predictions", "results", "shapes", "foreground", "data", "output", "scene", "plan"),
)
CAPTION_KEYS = (
    *("caption", "highleveldescription", "imagecaption", "globalcaption", "overallcaption"),
    *("scene", "description", "prompt", "title", "summary", "globaldescription"),
)
BACKGROUND_KEYS = ("background", "backgroundprompt", "bg", "backgrounddescription", "setting")
NEGATIVE_KEYS = ("negative", "negativeprompt")
ATTRIBUTE_KEYS = (
    *("attributes", "attribute", "attrs", "color", "colour", "colors", "material", "style"),
    *("texture", "pose", "details", "modifiers", "adjectives", "properties"),
)
CANVAS_KEYS = ("canvas", "imagesize", "canvassize", "resolution", "size", "dimensions", "image")


def from_json(text: str) -> Iterator[Draft]:
    singles: list[RawObject] = []  # one object after the other, without a list around them
    cut: list[Value] = []
    for value in find_values(text):
        draft = _draft_of(value.data)
        if draft is not None:
            if value.cut:
                draft.issues.append(cut_off(text))
            yield draft
        elif isinstance(value.data, dict) and (entries := list(_objects_of(value.data))):
            singles += entries
            cut += [value] if value.cut else []
    if singles:
        draft = Draft(JSON, singles)
        draft.issues += [cut_off(text)] if cut else []
        yield draft


def _draft_of(data: Any, depth: int = 0) -> Draft | None:
    """A draft from a value that holds several objects, or holds them somewhere inside."""
    if isinstance(data, list):
        return _draft_of_list(data, depth)
    if not isinstance(data, dict) or depth > 8:
        return None
    draft = _parallel_lists(data) or _listed(data, depth) or _labels_as_keys(data)
    if draft is None and not _is_object(data):
        draft = _draft_inside(data, depth)
    if draft is not None:
        _read_texts(data, draft)
    return draft


def _draft_of_list(data: list, depth: int) -> Draft | None:
    pair = _pair(data)
    if pair is not None:  # ("cat", [1, 2, 3, 4]) alone
        return Draft(PAIRS, [pair])
    if data and all(isinstance(entry, list) and entry for entry in data):
        if all(isinstance(entry[0], dict) for entry in data):  # a list of frames
            frames = [_draft_of_list(entry, depth + 1) for entry in data if depth < 4]
            draft = next((frame for frame in frames if frame), None)
            if draft and len(data) > 1:
                draft.issues.append(f"{len(data) - 1} more frames were left out")
            return draft
    draft = Draft(JSON)
    for entry in data:
        if isinstance(entry, list) and (pair := _pair(entry)):
            draft.form = PAIRS
            draft.objects.append(pair)
        elif isinstance(entry, dict):
            draft.objects += _objects_of(entry) or _labels_of(entry)
        elif isinstance(entry, Broken):
            draft.objects.append(RawObject("", None, f"it cannot be read: {entry.text[:60]!r}"))
        elif isinstance(entry, list):
            draft.objects += [RawObject("", read_box(entry))] if _looks_boxed(entry) else []
    return draft if draft.objects else None


def _looks_boxed(entry: list) -> bool:
    return isinstance(read_box(entry), RawBox)


def _pair(entry: list) -> RawObject | None:
    """("cat", [1, 2, 3, 4]), ([1, 2, 3, 4], "cat"), ("cat", 1, 2, 3, 4)."""
    for label, box in flat_boxes(entry):
        return RawObject(label, box)
    if len(entry) < 2 or len(entry) > 3:
        return None
    label, value = (entry[1], entry[0]) if isinstance(entry[1], str) else (entry[0], entry[1])
    if not isinstance(label, str) or not isinstance(value, (list, dict, Broken)):
        return None
    if isinstance(value, list) and any(isinstance(item, (str, dict)) for item in value[:1]):
        if not isinstance(as_number(str(value[0])), float):
            return None
    return with_box(RawObject(label), read_box(value))


def _listed(data: Mapping[str, Any], depth: int) -> Draft | None:
    """{"objects": [...]}: the first of these keys that holds objects."""
    by_name = {plain(key): value for key, value in data.items()}
    if _is_object(data):
        return None
    for name in LIST_KEYS:
        value = by_name.get(name)
        if isinstance(value, dict) and not _is_object(value):
            draft = _draft_of(value, depth + 1) or _named_entries(value)
        else:
            draft = _draft_of_list(value, depth + 1) if isinstance(value, list) else None
        if draft is not None:
            return draft
    if any(by_name.get(name) == [] for name in LIST_KEYS):
        return Draft(JSON)
    return None


def _named_entries(data: Mapping[str, Any]) -> Draft | None:
    """{"object_1": {"label": ..., "box": ...}, ...}"""
    entries = [e for value in data.values() if isinstance(value, dict) for e in _objects_of(value)]
    return Draft(JSON, entries) if entries else None


def _parallel_lists(data: Mapping[str, Any]) -> Draft | None:
    """{"labels": [...], "boxes": [...]}, as detectors and GLIGEN have them."""
    by_name = {plain(key): value for key, value in data.items()}
    names = ("labels", "phrases", "names", "classes", "categories", "objects", "texts")
    places = ("boxes", "bboxes", "locations", "boundingboxes", "coordinates", "positions")
    labels = next((by_name[n] for n in names if _all(by_name.get(n), str)), None)
    boxes = next((by_name[n] for n in places if _all(by_name.get(n), (list, dict))), None)
    if labels is None or boxes is None or any(isinstance(b, dict) and _label(b) for b in boxes):
        return None
    pairs = zip(labels, boxes, strict=False)
    draft = Draft(JSON, [with_box(RawObject(label), read_box(box)) for label, box in pairs])
    if len(labels) != len(boxes):
        draft.issues.append(f"{len(labels)} labels and {len(boxes)} boxes: the rest was dropped")
    return draft


def _all(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, kind) for v in value)


def _labels_as_keys(data: Mapping[str, Any]) -> Draft | None:
    entries = _labels_of(data)
    return Draft(JSON, entries) if entries else None


def _labels_of(data: Mapping[str, Any]) -> list[RawObject]:
    """{"cat": [1, 2, 3, 4], "dog": {"x": ...}, "birds": [[...], [...]]}"""
    known = {*BOX_KEYS, *CAPTION_KEYS, *BACKGROUND_KEYS, *CANVAS_KEYS, *ATTRIBUTE_KEYS}
    found = []
    for key, value in data.items():
        label = key.split("\0")[0]
        if plain(label) in known or not isinstance(value, (list, dict)):
            continue
        if isinstance(value, dict) and _label(value):
            continue
        box = read_box(value)
        if isinstance(box, RawBox):
            found.append(RawObject(label, box, "", _attributes(value)))
        elif isinstance(value, list) and value and all(map(_is_box, value)):
            found += [with_box(RawObject(label), read_box(item)) for item in value]
        elif box and not _is_texts(value) and found:
            found.append(RawObject(label, None, box))
    return found


def _is_box(value: Any) -> bool:
    return isinstance(value, (list, dict)) and isinstance(read_box(value), RawBox)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, (str, dict)) for item in value)


def _draft_inside(data: Mapping[str, Any], depth: int) -> Draft | None:
    """A layout somewhere below, as in {"arguments": "{\\"objects\\": ...}"}."""
    for value in data.values():
        if isinstance(value, str) and depth < MAX_TEXT_DEPTH and re.search(r"[\[{]", value):
            inner = [_draft_of(found.data, depth + 1) for found in find_values(value)]
            value = next((draft for draft in inner if draft), None)
            if value is not None:
                return value
        entries = value if isinstance(value, list) else []
        for inner in [value, *(entry for entry in entries if isinstance(entry, dict))]:
            draft = _draft_of(inner, depth + 1)
            if draft is not None:
                return draft
    return None


def _is_object(data: Mapping[str, Any]) -> bool:
    """Whether a dict is one object rather than a layout: a label and a box of its own."""
    return _label(data) != "" and (box_of(data) is not None or bool(boxes_of(data)))


def _objects_of(data: Mapping[str, Any]) -> list[RawObject]:
    """The objects of one entry; several if it has several boxes."""
    label, attributes = _label(data), _attributes(data)
    text = data.get("text") if data.get("type") == "text" else ""
    shared = {"attributes": attributes, "text": text if isinstance(text, str) else ""}
    if boxes := boxes_of(data):
        return [with_box(RawObject(label, **shared), box) for box in boxes]
    box = box_of(data)
    if box is None and not label:
        return []
    box = _element(data) or box
    if box is None and any(isinstance(v, (list, dict)) for v in data.values()):
        if _draft_of({k: v for k, v in data.items() if not isinstance(v, str)}, 6):
            return []
    return [with_box(RawObject(label, **shared), box)]


def _element(data: Mapping[str, Any]) -> RawBox | None:
    """The box of ComfyUI's canvas elements: [ymin, xmin, ymax, xmax] on a grid of 1000."""
    if data.get("type") in ("obj", "text") and isinstance(data.get("bbox"), list):
        box = read_box(data["bbox"], "yxyx", 1000.0)
        return box if isinstance(box, RawBox) else None
    return None


def _label(data: Mapping[str, Any]) -> str:
    by_name = {plain(key): value for key, value in reversed(list(data.items()))}
    for name in LABEL_KEYS:
        value = by_name.get(name)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, float) and name != "id":
            return f"{value:g}"
    inside = by_name.get("metadata")  # a box of ComfyUI's canvas
    return _label(inside) if isinstance(inside, dict) else ""


def _attributes(data: Any) -> tuple[str, ...]:
    if not isinstance(data, dict):
        return ()
    found: list[str] = []
    for key, value in data.items():
        if plain(key) in ATTRIBUTE_KEYS:
            found += _texts(value)
    inside = data.get("metadata")
    return tuple(found) + (_attributes(inside) if isinstance(inside, dict) else ())


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    return [f"{value:g}"] if isinstance(value, float) else []


def _read_texts(data: Mapping[str, Any], draft: Draft) -> None:
    by_name = {plain(key): value for key, value in reversed(list(data.items()))}
    for names, place in (
        (CAPTION_KEYS, "caption"),
        (BACKGROUND_KEYS, "background"),
        (NEGATIVE_KEYS, "negative"),
    ):
        texts = (by_name[name] for name in names if isinstance(by_name.get(name), str))
        setattr(draft, place, getattr(draft, place) or next(texts, ""))
    background = by_name.get("background")
    if not draft.background and isinstance(background, dict):
        draft.background = _label(background)
    draft.canvas = draft.canvas or _canvas(by_name)


def _canvas(by_name: Mapping[str, Any]) -> tuple[float, float] | None:
    for value in (*(by_name.get(name) for name in CANVAS_KEYS), by_name):
        if isinstance(value, Mapping):
            names = {plain(key): item for key, item in value.items()}
            value = [names.get("width"), names.get("height")]
        elif isinstance(value, str) and (match := re.fullmatch(r"(\d+)\s*[x×*]\s*(\d+)", value)):
            value = [float(match[1]), float(match[2])]
        if isinstance(value, list) and len(value) == 2 and all(map(_is_size, value)):
            return value[0], value[1]
    return None


def _is_size(value: Any) -> bool:
    return isinstance(value, float) and 1 < value < 1e6
