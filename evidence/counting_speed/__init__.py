"""How fast the evaluators count, against the peers that are installed (evidence.benchmark_evaluation)."""
