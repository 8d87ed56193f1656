import torch

from heddle.train.metrics import peak_flops


def test_a_cpus_peak_is_measured():
    assert 1e8 < (peak_flops(torch.device("cpu")) or 0) < 1e14
