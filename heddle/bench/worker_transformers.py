"""A worker around Hugging Face transformers: `python -m heddle.bench.worker_transformers`.

It loads the very same file as ours; a GGUF file is read and dequantised by transformers itself. The
forward pass is called directly, since the bookkeeping of `generate()` for each token would slow the
peer down.
"""

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

from heddle.bench.measure import Contender
from heddle.bench.worker import PrefixGreedy, WorkerSettings, serve, settings_from_parent


def load(settings: WorkerSettings):
    """Return the peer's model in the number format that the settings name."""
    path = settings.model_path
    source = {"gguf_file": path.name} if path.is_file() else {}
    folder = path.parent if path.is_file() else path
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, settings.dtype), **source
    )
    return model.eval()


def main() -> None:
    """Load the model that the parent names and serve it."""
    settings = settings_from_parent()
    torch.set_num_threads(settings.threads)
    model = load(settings)
    cache = DynamicCache(config=model.config)

    @torch.inference_mode()
    def next_token(num_kept: int, ids: list[int]) -> int:
        surplus = cache.get_seq_length() - num_kept
        if surplus:
            cache.crop(-surplus)
        out = model(
            input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        return int(out.logits[0, -1].argmax())

    contender = Contender(
        "transformers", transformers.__version__, settings.dtype, model.config.vocab_size
    )
    serve(contender, PrefixGreedy(next_token).generate)


if __name__ == "__main__":
    main()
