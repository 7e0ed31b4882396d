"""Language models: from a folder, or served somewhere."""

from __future__ import annotations

from . import host
from .api import io

DEMO_LLM = "mmgen_demo_llm"
ALIASES = ["llm", "language model", "var", "prompt", "layout", "generate text"]


class LoadLLM(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        folders = host.llm_folders()
        return io.Schema(
            node_id="MMGenLoadLLM",
            display_name="Load LLM",
            category="mmgen/loaders",
            description="Loads a language model from a folder as a CLIP for Generate Text, "
            "Rewrite Prompt and Plan Layout.",
            search_aliases=[*ALIASES, "loader", "hugging face", "transformers", "qwen", "llama"],
            inputs=[
                io.Combo.Input(
                    "llm_name",
                    options=folders,
                    default=DEMO_LLM if DEMO_LLM in folders else None,
                    tooltip="A folder in models/mmgen, models/LLM or models/text_encoders with "
                    "config.json, *.safetensors and a tokenizer, as downloaded from Hugging Face. "
                    "Code in the folder is never run.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", *host.DTYPES],
                    default="auto",
                    tooltip="Precision of the weights. auto follows ComfyUI's policy for text "
                    "encoders on this device.",
                ),
            ],
            outputs=[
                io.Clip.Output(
                    "clip",
                    display_name="CLIP",
                    tooltip="A text model: for Generate Text, Rewrite Prompt, Plan Layout.",
                )
            ],
        )

    @classmethod
    def execute(cls, llm_name: str, dtype: str) -> io.NodeOutput:
        return io.NodeOutput(host.load_llm(llm_name, dtype))


class ConnectLLMEndpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenConnectLLMEndpoint",
            display_name="Connect LLM Endpoint",
            category="mmgen/loaders",
            description="Uses a language model behind an OpenAI-compatible server (vLLM, SGLang, "
            "llama.cpp, Ollama, hosted) as a CLIP for Generate Text, Rewrite Prompt and Plan "
            "Layout.",
            search_aliases=[*ALIASES, "openai", "ollama", "vllm", "sglang", "llama.cpp", "api"],
            inputs=[
                io.String.Input(
                    "url",
                    default="http://127.0.0.1:11434/v1",
                    tooltip="Address of the server up to and with /v1. Ollama: port 11434, "
                    "llama.cpp: 8080, vLLM: 8000, SGLang: 30000. Prompts and pictures are sent "
                    "there.",
                ),
                io.String.Input(
                    "model", default="", tooltip="Name of the model, as the server knows it."
                ),
                io.String.Input(
                    "key_variable",
                    default="",
                    tooltip="Name of the environment variable that holds the key, such as "
                    "OPENAI_API_KEY; empty for none. Only names that end in _API_KEY or begin with "
                    "MMGEN_ are sent. The key itself never stands in a workflow.",
                ),
                io.Float.Input(
                    "timeout",
                    default=60.0,
                    min=1.0,
                    max=3600.0,
                    tooltip="Seconds to wait for the connection and for each piece of the answer.",
                ),
                io.Int.Input(
                    "retries",
                    default=2,
                    min=0,
                    max=10,
                    advanced=True,
                    tooltip="Further attempts, with growing pauses, where the server is busy or "
                    "the connection breaks.",
                ),
            ],
            outputs=[
                io.Clip.Output(
                    "clip",
                    display_name="CLIP",
                    tooltip="A text model: for Generate Text, Rewrite Prompt, Plan Layout.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, url: str, model: str, key_variable: str, timeout: float, retries: int
    ) -> io.NodeOutput:
        return io.NodeOutput(host.connect_llm(url, model, key_variable, timeout, retries))
