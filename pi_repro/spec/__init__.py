"""What is asked: pydantic models of an experiment, its loading, canonical form and fingerprint."""
