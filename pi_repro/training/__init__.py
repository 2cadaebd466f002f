"""How a model learns: exact steps, their sums, their ledger and the checkpoints they resume from."""
