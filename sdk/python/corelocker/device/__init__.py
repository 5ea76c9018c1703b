"""A device in software: what the phones do, for development, CI and the tests of the other languages."""
