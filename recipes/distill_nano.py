"""A teacher to try `heddle distill` on: 341,000 parameters that loop, route and answer.

It learns three small tasks of different clusters, a byte a token. docs/distillation.md goes on from
here.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from heddle.model.config import FabricConfig, ModelConfig, ThinkConfig
from heddle.model.presets import cluster_experts
from heddle.tasks.table import find
from heddle.text.tokenizer import Tokenizer
from heddle.train.adaptive import Auxiliary
from heddle.train.data.mix import Part
from heddle.train.data.stream import BatchStream
from heddle.train.data.task_documents import Curriculum, TaskDocuments
from heddle.train.data.vocabulary import BYTES_ONLY, END_TOKEN, train_tokenizer
from heddle.train.depth import DepthSchedule
from heddle.train.fit import FitConfig
from heddle.train.optim import OptimiserConfig
from heddle.train.pretrain import pretrain
from heddle.train.run import Run
from heddle.train.schedule import Schedule
from heddle.train.stage import Stage
from heddle.weights.checkpoint import Checkpoint

MAX_LOOPS = 4
DIFFICULTIES = {"copy": (3, 5), "key_value_recall": (1, 2), "s3_tracking": (4, 4)}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Prompts of small tasks and their answers, of which only these are learned."""

    tokens_per_batch: int = 1024
    auxiliary: Auxiliary = Auxiliary()
    depth: DepthSchedule = DepthSchedule(
        first_mean=2.0, last_mean=2.0, deep_share=0.0, most=MAX_LOOPS
    )

    def stage(self, start: Checkpoint | None) -> Stage:
        """Return the stage of answering."""
        text = train_tokenizer(())
        tokenizer = Tokenizer(text)
        parts = {
            name: Part(
                source=TaskDocuments(
                    find(name),
                    tokenizer,
                    end_id=tokenizer.control_tokens[END_TOKEN],
                    curriculum=Curriculum(lowest=lowest, highest=highest),
                )
            )
            for name, (lowest, highest) in DIFFICULTIES.items()
        }
        stage = pretrain(
            BatchStream(parts, seed=0, tokens_per_batch=self.tokens_per_batch).batches,
            auxiliary=self.auxiliary,
            depth=self.depth.depth,
        )
        return replace(stage, tokenizer=text)


def distill_nano() -> Run:
    """Return the run; two minutes of one core."""
    return Run(
        folder=Path("runs/distill_nano"),
        model=ModelConfig(
            vocab_size=BYTES_ONLY,
            width=64,
            num_layers=4,
            num_heads=4,
            num_kv_heads=2,
            head_width=16,
            ffn_width=128,
            context_length=256,
            fabric=FabricConfig(experts=cluster_experts(8)),
            think=ThinkConfig(
                first_layer=1, num_layers=2, adapter_rank=16, lora_rank=4, max_loops=MAX_LOOPS
            ),
        ),
        objective=Answers(),
        optimiser=OptimiserConfig(
            learning_rate=3e-3, schedule=Schedule(warmup_steps=20, decay_steps=150)
        ),
        fit=FitConfig(num_steps=500),
    )
