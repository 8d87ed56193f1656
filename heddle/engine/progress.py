"""What a step's rows mean for a sequence: scores, an embedding, the next token, the end."""

import time
from dataclasses import replace

import torch

from heddle.engine.request import Embedded, Finished, PromptScored
from heddle.engine.runner import Rows
from heddle.engine.sampler import top_logprobs
from heddle.engine.sequence import Sequence, Work


@torch.inference_mode()
def advance(work: Work, rows: Rows) -> Finished | None:
    """Take in what a step computed for a sequence; return its last event if this was the end."""
    sequence, request = work.sequence, work.sequence.request
    sequence.spending.add(rows.reading, first=sequence.num_computed, num=work.num_tokens)
    sequence.num_computed += work.num_tokens
    sequence.spending.add_guesses(first=sequence.num_computed, num=len(work.draft))
    if request.embed:
        total = rows.hidden_TD.sum(0, dtype=torch.float32)
        past = sequence.hidden_sum_D
        sequence.hidden_sum_D = total if past is None else past + total
    if sequence.scores_prompt:
        _score_prompt(sequence, rows)
    if sequence.num_pending:
        return None
    sequence.first_token_at = sequence.first_token_at or time.monotonic()
    if sequence.hidden_sum_D is not None:
        mean_D = sequence.hidden_sum_D / len(request.prompt)
        sequence.on_event(Embedded(vector=tuple(mean_D.tolist())))
        return sequence.finished("stop")
    if sequence.scores_prompt:
        logprobs, tops = (
            zip(*sequence.prompt_scores, strict=True) if sequence.prompt_scores else ((), ())
        )
        sequence.on_event(PromptScored(logprobs=logprobs, top_logprobs=tops))
        if request.max_new_tokens == 0:
            return sequence.finished("length")
    return _generate(work, rows)


def _score_prompt(sequence: Sequence, rows: Rows) -> None:
    first = sequence.num_computed - len(rows.logits_NV)
    targets = sequence.request.prompt[first + 1 : sequence.num_computed + 1]
    for logits_V, target in zip(rows.logits_NV, targets, strict=False):
        logprobs_V = logits_V.log_softmax(-1)
        tops = top_logprobs(logprobs_V, sequence.request.num_prompt_logprobs or 0)
        sequence.prompt_scores.append((float(logprobs_V[target]), tops))


def _generate(work: Work, rows: Rows) -> Finished | None:
    """Draw a token, and as long as what was drawn is what was guessed, the one behind it.

    Each is drawn from the row that the true tokens before it gave, so that it is the one that would
    be drawn without guessing, by the same random numbers.
    """
    sequence, num_guesses = work.sequence, len(work.draft)
    num_true, finished = 0, _draw(sequence, rows, row=-1 - num_guesses)
    while finished is None and num_true < num_guesses:
        if sequence.tokens[-1] != work.draft[num_true]:
            break
        num_true += 1
        sequence.num_computed += 1
        sequence.spending.keep_guess()
        finished = _draw(sequence, rows, row=num_true - 1 - num_guesses)
    if num_guesses and sequence.speculation is not None:
        sequence.speculation.note(num_guesses, num_true)
    return finished


def _draw(sequence: Sequence, rows: Rows, *, row: int) -> Finished | None:
    request, constraint = sequence.request, sequence.constraint
    event = sequence.sampler.draw(rows.logits_NV[row], constraint)
    sequence.num_generated += 1
    if event.token_id in request.stop_ids:
        return sequence.finished("stop", stop=event)
    sequence.tokens.append(event.token_id)
    if rows.reading is not None:
        loops, clusters = rows.reading.loops[row], tuple(rows.reading.clusters[row])
        event = replace(event, loops=loops, clusters=clusters)
    sequence.on_event(event)
    if constraint is not None and constraint.is_complete:
        return sequence.finished("stop")
    if sequence.num_generated == request.max_new_tokens:
        return sequence.finished("length")
    return None
