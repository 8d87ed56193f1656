"""Paging: old blocks that a query reads exactly, in place of their slots.

A layer's slots are their own index. A block's score is the attention that the query would give its
slots, summed over heads, and the blocks that score highest are read:

    score_B = Σ_h Σ_{m in B} softmax_l(q_h · k_l / √C + bias_l)_m

Far blocks lose by that whatever is in them, for in a base that nobody trained for it logits fall
with distance. So a memory may have an index instead: a key for every few tokens, pooled as a slot's
is, and turned as if its block were the first. A block counts by its best key, and each is scored as
if it were the youngest that is old:

    q'_h = R(window - age of the first block) q_h
    score_B = Σ_h softmax_B(max_{m in B} q'_h · k_m / √C)

Every layer, token and loop chooses anew. That takes no parameters, and the index learns wherever
slots do; the choice itself has no gradient. All heads read the same pages, since a page holds the
keys of all of them. Sources: native sparse attention (arXiv:2502.11089, section 3.3.2), which
scores blocks by attention to their summaries too; InfLLM (arXiv:2402.04617), which looks up far
blocks, and reads them, without their distances.
"""

import torch
from torch import Tensor

from heddle.model.config import MemoryConfig
from heddle.model.rope import moved


@torch.no_grad()
def choose_pages(
    q_SNHC: Tensor,
    k_SLKC: Tensor,
    mask_NL: Tensor,
    block_M: Tensor,
    *,
    num_blocks: int,
    paged_blocks: int,
) -> Tensor:
    """Return which blocks each query reads exactly, (sequences, queries, blocks): `paged_blocks`.

    The last M of the L keys are slots, of the blocks `block_M`. A block is never chosen whose slots
    the query does not see: `mask_NL`, added to logits, hides them.
    """
    num_kv_heads, width = k_SLKC.shape[-2:]
    q_SNKXC = q_SNHC.unflatten(2, (num_kv_heads, -1)) / width**0.5
    logits_SKXNL = torch.einsum("snkxc,slkc->skxnl", q_SNKXC, k_SLKC).float() + mask_NL
    mass_SNM = logits_SKXNL.softmax(-1)[..., -len(block_M) :].sum((1, 2))
    score_SNB = mass_SNM.new_zeros(*mass_SNM.shape[:-1], num_blocks)
    score_SNB.index_add_(-1, block_M, mass_SNM)
    return _best(score_SNB, paged_blocks)


@torch.no_grad()
def choose_by_index(
    memory: MemoryConfig,
    q_SNHC: Tensor,
    index_SMKC: Tensor,
    position_N: Tensor,
    frequencies: Tensor,
) -> Tensor:
    """Return which blocks queries at some positions read exactly, (sequences, queries, blocks).

    The index has all keys of blocks that are old for some query. Those of sinks alone lead nowhere.
    """
    assert memory.index_ratio is not None, "there is an index"
    num_kv_heads, width = index_SMKC.shape[-2:]
    block_N = position_N // memory.block_tokens
    back_N = (memory.window_blocks - block_N) * memory.block_tokens
    q_SNHC = torch.stack([moved(q_NHC, back_N, frequencies) for q_NHC in q_SNHC]) / width**0.5
    q_SNKXC = q_SNHC.unflatten(2, (num_kv_heads, -1))
    logits_SKXNM = torch.einsum("snkxc,smkc->skxnm", q_SNKXC, index_SMKC).float()
    logits_SKXNM[..., : memory.sink_tokens // memory.index_ratio] = -torch.inf
    best_SKXNB = logits_SKXNM.unflatten(-1, (-1, memory.block_tokens // memory.index_ratio)).amax(
        -1
    )
    block_B = torch.arange(best_SKXNB.shape[-1], device=position_N.device)
    is_old_NB = block_B <= (block_N - memory.window_blocks)[:, None]
    share_SKXNB = best_SKXNB.masked_fill(~is_old_NB, -torch.inf).softmax(-1)
    # Where nothing is old the softmax is of nothing.
    return _best(share_SKXNB.nan_to_num(0).sum((1, 2)), memory.paged_blocks)


def _best(score_SNB: Tensor, num: int) -> Tensor:
    """Mark the blocks of highest score, if above 0."""
    best = score_SNB.topk(min(num, score_SNB.shape[-1]))
    return torch.zeros_like(score_SNB, dtype=torch.bool).scatter(-1, best.indices, best.values > 0)
