"""Images to records: sources, labels, checks, splits, shards, manifest."""
