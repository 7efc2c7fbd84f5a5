"""``python -m spiketok``, and the command ``spiketok``."""

from spiketok.stopping import stoppable


def main() -> None:
    """The command line; a signal ends it in one line, also while it is imported."""
    with stoppable(program=True):
        from spiketok.cli import main as run

        run()


if __name__ == "__main__":
    main()
