"""Writes workflows/*.json and workflows/api/*.json from one description of each template.

    python tests/make_templates.py http://127.0.0.1:8188

needs a running ComfyUI with this pack, which says in what order a node has its widgets.
"""

from __future__ import annotations

import importlib
import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from template_parts import Node, Template
from workflow_forms import (
    AUTOGROW,
    DYNAMIC_COMBO,
    grown_type,
    inputs_of,
    is_widget,
    option_inputs,
    to_api,
)

TESTS = Path(__file__).resolve().parent
WORKFLOWS = TESTS.parent / "workflows"
# One module per family of templates: TEMPLATES, and PUBLIC_FILES by kind of loader, each a list
# of (file name, repository's address) or (file name, address, folder below models).
GRAPHS = [importlib.import_module(path.stem) for path in sorted(TESTS.glob("template_graphs_*.py"))]
CORE_VERSION, PACK_VERSION = "0.30.0", "0.1.0"


def properties_of(kind: str, files: dict) -> dict:
    ours = kind.startswith("MMGen")
    properties = {
        "cnr_id": "mmgen" if ours else "comfy-core",
        "ver": PACK_VERSION if ours else CORE_VERSION,
        "Node name for S&R": kind,
    }
    models = [public_file(*entry) for entry in files.get(kind, [])]
    return properties | ({"models": models} if models else {})


def public_file(name: str, repository: str, folder: str = "mmgen") -> dict:
    return {"name": name, "url": f"{repository}/resolve/main/{name}", "directory": folder}


def to_ui(template: Template, object_info: dict[str, dict], files: dict) -> dict:
    """The browser's form."""
    nodes, links = [], []
    for order, node in enumerate(template.nodes):
        nodes.append(_ui_node(node, order, object_info[node.kind], links, files))
    for link_id, source, slot, _, _, _ in links:
        output = nodes[source - 1]["outputs"][slot]
        output["links"] = [*(output["links"] or []), link_id]
    for text, position, size in template.notes:
        nodes.append(_ui_note(len(nodes) + 1, text, position, size))
    groups = [
        {"id": i + 1, "title": title, "bounding": box, "color": color, "flags": {}}
        for i, (title, box, color) in enumerate(template.groups)
    ]
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": groups,
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _ui_node(node: Node, order: int, definition: dict, links: list, files: dict) -> dict:
    inputs, values, unused = [], [], dict(node.values)
    for name, kind, options in expanded(definition, node.values):
        value = unused.pop(name, options.get("default"))
        linked = isinstance(value, tuple)
        entry = {"name": name, "type": kind, "link": None}
        if is_widget(kind, options):
            entry["widget"] = {"name": name}
            values.append(options.get("default") if linked else value)
            if options.get("control_after_generate"):
                values.append("fixed")
            if options.get("image_upload"):
                values.append("image")
        if linked:
            source, slot = value
            links.append([len(links) + 1, source.id, slot, node.id, len(inputs), kind])
            entry["link"] = len(links)
        inputs.append(entry)
    if unused:
        raise ValueError(f"{node.kind} has no inputs {sorted(unused)}")
    outputs = [
        {"name": name, "type": kind, "links": None}
        for name, kind in zip(definition["output_name"], definition["output"], strict=True)
    ]
    sockets = max(sum("widget" not in i for i in inputs), len(outputs))
    height = 20 * sockets + (24 * len(values) + 14 if values else 6)  # what the canvas computes
    extra = {"title": node.title} if node.title else {}
    return {
        "id": node.id,
        "type": node.kind,
        "pos": list(node.position),
        "size": list(node.size or (280, height)),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        **extra,
        "properties": properties_of(node.kind, files),
        "widgets_values": values,
    }


def expanded(definition: dict, values: dict) -> Iterator[tuple[str, str, dict]]:
    """The inputs of a node with these values: what a chosen option adds, slots that have grown."""
    for name, kind, options in inputs_of(definition):
        if kind == AUTOGROW:
            slots = [slot for slot in values if slot.startswith(f"{name}.")]
            yield from ((slot, grown_type(options), {}) for slot in slots)
            continue
        yield name, kind, options
        if kind == DYNAMIC_COMBO:
            yield from option_inputs(name, options, values[name])


def _ui_note(node_id: int, text: str, position, size) -> dict:
    return {
        "id": node_id,
        "type": "MarkdownNote",
        "pos": list(position),
        "size": list(size),
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [text],
        "color": "#432",
        "bgcolor": "#653",
    }


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main(address: str) -> None:
    with urllib.request.urlopen(f"{address}/object_info") as reply:
        object_info = json.load(reply)
    for graphs in GRAPHS:
        for make in graphs.TEMPLATES:
            template = make()
            workflow = to_ui(template, object_info, graphs.PUBLIC_FILES)
            write(WORKFLOWS / f"{template.name}.json", workflow)
            write(WORKFLOWS / "api" / f"{template.name}.json", to_api(workflow, object_info))


if __name__ == "__main__":
    main(sys.argv[1])
