"""`python -m corelocker`."""

from corelocker.cli import main

if __name__ == "__main__":  # a process that multiprocessing starts imports this too
    main()
