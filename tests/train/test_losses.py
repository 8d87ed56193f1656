import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from heddle.train.data.document import IGNORED
from heddle.train.losses import token_loss


@pytest.mark.parametrize("chunk_tokens", [1, 7, 1000])
def test_sums_and_gradients_equal_those_of_whole_logits(chunk_tokens):
    torch.manual_seed(0)
    hidden = torch.randn(20, 8, requires_grad=True)
    head = nn.Linear(8, 30, bias=False)
    target = torch.randint(30, (20,))
    target[::3] = IGNORED
    weight = torch.rand(20)

    ours = token_loss(hidden, head, target, weight, chunk_tokens=chunk_tokens)
    (ours.negative_log_likelihood + 0.1 * ours.squared_log_partition).backward()
    gradients = hidden.grad, head.weight.grad
    hidden.grad = head.weight.grad = None

    logits = head(hidden)
    scored = target != IGNORED
    loss = cross_entropy(logits, target, ignore_index=IGNORED, reduction="none")[scored]
    partition = logits.logsumexp(-1)[scored].square()
    expected = (loss @ weight[scored], partition @ weight[scored])
    (expected[0] + 0.1 * expected[1]).backward()

    torch.testing.assert_close(ours[:2], expected)
    assert ours.weight == weight[scored].sum()
    torch.testing.assert_close(gradients, (hidden.grad, head.weight.grad))


def test_logits_are_never_held_for_all_tokens():
    rows_seen = []

    class Watched(nn.Linear):
        def forward(self, input):
            rows_seen.append(len(input))
            return super().forward(input)

    hidden = torch.randn(100, 8, requires_grad=True)
    kept_for_backward = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept_for_backward.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        loss = token_loss(
            hidden,
            Watched(8, 500),
            torch.zeros(100, dtype=torch.long),
            torch.ones(100),
            chunk_tokens=10,
        )
    assert max(rows_seen) == 10
    assert sum(kept_for_backward) < 100 * 500 / 4
    loss.negative_log_likelihood.backward()


def test_nothing_scored_is_a_zero_with_a_zero_gradient():
    hidden = torch.randn(5, 8, requires_grad=True)
    target = torch.full((5,), IGNORED)
    loss = token_loss(hidden, nn.Linear(8, 30), target, torch.ones(5))
    loss.negative_log_likelihood.backward()
    assert loss[:2] == (0, 0) and loss.weight == 0
    assert hidden.grad is not None and not hidden.grad.any()
