"""Alembic's migrations of the service's database. `corelocker service migrate` runs them."""
