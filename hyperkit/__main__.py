"""``python -m hyperkit``."""

from hyperkit.cli import main

if __name__ == "__main__":
    main()
