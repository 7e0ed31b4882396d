"""What the server says about the nodes: texts, ids, the order of widgets, translations."""

from __future__ import annotations

import json
import urllib.request

import pytest
from locale_forms import LOCALES, node_definitions, our_nodes
from workflow_forms import inputs_of, signature

from mmgen_core.commands.places import ROOT

SNAPSHOT = ROOT / "tests" / "node_signatures.json"
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


@pytest.fixture(scope="module")
def nodes(host, models) -> dict[str, dict]:
    return our_nodes(host.client.object_info())


def test_every_input_and_output_has_a_tooltip(nodes):
    for name, node in nodes.items():
        for input_name, _, options in inputs_of(node):
            assert options.get("tooltip"), f"{name}.{input_name}"
        for output, tip in zip(node["output_name"], node["output_tooltips"] or [], strict=True):
            assert tip, f"{name}: output {output}"


def test_every_node_is_described(nodes):
    for name, node in nodes.items():
        assert node["category"].startswith("mmgen/"), name
        assert node["description"].endswith(".") and ". " not in node["description"], name
        assert "var" in node["search_aliases"], name


def test_nodes_keep_the_order_of_everything(nodes):
    # saved workflows hold links and widget values by position: append only, never rename
    released = json.loads(SNAPSHOT.read_text("utf-8"))
    assert set(released) <= set(nodes), "a released node is gone"
    for name, known in released.items():
        now = signature(nodes[name])
        for part, names in known.items():
            assert now[part][: len(names)] == names, f"{name}: {part}"
    assert {n: signature(d) for n, d in nodes.items()} == released, f"add it to {SNAPSHOT.name}"


def test_every_node_is_in_a_template(nodes):
    used = {n["type"] for path in WORKFLOWS for n in json.loads(path.read_text("utf-8"))["nodes"]}
    assert set(nodes) <= used


def test_english_locale_is_what_the_nodes_say(host, nodes):
    written = json.loads((LOCALES / "en" / "nodeDefs.json").read_text("utf-8"))
    assert written == node_definitions(host.client.object_info()), "run tests/locale_forms.py"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_locale_is_complete(host, nodes, language):
    served = host.client.get("/i18n")[language]
    for name, expected in node_definitions(host.client.object_info()).items():
        assert keys_of(served["nodeDefs"][name]) == keys_of(expected), name
    folders = {part for node in nodes.values() for part in node["category"].split("/")}
    assert folders <= set(served["nodeCategories"])
    kinds = {kind for node in nodes.values() for kind in node["output"] if kind.startswith("MMGEN")}
    assert kinds <= set(served["dataTypes"])


def keys_of(tree: dict) -> dict:
    """The tree without its texts, which must not be empty."""
    assert all(tree.values())
    return {key: keys_of(v) if isinstance(v, dict) else None for key, v in tree.items()}


def test_help_pages_are_served(host, nodes):
    pages = sorted((ROOT / "web" / "docs").glob("*.md"))
    assert pages
    for page in pages:
        assert page.stem in nodes
        url = f"/extensions/mmgen/docs/{page.name}"
        with urllib.request.urlopen(host.address + url) as reply:
            assert reply.read().decode().startswith("# "), url


def test_pickers_show_models_only(host, models):
    shard = models / "big-00001-of-00002.safetensors"
    for name in ("README.md", "config.json", "big.safetensors.index.json", shard.name):
        (models / name).write_text("{}")
    try:
        spec = host.client.get("/object_info/MMGenLoadScaleModel")["MMGenLoadScaleModel"]
        offered = spec["input"]["required"]["model_name"][1]["options"]
    finally:
        for name in ("README.md", "config.json", "big.safetensors.index.json", shard.name):
            (models / name).unlink()
    assert "big.safetensors.index.json" in offered and "tiny_var.safetensors" in offered
    assert not {"README.md", "config.json", shard.name} & set(offered)
