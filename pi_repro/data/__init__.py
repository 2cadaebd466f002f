"""The data room: sharded datasets, their order, their transforms and the loader that feeds training."""
