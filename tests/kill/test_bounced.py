"""The router is killed while a bounce changes what was sent: the email failed once, and the bounce is filed once."""

from __future__ import annotations

import pytest

from tests.integration.flows.test_reports import bounce
from tests.kill.plant import Plant
from tests.kill.seams import BOUNCED

pytestmark = [pytest.mark.kill, pytest.mark.servers, pytest.mark.database]


@pytest.mark.parametrize("seam", BOUNCED)
def test_killed_while_an_email_bounces(plant: Plant, seam: str) -> None:
    running = plant.living()[-1] if plant.living() else plant.start()
    plant.until_serving(running)
    plant.write(1)
    sent = "SELECT count(*) FROM router.ledger WHERE state = 'sent' AND settled"
    plant.until(lambda: plant.number(sent) == 1, "the sending of the email")
    [(row, message_id)] = plant.ask("SELECT id, message_id FROM router.ledger WHERE state = 'sent' ORDER BY id")
    recipients = [
        address for (address,) in plant.ask("SELECT address FROM router.ledger_recipient WHERE ledger = %s", row)
    ]
    running.arm(seam)
    for n, recipient in enumerate(recipients):
        plant.dovecot.deliver(plant.addresses.ann, bounce(message_id, recipient, n=f"{seam}-{n}"))
    running.until_killed()
    plant.start()
    failed = "SELECT count(*) FROM router.ledger l JOIN crm.activity a ON a.id = l.email WHERE l.id = %s AND {}"
    plant.until(lambda: plant.number(failed.format("l.state = 'failed' AND a.status = 8"), row) == 1, "the failure")
    plant.until(lambda: plant.open_receipts() == 0, "the end of all work")
    filed = plant.ask(
        "SELECT message_id, count(*) FROM crm.activity WHERE message_id LIKE %s GROUP BY 1", f"bounce-{seam}%"
    )
    assert [count for _, count in filed] == [1] * len(recipients)
    states = plant.ask("SELECT state FROM router.ledger_recipient WHERE ledger = %s", row)
    assert {state for (state,) in states} == {"refused"}
