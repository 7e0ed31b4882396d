"""The real server starts with this pack, runs prompts, and answers as the other tests rely on."""

from __future__ import annotations

import pytest

from mmgen_core.commands.client import WorkflowError
from mmgen_core.commands.places import ROOT

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


def has_nodes() -> bool:
    return any((ROOT / "nodes").glob("*.py"))


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
        host.run({**graph(color=5), "3": bad})
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


@pytest.mark.skipif(not has_nodes(), reason="the pack has no nodes yet")
def test_pack_is_loaded(host):
    info = host.client.object_info()
    assert "MMGenLoadScaleModel" in info, host.log[-3000:]
    assert "IMPORT FAILED" not in host.log


def test_ids_do_not_collide_with_core(host):
    # a colliding node is dropped without a word, but leaves its title on the core's node
    ids = [name for name, node in host.client.object_info().items() if is_ours(node)]
    assert all(name.startswith("MMGen") for name in ids)
    assert f"{ROOT.name}: " not in host.log
    titles = {name: node["display_name"] for name, node in host.client.object_info().items()}
    ours = {titles[name] for name in ids}
    assert not [name for name, title in titles.items() if title in ours and name not in ids]


def is_ours(node: dict) -> bool:
    return node["python_module"] == "custom_nodes.mmgen"


def test_browser_shows_the_canvas(browser_page):
    assert browser_page.evaluate("() => !!document.querySelector('canvas')")
    assert browser_page.mmgen_errors == []
