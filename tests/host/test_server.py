"""The real server starts with this pack, runs prompts, and answers as the other tests rely on."""

from __future__ import annotations

import re

import pytest

from mmgen_core.commands.client import WorkflowError
from mmgen_core.commands.places import ROOT

OURS = "custom_nodes.mmgen"
BLANK = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 32, "batch_size": 1, "color": 0xFF8000},
        "_meta": {"title": "orange"},
    },
    "2": {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "blank"},
        "_meta": {"title": "save"},
    },
}


def graph(**inputs: object) -> dict:
    """The blank picture with other inputs for its first node."""
    return {**BLANK, "1": {**BLANK["1"], "inputs": {**BLANK["1"]["inputs"], **inputs}}}


def test_prompt_leaves_a_png(host):
    result = host.run(graph(color=1))
    assert [file.kind for file in result.files] == ["output"]
    assert host.images(result)[0].startswith(b"\x89PNG")


def test_websocket_tells_the_whole_story(host):
    events = host.watch(graph(color=2))
    kinds = events.kinds()
    assert kinds.index("execution_start") < kinds.index("executed")
    assert kinds[-1] == "execution_success"
    assert [data["node"] for data in events.of("executed")] == ["2"]


def test_second_run_comes_from_the_cache(host):
    host.watch(graph(color=3))
    cached = host.watch(graph(color=3)).of("execution_cached")
    assert "1" in cached[-1]["nodes"]


def test_refused_prompt_names_node_and_input(host):
    with pytest.raises(WorkflowError, match=r"node 1 \(EmptyImage\).*width"):
        host.run(graph(width=-5))


def test_half_valid_prompt_is_refused_whole(host):
    bad = {**BLANK["2"], "inputs": {**BLANK["2"]["inputs"], "filename_prefix": ["9", 0]}}
    with pytest.raises(WorkflowError, match=r"node 3 \(SaveImage\)"):
        host.client.run({**graph(color=5), "3": bad}, whole=True)
    assert host.images(host.run(graph(color=6)))  # and the server goes on


def test_failing_node_is_named_with_its_error(host):
    (host.input_dir / "broken.png").write_bytes(b"no picture")
    load = {"class_type": "LoadImage", "inputs": {"image": "broken.png"}, "_meta": {"title": "x"}}
    with pytest.raises(WorkflowError, match=r"^node 1 \(LoadImage\): .*UnidentifiedImageError"):
        host.run({"1": load, "2": BLANK["2"]})


def test_uploaded_picture_can_be_loaded(host, tmp_path):
    picture = tmp_path / "orange.png"
    picture.write_bytes(host.images(host.run(graph(color=4)))[0])
    name = host.client.upload_image(picture)
    load = {"class_type": "LoadImage", "inputs": {"image": name}, "_meta": {"title": "load"}}
    result = host.run({"1": load, "2": BLANK["2"]})
    assert len(host.images(result)) == 1


def test_pack_is_loaded(host):
    assert "MMGenLoadScaleModel" in host.client.object_info(), host.log[-3000:]
    assert "IMPORT FAILED" not in host.log


def test_every_node_is_ours_and_none_collides_with_core(host):
    # a colliding node is dropped without a word: its id then belongs to the core's module
    info = host.client.object_info()
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "nodes").glob("*.py")]
    ids = {name for text in sources for name in re.findall(r'node_id="(\w+)"', text)}
    assert ids
    assert {name: info[name]["python_module"] for name in ids} == dict.fromkeys(ids, OURS)
    assert all(name.startswith("MMGen") for name in ids)


def test_no_title_is_used_twice(host):
    info = host.client.object_info()
    ours = {node["display_name"] for node in info.values() if node["python_module"] == OURS}
    others = {node["display_name"] for node in info.values() if node["python_module"] != OURS}
    assert not ours & others


def test_browser_shows_the_canvas(browser_page):
    assert browser_page.evaluate("() => !!document.querySelector('canvas')")
    assert browser_page.mmgen_errors == []
