"""``python -m spiketok``."""

from spiketok.cli import main

main()
