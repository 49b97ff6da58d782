"""Frozen embeddings in, numbers with intervals out: any encoder, ours or not."""
