"""The network in native kernels: close to PyTorch's, and the same however tokens are batched."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import pad

from heddle.engine.config import EngineConfig
from heddle.engine.engine import Engine
from heddle.engine.load import load_model
from heddle.engine.native import NativeLayers, has_native_layers
from heddle.engine.paged_memory import LaterLoops, PagedMemory, Segment
from heddle.engine.pages import Pages, page_tokens
from heddle.engine.request import Thinking
from heddle.errors import ConfigError
from heddle.kernels.cpu import Kernels, available
from heddle.kernels.packing import GROUP, quantise
from heddle.kernels.ref import numbers
from heddle.model.batch import Depth, Packed
from heddle.model.config import ModelConfig
from heddle.weights.checkpoint import Checkpoint, open_checkpoint
from heddle.weights.delta import upcycle
from tests.engine.collect import ask
from tests.weights.gguf_files import TINY, write_gguf

BUILDS = available()
needs_kernels = pytest.mark.skipif(not BUILDS, reason="no C++ compiler was there at installation")

SHAPES = {
    "llama": TINY,
    "wide heads": replace(TINY, num_heads=2, num_kv_heads=1, head_width=32),
    "odd group": replace(TINY, width=96, num_heads=6, num_kv_heads=2),
    "odd vocabulary": replace(TINY, vocab_size=391),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    made = {
        name: write_gguf(folder / f"{number}.gguf", config=shape, format="Q4_1")
        for number, (name, shape) in enumerate(SHAPES.items())
    }
    qwen3 = replace(TINY, qk_norm=True)
    made["qwen3"] = write_gguf(
        folder / "qwen3.gguf", config=qwen3, architecture="qwen3", format="Q8_0"
    )
    return made


def read(
    checkpoint: Checkpoint,
    kernels: Kernels | None,
    chunks: list[list[int]],
    dtype: torch.dtype = torch.float32,
    *,
    loops: int = 1,
) -> list:
    """Return the logits of two sequences of which each step reads so many tokens more."""
    model = load_model(checkpoint, dtype="float32", kernels=kernels)
    pages = Pages(
        checkpoint.config,
        num_pages=32,
        page_tokens=page_tokens(checkpoint.config, EngineConfig()),
        dtype=dtype,
        is_native=has_native_layers(model),
    )
    owned = [list(range(16)), list(range(31, 15, -1))]
    random = torch.Generator().manual_seed(0)
    token_SL = torch.randint(checkpoint.config.vocab_size, (2, 200), generator=random)
    done, logits, later = [0, 0], [[], []], [LaterLoops(), LaterLoops()]
    for chunk in chunks:
        segments, parts, start = [], [], 0
        for number, count in enumerate(chunk):
            if count:
                past = done[number]
                segments.append(Segment(start, start + count, past, owned[number], later[number]))
                parts.append((number, past, count))
                start += count
        position_T = torch.cat([torch.arange(past, past + num) for _, past, num in parts])
        packed = Packed(
            token_T=torch.cat([token_SL[n, past : past + num] for n, past, num in parts]),
            position_T=position_T,
            bounds_S1=(0, *(segment.end for segment in segments)),
            output_N=torch.arange(start),
            depth=uneven_depth(position_T, loops) if loops > 1 else None,
        )
        with torch.inference_mode():
            out = model(packed, PagedMemory(pages, segments))
        for (number, _, count), rows in zip(
            parts, out.logits_NV.split([num for _, _, num in parts]), strict=True
        ):
            logits[number].append(rows)
            done[number] += count
    return [torch.cat(rows) for rows in logits]


def uneven_depth(position_T: torch.Tensor, loops: int) -> Depth:
    """Send every fourth token through one loop, others through two or more."""
    max_T = torch.where(position_T % 4 == 0, 1, 2 + position_T % (loops - 1))
    return Depth(max_T, torch.zeros_like(max_T, dtype=torch.bool))


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the error's size as a share of what varies in the exact values."""
    return float((found - exact).norm() / (exact - exact.mean(-1, keepdim=True)).norm())


@needs_kernels
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", [*SHAPES, "qwen3"])
def test_logits_are_close_to_pytorch(files, name: str, build: str):
    """Activations have fifteen bits; with eight this would be about 1e-2."""
    checkpoint = open_checkpoint(files[name])
    kernels = Kernels(build, num_threads=2)
    for exact_NV, native_NV in zip(
        read(checkpoint, None, [[150, 90]]), read(checkpoint, kernels, [[150, 90]]), strict=True
    ):
        assert relative_error(native_NV, exact_NV) < 1e-3


