"""Probes: what weights are like inside, beside what they score."""
