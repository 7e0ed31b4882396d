"""mmgen: multimodal models that draw, as ComfyUI nodes.

ComfyUI asks for ``comfy_entrypoint``; nothing else happens on import, so that tools and tests
may import this folder outside ComfyUI.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import MMGenExtension

    return MMGenExtension()
