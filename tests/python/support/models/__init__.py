"""Small torch models for the tests, and what the exporters make of them."""
