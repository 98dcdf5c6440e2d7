"""The alert rules and the dashboard name only metrics that exist, and every alert says what to do."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from conftest import Pluct, until

DOCS = Path(__file__).parent.parent / "docs"
ALERTS = (DOCS / "alerts.yml").read_text("utf-8")
DASHBOARD = (DOCS / "grafana-dashboard.json").read_text("utf-8")


def exposed(page: str) -> set[str]:
    """Every series that a page of metrics can have, by its types."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", page, flags=re.M):
        found |= {name + end for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    return found


def test_every_metric_named_exists(make_pluct: Callable[..., Pluct]) -> None:
    """An alert on a metric that was renamed would never ring."""
    toml = '[[webhooks]]\nurl = "https://shop.example/"\nevents = ["credits.low"]\n'
    server = make_pluct(toml=toml, PLUCT_WEBHOOK_OUT_SECRET="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    server.start()
    server.funded(1)
    until(lambda: "pluct_payments_waiting" in server.client.get("/metrics").text, 20)
    until(lambda: "pluct_events" in server.client.get("/metrics").text)
    there = exposed(server.client.get("/metrics").text)
    queries = [panel["targets"][0]["expr"] for panel in json.loads(DASHBOARD)["panels"]]
    for page in (ALERTS, " ".join(queries)):
        named = set(re.findall(r"\bpluct_\w+", page))
        assert named
        assert named <= there


def test_every_alert_has_its_section() -> None:
    """Whoever is woken finds what to do."""
    names = re.findall(r"- alert: (\w+)", ALERTS)
    assert names
    headings = re.findall(r"^### (\w+)$", (DOCS / "runbook.md").read_text("utf-8"), flags=re.M)
    assert set(names) <= set(headings)
