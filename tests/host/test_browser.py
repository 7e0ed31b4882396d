"""The real page in a real Chromium: templates are found, opened, run, and the picture is seen."""

from __future__ import annotations

import json

import pytest

from mmgen_core.commands.places import API_WORKFLOWS, ROOT

NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
PICTURE_SEEN = """() => {
  const node = window.app.graph.nodes.find((n) => n.type === "SaveImage")
  return node?.imgs?.length > 0 && node.imgs[0].naturalWidth > 0
}"""
NODE_TYPES = "() => window.app.graph.nodes.map((n) => n.type)"


def twin(name: str) -> dict:
    return json.loads((API_WORKFLOWS / f"{name}.json").read_text("utf-8"))


def without_titles(prompt: dict) -> dict:
    return {k: {"class_type": v["class_type"], "inputs": v["inputs"]} for k, v in prompt.items()}


def open_templates(page) -> None:
    """The Templates browser, showing this pack's."""
    page.wait_for_timeout(1500)  # a first visit opens it by itself
    if page.get_by_test_id("template-workflows-content").count() == 0:
        page.evaluate("() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_test_id("template-workflows-content").wait_for(timeout=30_000)
    page.get_by_text("mmgen", exact=True).first.click()
    page.get_by_test_id(f"template-workflow-{NAMES[0]}").wait_for(timeout=30_000)


def test_template_opens_runs_and_shows_its_picture(browser_page, models):
    page, posted = browser_page, []
    page.on("request", lambda r: r.url.endswith("/prompt") and posted.append(r.post_data_json))
    open_templates(page)
    for name in NAMES:
        assert page.get_by_test_id(f"template-workflow-{name}").count() == 1, name
    page.get_by_test_id("template-workflow-var_class_to_image").click()
    page.wait_for_function(f"() => ({NODE_TYPES})().includes('MMGenScaleSampler')", timeout=30_000)
    assert page.get_by_test_id("error-overlay-messages").is_hidden(), "a model or node is missing"
    page.get_by_test_id("queue-button").click()
    page.wait_for_function(PICTURE_SEEN, timeout=180_000)
    sent = without_titles(posted[-1]["prompt"])
    assert sent == without_titles(twin("var_class_to_image"))
    assert not page.mmgen_errors


@pytest.mark.parametrize("name", NAMES)
def test_browser_converts_templates_as_we_do(browser_page, models, name):
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))
    page = browser_page
    page.evaluate("async (workflow) => await window.app.loadGraphData(workflow)", workflow)
    page.wait_for_function(f"() => ({NODE_TYPES})().length === {len(workflow['nodes'])}")
    prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert prompt == twin(name)
    assert not page.mmgen_errors
