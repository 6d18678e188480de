"""Where bytes live: loose blobs, packs, operations and the head. Knows nothing of tensors."""
