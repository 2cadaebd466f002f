"""Stages as SLURM jobs: what a site is like, what its queue says, how jobs are submitted and followed."""
