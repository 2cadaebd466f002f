"""How a model is judged: zero-shot classification, retrieval and two-alternative forced choice."""