@needs_kernels
@pytest.mark.parametrize("build", BUILDS)
def test_bits_do_not_depend_on_batching(files, build: str):
    """Alone, together, by chunks or token by token, with one thread or with three."""
    checkpoint = open_checkpoint(files["odd group"])
    one, three = (Kernels(build, num_threads=number) for number in (1, 3))
    whole = read(checkpoint, one, [[150, 0], [0, 90]])
    for kernels, chunks in (
        (three, [[150, 90]]),
        (one, [[100, 7], [3, 1], [46, 82], [1, 0]]),
        (three, [[64, 64], *[[1, 1]] * 26, [60, 0]]),
    ):
        for expected, found in zip(whole, read(checkpoint, kernels, chunks), strict=True):
            assert torch.equal(expected, found[: len(expected)])


@needs_kernels
def test_a_dense_network_is_one_call(files):
    kernels = Kernels(BUILDS[0], num_threads=1)
    model = load_model(open_checkpoint(files["llama"]), dtype="float32", kernels=kernels)
    assert isinstance(model.layers, NativeLayers)
    assert not list(model.layers.parameters())


@needs_kernels
@pytest.mark.parametrize(
    ("shape", "format"),
    [
        (replace(TINY, head_width=24), "Q4_1"),  # heads that the kernels do not read
        (TINY, "Q5_0"),  # blocks that they do not know
        (TINY, "F32"),
    ],
)
def test_what_kernels_cannot_do_pytorch_does(tmp_path, shape: ModelConfig, format: str):
    path = write_gguf(tmp_path / "model.gguf", config=shape, format=format)
    with_kernels, without = (
        Engine.load(path, EngineConfig(kernels=kernels, threads=1)) for kernels in ("auto", "torch")
    )
    tokens = [ask(engine, [5, 6, 7], 12).tokens for engine in (with_kernels, without)]
    with_kernels.close()
    without.close()
    assert tokens[0] == tokens[1]


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """Return a matrix in 8 bits, as native layers keep adapters, so that nothing else differs."""
    if weight.dim() != 2:
        return weight
    filled = pad(weight, (0, -weight.shape[1] % GROUP))
    return numbers(quantise(filled))[:, : weight.shape[1]].contiguous()


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory) -> Path:
    return upcycled(tmp_path_factory.mktemp("adaptive"))


def upcycled(folder: Path, *, has_fabric: bool = True) -> Path:
    """Write an upcycled network whose experts, gates and loops say something."""
    shape = replace(TINY, num_layers=4, width=96, num_heads=6)
    base = write_gguf(folder / "base.gguf", config=shape, format="Q4_1")
    upcycle(str(base), folder / "delta", has_fabric=has_fabric)
    for file in folder.glob("delta/*.safetensors"):
        random = torch.Generator().manual_seed(len(file.name))
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if "norm" not in name:
                tensors[name] = rounded(torch.randn(tensor.shape, generator=random) * 0.1)
        save_file(tensors, file)
    manifest = folder / "delta" / "model.json"
    manifest.write_text(manifest.read_text())
    return folder / "delta"


@needs_kernels
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("loops", [1, 3])
def test_an_adaptive_network_is_close_to_pytorch(adaptive, build: str, loops: int):
    """Tokens go to different depths; bits do not depend on how they are batched."""
    checkpoint = open_checkpoint(adaptive)
    kernels = Kernels(build, num_threads=2)
    exact = read(checkpoint, None, [[150, 90]], loops=loops)
    whole = read(checkpoint, kernels, [[150, 90]], loops=loops)
    steps = read(checkpoint, kernels, [[100, 7], [3, 1], [47, 0], [0, 82]], loops=loops)
    for exact_NV, whole_NV, by_steps_NV in zip(exact, whole, steps, strict=True):
        assert relative_error(whole_NV, exact_NV) < 1e-3
        assert torch.equal(whole_NV, by_steps_NV)


