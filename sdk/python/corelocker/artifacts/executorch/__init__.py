"""ExecuTorch programs (`.pte` with `.ptd`): the program, its delegates and its named data."""
