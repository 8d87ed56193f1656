"""Block-quantised matrices as GGUF stores them, kept packed until somebody wants numbers.

Made by `weights/gguf.py`; read by `weights/contents.py` (whole tensors) and the engine's matrix
products. Layouts are those of `ggml-common.h` in https://github.com/ggml-org/llama.cpp: a row is a
run of blocks, a block holds 32 to 256 numbers of one row with their scale. Q4_0,
Q4_1 and Q8_0 are unpacked here, six times as fast as by the `gguf` package, which does the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass

import gguf
import torch
from torch import Tensor

FORMATS = (
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS",
    "TQ1_0", "TQ2_0", "MXFP4", "NVFP4",
)  # fmt: skip

_NUMBERS_PER_STEP = 1 << 21  # so that what a step needs besides its result stays near the caches


def block_layout(format: str) -> tuple[int, int]:
    """Return how many numbers a block of `format` holds, and how many bytes it takes."""
    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[format]]


@dataclass(frozen=True, eq=False)
class QuantTensor:
    """A matrix in blocks along its rows; `data` is uint8, rows x bytes of a row.

    Indexing with a slice or a vector of row numbers gives those rows, still packed.
    """

    format: str
    data: Tensor

    def __post_init__(self):
        assert self.format in FORMATS, self.format
        assert self.data.dtype == torch.uint8 and self.data.dim() == 2, self.data
        assert self.data.shape[1] % block_layout(self.format)[1] == 0, self.data.shape

    @property
    def shape(self) -> torch.Size:
        """Rows and columns of the numbers that are meant."""
        block_length, block_bytes = block_layout(self.format)
        rows, row_bytes = self.data.shape
        return torch.Size((rows, row_bytes // block_bytes * block_length))

    def __getitem__(self, rows: slice | Tensor) -> "QuantTensor":
        return QuantTensor(self.format, self.data[rows])

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Unpack to `dtype`; computed in float32 and rounded once."""
        out = torch.empty(self.shape, dtype=dtype)
        unpack = _UNPACK.get(self.format, self._unpack_with_gguf)
        block_length, block_bytes = block_layout(self.format)
        step = max(1, _NUMBERS_PER_STEP // max(1, self.shape[1]))
        for first in range(0, self.shape[0], step):
            rows_BY = self.data[first : first + step].reshape(-1, block_bytes)
            out_BZ = out[first : first + step].view(-1, block_length)
            if dtype == torch.float32:
                unpack(rows_BY, out_BZ)
            else:
                exact_BZ = torch.empty_like(out_BZ, dtype=torch.float32)
                unpack(rows_BY, exact_BZ)
                out_BZ.copy_(exact_BZ)
        return out

    def _unpack_with_gguf(self, rows_BY: Tensor, out_BZ: Tensor) -> None:
        kind = gguf.GGMLQuantizationType[self.format]
        out_BZ.copy_(torch.from_numpy(gguf.quants.dequantize(rows_BY.numpy(), kind)))


def _halves(rows_BY: Tensor) -> Tensor:
    return rows_BY.contiguous().view(torch.float16).float()


def _nibbles(packed_BY: Tensor) -> Tensor:
    """Return the low halves of all bytes, then the high halves: 16 bytes make 32 numbers."""
    return torch.stack((packed_BY & 15, packed_BY >> 4), dim=1).flatten(1)


def _unpack_q4_0(rows_BY: Tensor, out_BZ: Tensor) -> None:
    centred = _nibbles(rows_BY[:, 2:]).view(torch.int8) - 8
    torch.mul(centred, _halves(rows_BY[:, :2]), out=out_BZ)


def _unpack_q4_1(rows_BY: Tensor, out_BZ: Tensor) -> None:
    scale_B2 = _halves(rows_BY[:, :4])
    torch.mul(_nibbles(rows_BY[:, 4:]), scale_B2[:, :1], out=out_BZ)
    out_BZ.add_(scale_B2[:, 1:])


def _unpack_q8_0(rows_BY: Tensor, out_BZ: Tensor) -> None:
    torch.mul(rows_BY[:, 2:].view(torch.int8), _halves(rows_BY[:, :2]), out=out_BZ)


_UNPACK: dict[str, Callable[[Tensor, Tensor], None]] = {
    "Q4_0": _unpack_q4_0,
    "Q4_1": _unpack_q4_1,
    "Q8_0": _unpack_q8_0,
}
