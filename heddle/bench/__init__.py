"""Speed and memory beside peers: what `heddle bench` runs. docs/bench.md has the method."""
