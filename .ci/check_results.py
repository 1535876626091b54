"""Fail unless the demo's results reach what the README says; report its duration, which also depends on what else the machine does."""

import json
import sys

LIMIT_S = 600

with open(sys.argv[1], encoding="utf-8") as stream:
    results = json.load(stream)
checks = {
    "zero-shot accuracy ≥ 60%": results["zero_shot_accuracy"] >= 0.60,
    "perplexity below 60% of a unigram model's": results["perplexity"] < 0.6 * results["unigram_perplexity"],
    "TransE MRR ≥ 0.2": results["transe_mrr"] >= 0.2,
    "exported logits within 1e-3 of the trained": results["parity_max_abs_diff"] < 1e-3,
    "losses after the kill equal those before": results["resumed_losses_equal"] is True,
}
for name, passed in checks.items():
    print(f"{'ok  ' if passed else 'FAIL'} {name}")
seconds = sum(spent for name, spent in results["seconds"].items() if name != "environment")
print(f"{'ok  ' if seconds < LIMIT_S else 'SLOW'} {seconds:.0f} s without installation (meant to stay below {LIMIT_S} on two idle cores)")
sys.exit(not all(checks.values()))
