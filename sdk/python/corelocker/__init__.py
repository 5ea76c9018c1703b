"""CoreLocker: ship a neural network in a locked state and restore it, bit for bit, on a device that has proven itself.

`artifacts` reads finished model files, `locking` takes the access key out of them, `bundle` packs it encrypted and signed,
`licensing` releases the content key to a device, `runtime` puts the bytes back in memory, `audit` says what the lock is worth.
"""

__version__ = "0.1.0"
