"""Settings of all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# On a machine that is busy with other workers an example may take any time; how long one takes is no property of the code.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
