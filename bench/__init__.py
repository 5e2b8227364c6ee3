"""How fast, and with how much memory: `python -m bench`. See docs/benchmarks.md."""
