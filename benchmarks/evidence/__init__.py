"""Evidence runs: does each part of the model help? `python -m benchmarks.evidence.NAME --data DIR [--quick]` trains small variants over several seeds."""
