import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from heddle.model.batch import pack
from heddle.model.config import MemoryConfig, Tier
from heddle.model.transformer import Transformer
from heddle.train.forward import batch_flops
from tests.tiny import tiny_config

LENGTHS = (40, 24)
TRIANGLES = sum(length * (length + 1) // 2 for length in LENGTHS)
# With blocks of 8, two of them exact, a sink and a slot for 4 tokens, by hand: a block's tokens see
# 36 keys of their own, 64 of the block before, and each the sink and 2 slots of every older block.
BLOCKS = (36, 36 + 64, 36 + 64 + 8 * 3, 36 + 64 + 8 * 5, 36 + 64 + 8 * 7)
WITH_SLOTS = sum(BLOCKS) + sum(BLOCKS[:3])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("has_memory", [False, True])
def test_a_step_is_three_forwards_of_what_tokens_see(tied: bool, has_memory: bool):
    """Every product of a forward; PyTorch's counter takes attention to be full."""
    memory = MemoryConfig(block_tokens=8, sink_tokens=1, window_blocks=2, tiers=(Tier(4, None),))
    config = tiny_config(tied_embeddings=tied)
    model = Transformer(config)
    packed = pack([[1] * length for length in LENGTHS])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        trace = model(packed).trace
    attended = WITH_SLOTS if has_memory else TRIANGLES
    config = tiny_config(tied_embeddings=tied, memory=memory if has_memory else None)
    unseen = sum(length**2 for length in LENGTHS) - attended
    unseen_flops = 4 * config.num_heads * config.head_width * config.num_layers * unseen
    forward = counter.get_total_flops() - unseen_flops
    assert batch_flops(config, packed, trace, backward=False) == forward
    assert batch_flops(config, packed, trace) == 3 * forward
