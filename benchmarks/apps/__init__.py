"""What the applications reach: a small model pretrained for them, then each application measured beside its baselines."""
