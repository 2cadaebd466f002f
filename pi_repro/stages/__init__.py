"""The verbs: fetch, draw, align, pretrain, evaluate, report. Each is `run(context) -> None`."""
