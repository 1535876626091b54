"""Fail unless the demo's results reach what the README says."""

import json
import sys

with open(sys.argv[1], encoding="utf-8") as stream:
    results = json.load(stream)
checks = {
    "zero-shot accuracy ≥ 60%": results["zero_shot_accuracy"] >= 0.60,
    "perplexity below 60% of a unigram model's": results["perplexity"] < 0.6 * results["unigram_perplexity"],
    "TransE MRR ≥ 0.2": results["transe_mrr"] >= 0.2,
    "exported logits within 1e-3 of the trained": results["parity_max_abs_diff"] < 1e-3,
    "losses after the kill equal those before": results["resumed_losses_equal"] is True,
    "under 10 minutes without installation": sum(seconds for name, seconds in results["seconds"].items() if name != "environment") < 600,
}
for name, passed in checks.items():
    print(f"{'ok  ' if passed else 'FAIL'} {name}")
sys.exit(not all(checks.values()))
