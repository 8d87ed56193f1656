"""Evaluations: sets of `tasks` put to any model, with intervals and reports. No torch."""
