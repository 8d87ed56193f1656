"""Tasks: one object each that serves training data, evaluation and reward. No torch.

`table.TASKS` lists them; docs/data.md explains them.
"""
