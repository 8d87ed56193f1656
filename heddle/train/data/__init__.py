"""Training data: text to shards, shards and tasks to packed batches. docs/data.md is the guide."""
