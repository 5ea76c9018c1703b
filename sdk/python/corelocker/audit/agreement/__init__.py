"""How far a locked model still agrees with its original, measured by running both.

`corelocker.locking.measuring` starts this package as a process of its own (`python -m corelocker.audit.agreement`), because locking
itself only touches files. `runners` runs a file in any state, `inputs` makes inputs from its signature or reads the publisher's,
`score` compares outputs, `smallest` searches for the fewest bytes that silence them.
"""
