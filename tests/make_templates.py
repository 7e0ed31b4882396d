"""Writes workflows/*.json and workflows/api/*.json from one description of each template.

    python tests/make_templates.py http://127.0.0.1:8188

needs a running ComfyUI with this pack, which says in what order a node has its widgets.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

import template_graphs
import template_graphs_star
from template_parts import Node, Template
from workflow_forms import inputs_of, is_widget, to_api

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
TEMPLATES = (*template_graphs.TEMPLATES, *template_graphs_star.TEMPLATES)
VAR_URL, STAR_URL = template_graphs.URL, template_graphs_star.URL
# Public files by system (a template's name begins with it) and loader: name, repository.
FILES = {
    ("var", "MMGenLoadScaleModel"): [(f"var_d{d}.pth", VAR_URL) for d in (16, 20, 24, 30, 36)],
    ("var", "MMGenLoadImageTokenizer"): [("vae_ch160v4096z32.pth", VAR_URL)],
    ("star", "MMGenLoadScaleModel"): [
        ("star_rope_d30_256-ar-ckpt-ep3-iter20000.pth", STAR_URL),
        ("star_rope_d30_512-ar-ckpt-ep1-iter30000.pth", STAR_URL),
        ("star_rope_d30_1024_drop_3-ar-ckpt-ep1-iter21000.pth", STAR_URL),
    ],
    ("star", "MMGenLoadImageTokenizer"): [("vae_ch160v4096z32.pth", VAR_URL)],
}
CORE_VERSION, PACK_VERSION = "0.30.0", "0.1.0"
SD_FILE = {
    "name": "v1-5-pruned-emaonly-fp16.safetensors",
    "url": "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
    "v1-5-pruned-emaonly-fp16.safetensors",
    "directory": "checkpoints",
}


def properties_of(kind: str, system: str) -> dict:
    ours = kind.startswith("MMGen")
    properties = {
        "cnr_id": "mmgen" if ours else "comfy-core",
        "ver": PACK_VERSION if ours else CORE_VERSION,
        "Node name for S&R": kind,
    }
    models = [
        {"name": name, "url": f"{url}/resolve/main/{name}", "directory": "mmgen"}
        for name, url in FILES.get((system, kind), [])
    ]
    if kind == "CheckpointLoaderSimple":
        models = [SD_FILE]
    return properties | ({"models": models} if models else {})


def to_ui(template: Template, object_info: dict[str, dict]) -> dict:
    """The browser's form."""
    nodes, links, system = [], [], template.name.split("_")[0]
    for order, node in enumerate(template.nodes):
        nodes.append(_ui_node(node, order, object_info[node.kind], links, system))
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


def _ui_node(node: Node, order: int, definition: dict, links: list, system: str) -> dict:
    inputs, values, unused = [], [], dict(node.values)
    for name, kind, options in inputs_of(definition):
        value = unused.pop(name, options.get("default"))
        linked = isinstance(value, tuple)
        entry = {"name": name, "type": kind, "link": None}
        if is_widget(kind, options):
            entry["widget"] = {"name": name}
            values.append(options.get("default") if linked else value)
            if options.get("control_after_generate"):
                values.append("fixed")
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
        "properties": properties_of(node.kind, system),
        "widgets_values": values,
    }


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
    for make in TEMPLATES:
        template = make()
        workflow = to_ui(template, object_info)
        write(WORKFLOWS / f"{template.name}.json", workflow)
        write(WORKFLOWS / "api" / f"{template.name}.json", to_api(workflow, object_info))


if __name__ == "__main__":
    main(sys.argv[1])
