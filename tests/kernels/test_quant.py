import gguf
import numpy as np
import pytest
import torch

from heddle.kernels.quant import FORMATS, QuantTensor, block_layout


def random_blocks(format: str, *, num_rows: int, num_blocks: int) -> np.ndarray:
    """Return random numbers in `format`, or random bytes where the gguf package cannot write it."""
    rng = np.random.default_rng(sum(format.encode()))
    block_length, block_bytes = block_layout(format)
    numbers = rng.normal(size=(num_rows, num_blocks * block_length)).astype(np.float32)
    try:
        return gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[format])
    except NotImplementedError:
        return rng.integers(0, 256, (num_rows, num_blocks * block_bytes), dtype=np.uint8)


@pytest.mark.parametrize("format", FORMATS)
def test_equals_the_gguf_package_bit_for_bit(format: str) -> None:
    data = random_blocks(format, num_rows=6, num_blocks=3)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[format])
        tensor = QuantTensor(format, torch.from_numpy(data))
        actual = tensor.dequantize()
    assert tensor.shape == expected.shape
    np.testing.assert_array_equal(actual.numpy().view(np.uint32), expected.view(np.uint32))
    assert np.unique(expected).size > 4


def test_every_format_that_gguf_unpacks_is_supported() -> None:
    def unpacks(kind: gguf.GGMLQuantizationType) -> bool:
        block_length, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        try:
            gguf.quants.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
        except NotImplementedError:
            return False
        return block_length > 1

    assert {kind.name for kind in gguf.GGMLQuantizationType if unpacks(kind)} == set(FORMATS)


@pytest.mark.parametrize("format", ["Q4_0", "Q4_1", "Q8_0", "Q5_0"])
def test_rows_can_be_cut_and_reordered_while_packed(format: str) -> None:
    tensor = QuantTensor(format, torch.from_numpy(random_blocks(format, num_rows=8, num_blocks=2)))
    order = torch.tensor([5, 0, 7, 7])
    assert torch.equal(tensor[2:5].dequantize(), tensor.dequantize()[2:5])
    assert torch.equal(tensor[order].dequantize(), tensor.dequantize()[order])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_smaller_types_are_rounded_once(dtype: torch.dtype) -> None:
    tensor = QuantTensor("Q4_1", torch.from_numpy(random_blocks("Q4_1", num_rows=4, num_blocks=4)))
    assert torch.equal(tensor.dequantize(dtype), tensor.dequantize().to(dtype))


def test_a_matrix_larger_than_one_step_is_unpacked_whole() -> None:
    data = random_blocks("Q8_0", num_rows=300, num_blocks=300)
    expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(
        QuantTensor("Q8_0", torch.from_numpy(data)).dequantize().numpy(), expected
    )
