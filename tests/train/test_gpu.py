"""On a GPU: the same numbers as on the CPU, and a loss that falls in bfloat16."""

import pytest
import torch

from heddle.model.batch import pack
from heddle.train.optim import OptimiserConfig
from heddle.train.pretrain import pretrain
from heddle.train.trainee import Trainee
from tests.model.test_adaptive import sequence
from tests.model.test_memory import forgetful
from tests.train.routed import routed_batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


@pytest.mark.parametrize("loops", [1, 3])
def test_an_adaptive_forward_is_the_cpus(loops):
    model, packed = forgetful(), pack([sequence(60), sequence(33, seed=1)], loops=loops)
    with torch.inference_mode():
        want = model(packed).logits_NV
        moved = packed._replace(
            token_T=packed.token_T.cuda(),
            position_T=packed.position_T.cuda(),
            output_N=packed.output_N.cuda(),
            depth=packed.depth
            and packed.depth._replace(
                max_T=packed.depth.max_T.cuda(), auto_T=packed.depth.auto_T.cuda()
            ),
        )
        got = model.cuda()(moved).logits_NV
    assert torch.allclose(got.cpu(), want, atol=2e-3)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_bfloat16_training_lowers_a_loss(is_compiled):
    batch = routed_batch()
    trainee = Trainee(
        forgetful().cuda().train(),
        pretrain(lambda *_, **__: iter(())),
        optimiser=OptimiserConfig(learning_rate=1e-3),
        dtype=torch.bfloat16,
        parallel="ddp",
        recompute=False,
        is_compiled=is_compiled,
    )
    losses = []
    for _ in range(30):
        losses.append(float(trainee.learn(batch, progress=0.0).mean))
        norm = trainee.gradient_norm(total_weight=float(batch.weight_T.sum()))
        trainee.move(learning_rate=1e-3, norm=norm)
    assert losses[-1] < 0.8 * losses[0]
