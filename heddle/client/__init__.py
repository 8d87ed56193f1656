"""Talking to a model, wherever it runs: what agents, evaluations and the command line use."""
