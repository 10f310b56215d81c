"""One thread: tiny tensors are slower on two, and bit-identity across runs needs a fixed number."""

import pytest
import torch

torch.set_num_threads(1)

_CONFORMANCE = pytest.StashKey[list[float]]()


def pytest_configure(config):
    config.stash[_CONFORMANCE] = []
    config.pluginmanager.register(_Sizes(config.stash[_CONFORMANCE]))


class _Sizes:
    """Collects the times of the conformance suite's cases, also from other processes."""

    def __init__(self, seconds):
        self.seconds = seconds

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and "test_testing_conformance" in report.nodeid:
            self.seconds.append(report.duration)


def pytest_terminal_summary(terminalreporter, config):
    seconds = config.stash[_CONFORMANCE]
    if seconds:
        terminalreporter.write_line(f"conformance suite: {len(seconds)} cases in {sum(seconds):.0f} s")


@pytest.fixture
def fused(monkeypatch):
    """Linear layers go to oneDNN wherever it has them, on processors too where others are faster."""
    from sfumato.nets.blocks import kernels

    monkeypatch.setattr(kernels, "fuses_linear", kernels._onednn)
