"""Stage 5: a diagnosis as text; computes no statistic."""
