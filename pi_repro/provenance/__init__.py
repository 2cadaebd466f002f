"""How we know: what a stage ran with and on, kept beside the outputs and never inside them."""
