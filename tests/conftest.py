"""Settings for every test: a busy machine may take its time."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("fivefold", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fivefold")
