import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from heddle.model.batch import pack
from heddle.model.memory import WholeSequences
from heddle.model.transformer import Transformer
from heddle.train.metrics import peak_flops, training_flops
from tests.tiny import tiny_config


@pytest.mark.parametrize("tied", [True, False])
def test_the_formula_counts_what_a_step_computes(tied):
    """Every product of a forward, three times; PyTorch's counter takes attention to be full."""
    config = tiny_config(tied_embeddings=tied)
    model = Transformer(config)
    packed = pack([[1] * 40, [2] * 24])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(packed, WholeSequences(packed.bounds_S1))
    full = 40 * 40 + 24 * 24
    counted = training_flops(config, num_tokens=64, num_attended=full)
    assert counted == 3 * counter.get_total_flops()


def test_a_cpus_peak_is_measured():
    assert 1e8 < (peak_flops(torch.device("cpu")) or 0) < 1e14
