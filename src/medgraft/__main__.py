"""``python -m medgraft``: the command line."""

from medgraft.cli import main

if __name__ == "__main__":
    main()
