"""Speed measured side by side, as ratios: `python -m tests.benchmarks`; see README.md beside this file."""
