"""The data path: shards on disk, packing, order, batches."""
