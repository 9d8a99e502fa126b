"""What a model computes: directions, probes, circuits, artifacts."""
