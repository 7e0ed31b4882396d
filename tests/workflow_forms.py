"""The two forms of a workflow: the browser's (schema 0.4) and the server's (API)."""

from __future__ import annotations

from collections.abc import Iterator

DYNAMIC_COMBO, AUTOGROW = "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3"
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC_COMBO}
WIDGET_TYPES.add("BOUNDING_BOXES")  # ComfyUI's canvas
FRONTEND_ONLY = {"Note", "MarkdownNote", "Reroute"}
MUTED, BYPASSED = 2, 4


def inputs_of(definition: dict) -> Iterator[tuple[str, str, dict]]:
    """(name, type, options) of every input of a node, in the order of its widgets."""
    for section in ("required", "optional"):
        for name in definition["input_order"].get(section, []):
            yield name, *_described(definition["input"][section][name])


def _described(spec: list) -> tuple[str, dict]:
    options = spec[1] if len(spec) > 1 else {}
    return "COMBO" if isinstance(spec[0], list) else spec[0], options


def option_inputs(name: str, options: dict, chosen: str) -> Iterator[tuple[str, str, dict]]:
    """The further inputs that one option of a dynamic combo shows, with their full names."""
    for option in options["options"]:
        if option["key"] == chosen:
            for section in ("required", "optional"):
                for inner, spec in option["inputs"].get(section, {}).items():
                    yield f"{name}.{inner}", *_described(spec)


def grown_type(options: dict) -> str:
    """The type of every slot of an input that grows."""
    sections = options["template"]["input"].values()
    return next(spec[0] for section in sections for spec in section.values())


def is_widget(kind: str, options: dict) -> bool:
    return kind in WIDGET_TYPES and not options.get("forceInput")


def widget_names(definition: dict) -> list[str | None]:
    """Names in the order of ``widgets_values``; None for a value the server never sees."""
    names: list[str | None] = []
    for name, kind, options in inputs_of(definition):
        if is_widget(kind, options):
            names.append(name)
            if options.get("control_after_generate"):
                names.append(None)
            if options.get("image_upload"):
                names.append(None)
    return names


def signature(definition: dict) -> dict[str, list]:
    """What saved workflows hold by position: link slots, widget values, outputs."""
    return {
        "inputs": [name for name, _, _ in inputs_of(definition)],
        "widgets": widget_names(definition),
        "outputs": definition["output"],
    }


def read_widgets(inputs: Iterator[tuple[str, str, dict]], values: list) -> dict:
    """Widget values by name, taken from the front of the list."""
    found = {}
    for name, kind, options in inputs:
        if not is_widget(kind, options):
            continue
        value = values.pop(0)
        # a bare list would be taken for a link
        found[name] = {"__value__": value} if isinstance(value, list) else value
        if options.get("control_after_generate") or options.get("image_upload"):
            values.pop(0)
        if kind == DYNAMIC_COMBO:
            found |= read_widgets(option_inputs(name, options, found[name]), values)
    return found


def to_api(workflow: dict, object_info: dict[str, dict]) -> dict[str, dict]:
    """What the browser posts for a workflow: widget values by position, links by slot."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in FRONTEND_ONLY or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        definition = object_info[node["type"]]
        values = list(node.get("widgets_values", []))
        try:
            inputs = read_widgets(inputs_of(definition), values)
        except IndexError:
            raise ValueError(f"node {node['id']} ({node['type']}): too few values") from None
        if values:
            raise ValueError(f"node {node['id']} ({node['type']}): {len(values)} values too many")
        inputs |= {i["name"]: links[i["link"]] for i in node["inputs"] if i["link"] is not None}
        title = node.get("title") or definition["display_name"] or node["type"]
        prompt[str(node["id"])] = {
            "inputs": inputs,
            "class_type": node["type"],
            "_meta": {"title": title},
        }
    return prompt
