"""Training: one loop (`fit`), many stages. docs/training.md is the guide."""
