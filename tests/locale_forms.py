"""The English locale of the nodes, taken from what the server says about them.

    python tests/locale_forms.py http://127.0.0.1:8188

writes locales/en/nodeDefs.json from a running ComfyUI with this pack.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

from workflow_forms import inputs_of

DTYPES = ("auto", "fp32", "fp16", "bf16", "fp8", "int8")
LOCALES = Path(__file__).resolve().parents[1] / "locales"


def our_nodes(object_info: dict[str, dict]) -> dict[str, dict]:
    return {name: node for name, node in object_info.items() if name.startswith("MMGen")}


def node_definitions(object_info: dict[str, dict]) -> dict[str, dict]:
    """nodeDefs.json of every node of this pack: names and tooltips of inputs and outputs."""
    return {name: _definition(node) for name, node in sorted(our_nodes(object_info).items())}


def _definition(node: dict) -> dict:
    inputs = {
        name: {"name": options.get("display_name", name), "tooltip": options["tooltip"]}
        for name, _, options in inputs_of(node)
    }
    if "dtype" in inputs:  # all of them, though a host may offer fewer
        inputs["dtype"]["options"] = {choice: choice for choice in DTYPES}
    tips = node.get("output_tooltips") or []
    outputs = {
        str(i): {"name": name, "tooltip": tips[i]} for i, name in enumerate(node["output_name"])
    }
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": inputs,
        **({"outputs": outputs} if outputs else {}),
    }


def main(address: str) -> None:
    with urllib.request.urlopen(f"{address}/object_info") as reply:
        definitions = node_definitions(json.load(reply))
    text = json.dumps(definitions, indent=2, ensure_ascii=False) + "\n"
    (LOCALES / "en" / "nodeDefs.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
