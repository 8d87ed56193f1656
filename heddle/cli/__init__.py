"""The `heddle` command, one file a command; they import what they need when they run."""
