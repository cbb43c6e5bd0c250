"""Evaluation: compare encoders with each other and with baselines on a collection."""
