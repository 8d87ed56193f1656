"""A worker around llama.cpp through llama-cpp-python: `python -m heddle.bench.worker_llama_cpp`.

It reads the GGUF itself and multiplies the packed weights, as llama.cpp always does. `Llama.eval`
is called directly, which leaves out the Python side of its samplers; several streams go through
`llama_decode`, one token of each in a call.
"""

import time
from collections.abc import Sequence

import llama_cpp  # pyright: ignore[reportMissingImports]  # an extra
import numpy

from heddle.bench.measure import Contender
from heddle.bench.worker import Continuation, PrefixGreedy, serve, settings_from_parent
from heddle.errors import EngineError

BATCH_TOKENS = 512


class Streams:
    """Greedy decoding of several sequences by llama.cpp's batches."""

    def __init__(self, model: llama_cpp.Llama, num_streams: int):
        params = type(model.context_params).from_buffer_copy(model.context_params)
        params.n_seq_max = num_streams
        params.kv_unified = False  # a sequence then attends to its own cells alone, which is faster
        context = llama_cpp.llama_init_from_model(model.model, params)
        memory = None if context is None else llama_cpp.llama_get_memory(context)
        if context is None or memory is None:
            raise EngineError(f"llama.cpp makes no context for {num_streams} streams")
        self._context, self._memory = context, memory
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._vocab_size = model.n_vocab()

    def generate(self, prompts: Sequence[Sequence[int]], num_new_tokens: int) -> list[Continuation]:
        """Continue the prompts side by side; see `serve`."""
        llama_cpp.llama_memory_clear(self._memory, True)
        found: list[Continuation] = [([], []) for _ in prompts]
        for stream, prompt in enumerate(prompts):
            self._decode([(stream, place, token) for place, token in enumerate(prompt)])
            self._note(found[stream], -1, time.perf_counter())
        for step in range(num_new_tokens - 1):
            self._decode(
                [
                    (stream, len(prompt) + step, tokens[-1])
                    for stream, (prompt, (_, tokens)) in enumerate(zip(prompts, found, strict=True))
                ]
            )
            now = time.perf_counter()
            for stream, continuation in enumerate(found):
                self._note(continuation, stream, now)
        return found

    def _decode(self, rows: list[tuple[int, int, int]]) -> None:
        """Run rows of (sequence, position, token); the last row of a sequence has logits."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for number, (stream, position, token) in enumerate(rows):
            batch.token[number], batch.pos[number] = token, position
            batch.n_seq_id[number], batch.seq_id[number][0] = 1, stream
            batch.logits[number] = number == len(rows) - 1 or rows[number + 1][0] != stream
        status = llama_cpp.llama_decode(self._context, batch)
        if status:
            raise EngineError(f"llama_decode ended with status {status}")

    def _note(self, continuation: Continuation, row: int, clock: float) -> None:
        logits = llama_cpp.llama_get_logits_ith(self._context, row)
        token = int(numpy.ctypeslib.as_array(logits, (self._vocab_size,)).argmax())
        continuation[0].append(clock)
        continuation[1].append(token)


def main() -> None:
    """Load the GGUF file that the parent names and serve it."""
    settings = settings_from_parent()
    model = llama_cpp.Llama(
        settings.path,
        n_ctx=settings.context_length,
        n_threads=settings.threads,
        n_threads_batch=settings.threads,
        n_batch=BATCH_TOKENS,
        verbose=False,
    )

    def next_token(num_kept: int, ids: list[int]) -> int:
        model.n_tokens = num_kept  # `eval` drops what its cache holds beyond this position
        model.eval(ids)
        logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        return int(numpy.ctypeslib.as_array(logits, (model.n_vocab(),)).argmax())

    one = PrefixGreedy(next_token)
    version = f"llama-cpp-python {llama_cpp.__version__}"
    serve(
        Contender("llama.cpp", version, "as in the file", model.n_vocab()),
        Streams(model, settings.streams).generate if settings.streams > 1 else one.generate,
    )


if __name__ == "__main__":
    main()
