"""Messages that come together: each sees the verdicts before it."""

from __future__ import annotations

from dataclasses import replace

from email_router.model.evidence import Evidence
from email_router.model.mailbox import FilterOption
from email_router.model.verdict import Reason, Verdict
from email_router.tracking.batch import decide_batch
from tests.unit.tracking.people import SETTINGS, evidence, facts, new_id, queue, record, sent, user

HELP = queue("help", makes_cases=True)
ANNA = user("anna", FilterOption.IN_RESPONSE)
KNOWN = facts(HELP, ANNA)


def judged(*messages: Evidence) -> list[Verdict]:
    return decide_batch(messages, [KNOWN] * len(messages), SETTINGS, new_id)


def test_a_reply_belongs_to_the_case_that_its_parent_makes() -> None:
    parent = evidence([HELP.address])
    reply = evidence([ANNA.address], in_reply_to=(parent.message_id,))
    answer = evidence([HELP.address], references=(reply.message_id,))
    first, second, third = judged(parent, reply, answer)
    assert first.new_case is not None
    assert (second.reason, second.correlated) == (Reason.CORRELATION_MATCH, first.activity)
    assert (third.reason, third.correlated) == (Reason.CORRELATION_MATCH, second.activity)
    assert second.regarding == third.regarding == first.regarding
    assert (second.new_case, third.new_case) == (None, None)


def test_a_reply_before_its_parent_does_not_see_it() -> None:
    parent = evidence([HELP.address])
    reply = evidence([ANNA.address], in_reply_to=(parent.message_id,))
    assert judged(reply, parent)[0].reason is Reason.NO_CORRELATION_MATCH


def test_a_parent_that_is_not_tracked_is_no_parent() -> None:
    parent = evidence([ANNA.address])
    reply = evidence([HELP.address], in_reply_to=(parent.message_id,))
    first, second = judged(parent, reply)
    assert not first.accept
    assert (second.reason, second.correlated) == (Reason.ACCEPT_ALL, None)


def test_twins_are_one_and_other_content_under_the_same_id_is_another() -> None:
    one = evidence([HELP.address])
    other = replace(evidence([HELP.address]), message_id=one.message_id)
    first, twin, third = judged(one, one, other)
    assert (twin.reason, twin.activity) == (Reason.DUPLICATE, first.activity)
    assert third.reason is Reason.ACCEPT_ALL


def test_what_the_crm_knows_stays_known() -> None:
    parent = sent("asked@acme.test", regarding=record("incident"))
    known = replace(KNOWN, by_message_id={"asked@acme.test": parent}, duplicate=parent)
    [verdict] = decide_batch([evidence([HELP.address])], [known], SETTINGS, new_id)
    assert (verdict.reason, verdict.activity) == (Reason.DUPLICATE, parent.id)


def test_nobody_takes_over_a_conversation_by_using_its_id() -> None:
    ours = sent("asked@acme.test", regarding=record("incident"))
    taker = replace(evidence([HELP.address]), message_id="asked@acme.test")
    reply = evidence([HELP.address], in_reply_to=("asked@acme.test",))
    known = replace(KNOWN, by_message_id={"asked@acme.test": ours})
    verdicts = decide_batch([taker, reply], [KNOWN, known], SETTINGS, new_id)
    assert verdicts[1].correlated == ours.id
    first = evidence([HELP.address])
    second = replace(evidence([HELP.address]), message_id=first.message_id)
    answer = evidence([HELP.address], in_reply_to=(first.message_id,))
    verdicts = judged(first, second, answer)
    assert verdicts[2].correlated == verdicts[0].activity


def test_messages_without_an_id_are_nobodys_parents() -> None:
    nameless = replace(evidence([HELP.address]), message_id="")
    reply = replace(evidence([HELP.address]), in_reply_to=("",))
    assert judged(nameless, reply)[1].correlated is None


def test_nothing_gives_nothing() -> None:
    assert judged() == []
