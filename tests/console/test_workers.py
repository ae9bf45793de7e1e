"""The page of the fleet: what it offers for each worker, and what it refuses."""

from __future__ import annotations

from tests.console.conftest import Browser
from tests.factories import make_worker


def test_a_worker_that_was_told_to_stop_offers_no_way_back(admin: Browser) -> None:
    make_worker(id="w1", wish="stop")
    make_worker(id="w2", wish="quiet")
    page = admin.get("/workers").get_data(as_text=True)
    assert "/worker/w1/" not in page
    assert "/worker/w2/resume" in page
    response = admin.post("/worker/w1/resume", partial=True)
    assert response.status_code == 409
    assert b"Worker w1 is stopping by now" in response.data
