"""The network: a pure function `(Packed, Memory) -> Out`, the same code for training and serving.

Tensors carry their shape as a suffix, one letter a dimension, outermost first (`q_THC`):

    T tokens of a packed batch    D model width              V vocabulary
    S sequences                   F feed-forward width       N rows whose logits are wanted
    L tokens that are attended    H query heads              K key/value heads
    C channels of one head        E experts                  G clusters
    R loops                       M memory slots             P patches
    B blocks of a quantised row   X heads of any kind        J channels of the gate's running mean
    Y layers

A number stands for itself: `bounds_S1` has S + 1 entries.
"""
