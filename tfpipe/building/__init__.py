"""From sources to a records folder: scan, select, split, shard, publish."""
