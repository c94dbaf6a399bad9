"""The benchmarks of lapse: `python -m benchmarks --help`. What they found is in docs/performance.md."""
