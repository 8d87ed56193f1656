"""The OpenAI-compatible server: one file per resource of the API, one path to the engine."""
