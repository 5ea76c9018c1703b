"""`python -m corelocker`."""

from corelocker.cli import main

main()
