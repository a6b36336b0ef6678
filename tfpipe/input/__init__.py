"""Records to device batches: decoding, pipeline, augmentation."""
