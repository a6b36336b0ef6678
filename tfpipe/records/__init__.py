"""Records on disk: examples, shards, the manifest, and checks of all three."""
