"""The two forms of a workflow: the browser's (schema 0.4) and the server's (API)."""

from __future__ import annotations

from collections.abc import Iterator

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
FRONTEND_ONLY = {"Note", "MarkdownNote", "Reroute"}
MUTED, BYPASSED = 2, 4


def inputs_of(definition: dict) -> Iterator[tuple[str, str, dict]]:
    """(name, type, options) of every input of a node, in the order of its widgets."""
    for section in ("required", "optional"):
        for name in definition["input_order"].get(section, []):
            spec = definition["input"][section][name]
            options = spec[1] if len(spec) > 1 else {}
            yield name, "COMBO" if isinstance(spec[0], list) else spec[0], options


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


def to_api(workflow: dict, object_info: dict[str, dict]) -> dict[str, dict]:
    """What the browser posts for a workflow: widget values by position, links by slot."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in FRONTEND_ONLY or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        definition = object_info[node["type"]]
        names = widget_names(definition)
        values = node.get("widgets_values", [])
        if len(names) != len(values):
            raise ValueError(f"node {node['id']} ({node['type']}): {len(values)} values, {names}")
        inputs = {n: v for n, v in zip(names, values, strict=True) if n is not None}
        inputs |= {i["name"]: links[i["link"]] for i in node["inputs"] if i["link"] is not None}
        title = node.get("title") or definition["display_name"]
        prompt[str(node["id"])] = {
            "inputs": inputs,
            "class_type": node["type"],
            "_meta": {"title": title},
        }
    return prompt
