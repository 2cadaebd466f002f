"""`python -m pi_repro` is `pirepro`."""

from pi_repro.cli import main

main()
