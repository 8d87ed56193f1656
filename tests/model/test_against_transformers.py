"""Logits equal those of `transformers` on the same weights: the network's oracle."""

from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from heddle.engine.load import load_model
from heddle.model.batch import pack
from heddle.model.memory import WholeSequences
from heddle.weights.checkpoint import open_checkpoint

TEXT = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
LENGTHS = (4, 7, 16, 33, 100, 257, 700, 1500)
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 2048,
    "eos_token_id": 2,
    "bos_token_id": 1,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 512,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

CONFIGS = {
    "llama": transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama-untied-biased": transformers.LlamaConfig(
        **SHAPE, tie_word_embeddings=False, attention_bias=True
    ),
    "llama3-rope": transformers.LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE),
    "yarn-rope": transformers.Qwen3Config(**SHAPE, head_dim=16, rope_parameters=YARN_ROPE),
    "linear-rope": transformers.LlamaConfig(**SHAPE, rope_parameters=LINEAR_ROPE),
    "qwen3": transformers.Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=True),
    "qwen2": transformers.Qwen2Config(**SHAPE),
}


def sequences(vocab_size: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, vocab_size, (n,), generator=generator).tolist() for n in LENGTHS]


def largest_difference(ours, theirs, prompts: list[list[int]]) -> float:
    worst = 0.0
    with torch.inference_mode():
        for tokens in prompts:
            packed = pack([tokens])
            got = ours(packed, WholeSequences(packed.bounds_S1)).logits_NV
            expected = theirs(torch.tensor([tokens])).logits[0].float()
            worst = max(worst, float((got - expected).abs().max()))
    return worst


@pytest.mark.parametrize("name", CONFIGS)
def test_random_networks(name, tmp_path, tiny_folder):
    torch.manual_seed(0)
    config = CONFIGS[name]
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.15)
            else:
                parameter.uniform_(0.5, 1.5)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((tiny_folder / "tokenizer.json").read_bytes())
    ours = load_model(open_checkpoint(tmp_path), dtype="float32")
    assert largest_difference(ours, theirs, sequences(config.vocab_size)) <= 1e-3


@pytest.mark.model
def test_the_default_model(default_gguf):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        default_gguf.parent, gguf_file=default_gguf.name, dtype=torch.float32
    ).eval()
    checkpoint = open_checkpoint(default_gguf)
    text = Tokenizer.from_str(checkpoint.tokenizer_json).encode(TEXT).ids
    prompts = [text[start : start + length] for start, length in enumerate(LENGTHS)]
    assert [len(prompt) for prompt in prompts] == list(LENGTHS)
    ours = load_model(checkpoint, dtype="float32")
    assert largest_difference(ours, theirs, prompts) <= 1e-3


def test_packed_sequences_do_not_see_each_other(tiny_folder):
    model = load_model(open_checkpoint(tiny_folder), dtype="float32")
    parts = sequences(500)[:4]
    packed = pack(parts)
    with torch.inference_mode():
        together = model(packed, WholeSequences(packed.bounds_S1)).logits_NV
        alone = [
            model(p, WholeSequences(p.bounds_S1)).logits_NV
            for p in (pack([part]) for part in parts)
        ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


def test_bfloat16_is_close(tiny_folder):
    checkpoint = open_checkpoint(tiny_folder)
    packed = pack([sequences(500)[3]])
    with torch.inference_mode():
        exact, rough = (
            load_model(checkpoint, dtype=dtype)(packed, WholeSequences(packed.bounds_S1)).logits_NV
            for dtype in ("float32", "bfloat16")
        )
    assert rough.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(exact, rough).min() > 0.99
