"""What follows from a spec: the stage graph, params.json, and why a stage would run."""
