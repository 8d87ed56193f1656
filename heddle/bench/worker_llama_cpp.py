"""A worker around llama.cpp through llama-cpp-python: `python -m heddle.bench.worker_llama_cpp`.

It reads the GGUF itself and multiplies the packed weights, as llama.cpp always does. `Llama.eval`
is called directly, which leaves out the Python side of its samplers.
"""

import llama_cpp  # pyright: ignore[reportMissingImports]  # an extra
import numpy

from heddle.bench.measure import Contender
from heddle.bench.worker import PrefixGreedy, serve, settings_from_parent


def main() -> None:
    """Load the GGUF file that the parent names and serve it."""
    settings = settings_from_parent()
    model = llama_cpp.Llama(
        settings.path,
        n_ctx=settings.context_length,
        n_threads=settings.threads,
        n_threads_batch=settings.threads,
        verbose=False,
    )

    def next_token(num_kept: int, ids: list[int]) -> int:
        model.n_tokens = num_kept  # `eval` drops what its cache holds beyond this position
        model.eval(ids)
        logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        return int(numpy.ctypeslib.as_array(logits, (model.n_vocab(),)).argmax())

    version = f"llama-cpp-python {llama_cpp.__version__}"
    serve(
        Contender("llama.cpp", version, "as in the file", model.n_vocab()),
        PrefixGreedy(next_token).generate,
    )


if __name__ == "__main__":
    main()
