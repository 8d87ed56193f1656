"""Paging: old blocks that a query reads exactly, in place of their slots.

A layer's slots are their own index. A block's score is the attention that the query would give its
slots, summed over heads, and the blocks that score highest are read:

    score_B = Σ_h Σ_{m in B} softmax_l(q_h · k_l / √C + bias_l)_m

Every layer, token and loop chooses anew. That takes no parameters and nothing else to store, and
the index learns wherever slots do; the choice itself has no gradient. All heads read the same
pages, since a page holds the keys of all of them. Source: native sparse attention
(arXiv:2502.11089, section 3.3.2), which scores blocks by attention to their summaries too.
"""

import torch
from torch import Tensor


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
    best = score_SNB.topk(min(paged_blocks, num_blocks))
    return torch.zeros_like(score_SNB, dtype=torch.bool).scatter(-1, best.indices, best.values > 0)
