"""A model of 300,000 random parameters with a real tokenizer and template, for every test."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from heddle.engine.config import EngineConfig
from heddle.engine.engine import Engine
from heddle.model.config import ModelConfig
from heddle.model.transformer import Transformer
from heddle.weights.names import slots

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)
CORPUS = [
    "The loom holds the warp; the heddle lifts it; the shuttle carries the weft.",
    'def add(a, b):\n    return a + b\n\nprint(json.dumps({"name": "Ada", "age": 36, "ok": true}))',
    "How much is 17 + 25? It is 42. Prices: 3.50, 1,000 and 99%. Ça va? Grüße, 東京, привет!",
] * 20


def tiny_tokenizer() -> Tokenizer:
    """Train a byte-level BPE tokenizer of 512 entries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def tiny_config(**changes) -> ModelConfig:
    """Return the shape of the tiny model, with some fields changed."""
    fields = {
        "vocab_size": 512,
        "width": 96,
        "num_layers": 3,
        "num_heads": 6,
        "num_kv_heads": 2,
        "head_width": 16,
        "ffn_width": 192,
        "context_length": 1024,
    }
    return ModelConfig(**(fields | changes))


def tiny_model(config: ModelConfig, *, seed: int = 0) -> Transformer:
    """Build a random network whose next-token distribution is lively but not flat."""
    torch.manual_seed(seed)
    model = Transformer(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3 if name == "embed.weight" else 0.12)
    return model.eval()


def save_tiny(folder: Path, *, seed: int = 0, **changes) -> Path:
    """Write the tiny model as a Hugging Face folder."""
    config = tiny_config(**changes)
    model = tiny_model(config, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    parameters, tensors = dict(model.named_parameters()), {}
    for slot in slots(config):
        parts = parameters[slot.name].detach().split([shape[0] for shape in slot.shapes])
        tensors |= {name: part.clone() for name, part in zip(slot.hugging_face, parts, strict=True)}
    save_file(tensors, folder / "model.safetensors")
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(_hugging_face_config(config)), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": SPECIAL[2], "chat_template": CHATML}), encoding="utf-8"
    )
    return folder


def tiny_engine(folder: Path, **settings) -> Engine:
    """Start an engine on a tiny model saved in `folder`."""
    return Engine.load(save_tiny(folder), EngineConfig(threads=1, **settings))


def _hugging_face_config(config: ModelConfig) -> dict:
    return {
        "architectures": ["Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"],
        "model_type": "qwen3" if config.qk_norm else "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.ffn_width,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope.base,
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        "eos_token_id": 2,
    }
