"""Fixtures of the tools' tests."""

from tests.engine.conftest import toy_data, zygote  # noqa: F401 - fixtures
