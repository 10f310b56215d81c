"""Fixtures of the pipeline tests."""

import pytest
from pipeline_toys import make, make_cloud


@pytest.fixture
def pipe():
    return make()


@pytest.fixture
def cloud():
    return make_cloud()
