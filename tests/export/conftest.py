import pytest

from vivit.export import export as exporting


@pytest.fixture(autouse=True, scope="session")
def _no_processes():
    """Measuring memory starts two processes an export; one test of `peak_memory` is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "peak_memory", lambda source: 100.0)
        yield