@needs_kernels
def test_a_thinking_block_is_one_call_a_loop(adaptive):
    kernels = Kernels(BUILDS[0], num_threads=1)
    model = load_model(open_checkpoint(adaptive), dtype="float32", kernels=kernels)
    assert isinstance(model.layers, NativeLayers)
    left = [
        name for name, _ in model.named_parameters() if name.startswith(("layers", "think.loras"))
    ]
    assert not left


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
@pytest.mark.parametrize("name", ["odd group", "qwen3"])
def test_a_smaller_cache_costs_little_and_keeps_bits(files, name: str, dtype: torch.dtype):
    checkpoint, kernels = open_checkpoint(files[name]), Kernels(BUILDS[0], num_threads=2)
    whole = read(checkpoint, kernels, [[150, 90]], dtype)
    steps = read(checkpoint, kernels, [[100, 7], [50, 83]], dtype)
    for exact_NV, kept_NV, by_steps_NV in zip(
        read(checkpoint, None, [[150, 90]]), whole, steps, strict=True
    ):
        assert relative_error(kept_NV, exact_NV) < 0.02
        assert torch.equal(kept_NV, by_steps_NV)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_later_loops_keep_their_keys_as_the_cache_does(adaptive, dtype: torch.dtype):
    checkpoint, kernels = open_checkpoint(adaptive), Kernels(BUILDS[0], num_threads=2)
    whole = read(checkpoint, kernels, [[150, 90]], dtype, loops=3)
    steps = read(checkpoint, kernels, [[100, 7], [50, 83]], dtype, loops=3)
    exact = read(checkpoint, None, [[150, 90]], loops=3)
    for exact_NV, kept_NV, by_steps_NV in zip(exact, whole, steps, strict=True):
        assert relative_error(kept_NV, exact_NV) < 0.03
        assert torch.equal(kept_NV, by_steps_NV)


def answers(engine: Engine, asked: list[tuple], *, together: bool) -> list[list]:
    """Ask for 50 tokens each, and return what was said of them."""
    started = []
    for tokens, thinking in asked:
        started.append(ask(engine, tokens, 50, thinking=thinking))
        if not together:
            started[-1].wait()
    return [[(e.token_id, e.loops, e.clusters) for e in a.wait().events[:-1]] for a in started]


@needs_kernels
@pytest.mark.parametrize("cache_dtype", ["auto", "int8"])
def test_answers_depend_on_no_cut_batch_prefix_or_preemption(adaptive, cache_dtype):
    """Prompts and answers each end in a block that was begun before them."""
    settings = {"threads": 1, "cache_dtype": cache_dtype, "kernels": BUILDS[0]}
    random = torch.Generator().manual_seed(0)
    asked = [
        (torch.randint(3, 300, (150,), generator=random).tolist(), Thinking(**thinking))
        for thinking in ({"max_loops": 3}, {"max_loops": 4, "is_automatic": True}, {})
    ]

    alone = Engine.load(adaptive, EngineConfig(**settings))
    narrow = Engine.load(adaptive, EngineConfig(cache_tokens=384, step_tokens=40, **settings))
    try:
        expected = answers(alone, asked, together=False)
        assert answers(narrow, asked, together=True) == expected
        assert narrow.stats().num_preempted > 0
        assert answers(alone, asked, together=True) == expected
        assert alone.stats().num_cached_tokens == len(asked) * 128
    finally:
        alone.close()
        narrow.close()


def test_a_cache_that_nobody_reads_is_refused(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", format="F32")
    with pytest.raises(ConfigError, match="int8 needs native kernels"):
        Engine.load(path, EngineConfig(cache_dtype="int8", threads=1))


def test_a_build_that_is_not_there_is_named(files, monkeypatch):
    monkeypatch.setattr("heddle.engine.load.available", lambda: ("avx2", "portable"))
    with pytest.raises(ConfigError, match="'avx512' are not here .* auto, avx2, portable, torch"):
        Engine.load(files["llama"], EngineConfig(kernels="avx512"))


@pytest.mark.parametrize(
    ("usable", "reason"), [((), "not_built"), (("portable",), "old_processor")]
)
def test_without_kernels_the_engine_says_so_and_runs(files, monkeypatch, caplog, usable, reason):
    monkeypatch.setattr("heddle.engine.load.available", lambda: usable)
    engine = Engine.load(files["llama"], EngineConfig(threads=1))
    assert f"kernels=none reason={reason}" in caplog.text and engine.kernels is None
    assert ask(engine, [5, 6, 7], 4).finished.num_prompt_tokens == 3
    engine.close()
