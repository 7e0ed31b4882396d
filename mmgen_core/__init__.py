"""mmgen's library: multimodal LLMs that draw, in plain torch. Never imports ComfyUI."""
