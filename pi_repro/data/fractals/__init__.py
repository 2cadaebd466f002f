"""Images that nobody drew or photographed: attractors of iterated function systems, rendered here, no downloads."""
