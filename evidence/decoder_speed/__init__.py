"""What decoders, losses and steps take beside their peers, in one process (evidence.benchmark_decoders)."""
