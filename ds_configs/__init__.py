"""DeepSpeed configurations as JSON: a base and small overlays; `rwtrain.config.deepspeed` merges them."""
