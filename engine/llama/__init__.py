"""The llama.cpp functions used, typed: a model, its context, its tokenizer, its samplers.

The one place that touches the ``llama_cpp`` package, and with it numpy and jinja2; only the
worker process imports it. Scheduling and pipes must not come in.
"""

from engine.llama.context import Context
from engine.llama.embedding import Embedder
from engine.llama.model import Model
from engine.llama.native import log
from engine.llama.sampler import Sampler

__all__ = ["Context", "Embedder", "Model", "Sampler", "log"]
