"""The policy, question by question: who is asked, what is answered, and in which words."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta, timezone

import pytest

from email_router.model.evidence import Evidence, Facts
from email_router.model.mailbox import AccessMethod, Approval, FilterOption, MailboxKind
from email_router.model.settings import TrackingSettings
from email_router.model.verdict import Correlation, Reason, Verdict
from email_router.tracking.decide import decide
from tests.unit.tracking.people import BOB, NOW, SETTINGS, evidence, facts, new_id, queue, receiver, record, sent, user

ALL, RESPONSE, CUSTOMERS, ENABLED, NONE = FilterOption


def judged(message: Evidence, known: Facts, **settings: object) -> Verdict:
    return decide(message, known, replace(SETTINGS, **settings), new_id)  # type: ignore[arg-type]


def test_reasons_have_the_originals_numbers_and_names() -> None:
    assert {reason.value: reason.label for reason in Reason} == {
        -1: "Unknown",
        0: "Duplicate",
        1: "NoCorrelationMatch",
        2: "CorrelationMatch",
        3: "NoRecipientMatch",
        4: "InternalEmailReject",
        5: "SenderMatch",
        6: "AcceptAll",
        7: "InvalidSender",
    }
    assert [option.value for option in (ALL, RESPONSE, CUSTOMERS, ENABLED, NONE)] == [0, 1, 2, 3, 4]


# -- the five filter options, for users and queues, whoever writes

SENDERS = ("contact", "account", "lead", "systemuser", "queue", "equipment", "new_building")
ACCEPTS = {
    ALL: dict.fromkeys(("", *SENDERS), Reason.ACCEPT_ALL),
    RESPONSE: {},
    CUSTOMERS: dict.fromkeys(("contact", "account", "lead"), Reason.SENDER_MATCH),
    ENABLED: dict.fromkeys(SENDERS, Reason.SENDER_MATCH),
    NONE: {},
}
"""By filter option, and kind of the sender's record ("" for none): the reason with which it accepts."""


@pytest.mark.parametrize("kind", [MailboxKind.USER, MailboxKind.QUEUE])
@pytest.mark.parametrize("option", FilterOption)
@pytest.mark.parametrize("sender", ["", *SENDERS])
def test_a_filter_option_accepts(kind: MailboxKind, option: FilterOption, sender: str) -> None:
    asked = receiver(kind, "help", option)
    known = facts(asked, sender=[record(sender)] if sender else [])
    verdict = judged(evidence([asked.address]), known)
    wanted = ACCEPTS[option].get(sender)
    assert verdict.reason is (wanted or Reason.NO_CORRELATION_MATCH)
    assert verdict.accept is (wanted is not None)
    assert verdict.accepting == (asked.id if wanted else None)
    assert verdict.queues == ((asked.id,) if wanted and kind is MailboxKind.QUEUE else ())
    assert verdict.correlation is Correlation.NONE


@pytest.mark.parametrize("option", FilterOption)
def test_a_reply_to_tracked_mail_passes_every_filter_but_no_email_messages(option: FilterOption) -> None:
    asked = user("anna", option)
    parent = sent("asked@acme.test", regarding=record("incident", "The case"))
    message = evidence([asked.address], in_reply_to=("asked@acme.test",))
    verdict = judged(message, facts(asked, by_message_id={"asked@acme.test": parent}))
    if option is NONE:
        assert (verdict.accept, verdict.reason) == (False, Reason.NO_CORRELATION_MATCH)
        assert verdict.why == ("Not tracked: user Anna <anna@acme.test> tracks no email messages.",)
    else:
        assert (verdict.accept, verdict.reason) == (True, Reason.CORRELATION_MATCH)
        assert (verdict.correlation, verdict.correlated) == (Correlation.IN_REPLY_TO, parent.id)
        assert verdict.regarding == parent.regarding


# -- the words


def test_the_words_of_a_first_mail_to_a_queue() -> None:
    asked = queue("help", makes_cases=True)
    verdict = judged(evidence([asked.address], subject="It is broken"), facts(asked, sender=[record("contact")]))
    assert verdict.why == (
        "Accepted: queue Help <help@acme.test> takes all email messages.",
        "Sender bob@customer.test is contact Bob.",
        "It starts a conversation: it names no earlier message.",
        'A new case is made by the rule of its queue: "It is broken".',
    )


def test_the_words_of_a_reply_and_of_an_unknown_sender() -> None:
    asked = user("anna")
    parent = sent("asked@acme.test", regarding=record("incident", "The case"))
    message = evidence([asked.address], in_reply_to=("asked@acme.test",))
    verdict = judged(message, facts(asked, by_message_id={"asked@acme.test": parent}))
    assert verdict.why == (
        "Accepted: user Anna <anna@acme.test> tracks replies, and it answers <asked@acme.test>, named in In-Reply-To.",
        "Sender bob@customer.test matches no record and is kept as an address.",
        "It belongs to an earlier conversation: it answers <asked@acme.test>, named in In-Reply-To and is filed "
        "regarding case The case.",
    )


def test_the_words_of_a_known_sender() -> None:
    asked = user("anna", CUSTOMERS)
    verdict = judged(evidence([asked.address]), facts(asked, sender=[record("lead", "Bob Lee")]))
    assert verdict.why[0] == (
        "Accepted: user Anna <anna@acme.test> tracks mail from leads, contacts and accounts, and the sender is "
        "lead Bob Lee."
    )


def test_the_words_when_nobody_accepts_name_each_who_was_asked() -> None:
    anna, carl, eve = user("anna"), user("carl", CUSTOMERS), user("eve", ENABLED)
    message = evidence([anna.address, carl.address, eve.address], in_reply_to=("gone@acme.test",))
    verdict = judged(message, facts(anna, carl, eve))
    assert verdict.why == (
        "Not tracked: user Anna <anna@acme.test> tracks only replies to CRM email, and this message answers none: "
        "<gone@acme.test> is not known here.",
        "Not tracked: user Carl <carl@acme.test> tracks mail from leads, contacts and accounts, and bob@customer.test "
        "is no record of this CRM.",
        "Not tracked: user Eve <eve@acme.test> tracks mail from records that are email enabled, and bob@customer.test "
        "is no record of this CRM.",
    )


# -- who is asked


def test_any_recipient_that_accepts_is_enough_and_is_the_accepting_one() -> None:
    anna, carl, help_ = user("anna", NONE), user("carl"), queue("help")
    message = evidence([anna.address], cc=[carl.address], bcc=[help_.address], receiving=anna.address)
    verdict = judged(message, facts(anna, carl, help_))
    assert (verdict.reason, verdict.accepting, verdict.queues) == (Reason.ACCEPT_ALL, help_.id, (help_.id,))


def test_each_accepting_queue_gets_an_item_and_the_others_none() -> None:
    help_, sales, orders = queue("help"), queue("sales", RESPONSE), queue("orders")
    message = evidence([orders.address, sales.address, help_.address])
    verdict = judged(message, facts(help_, sales, orders))
    assert verdict.accepting == orders.id
    assert verdict.queues == (orders.id, help_.id)


def test_one_address_may_be_a_user_and_a_queue() -> None:
    anna, desk = user("anna", NONE), queue("anna")
    verdict = judged(evidence([anna.address]), facts(receivers={anna.address: (anna, desk)}))
    assert verdict.queues == (desk.id,)


def test_only_the_mailbox_that_was_read_counts_where_the_organization_says_so() -> None:
    anna, help_ = user("anna", NONE), queue("help")
    message = evidence([anna.address, help_.address], receiving=anna.address)
    verdict = judged(message, facts(anna, help_), only_receiving_filter=True)
    assert (verdict.accept, verdict.reason) == (False, Reason.NO_CORRELATION_MATCH)
    verdict = judged(replace(message, receiving=help_.address), facts(anna, help_), only_receiving_filter=True)
    assert verdict.accepting == help_.id


@pytest.mark.parametrize(
    ("option", "reason"),
    [(ALL, Reason.ACCEPT_ALL), (RESPONSE, Reason.NO_RECIPIENT_MATCH), (CUSTOMERS, Reason.NO_RECIPIENT_MATCH)],
)
def test_a_mailbox_reached_by_bcc_or_a_list_counts_only_when_it_takes_everything(
    option: FilterOption, reason: Reason
) -> None:
    anna = user("anna", option)
    message = evidence(["list@elsewhere.test"], receiving=anna.address)
    verdict = judged(message, facts(anna, sender=[record("contact")]))
    assert verdict.reason is reason
    if not verdict.accept:
        assert verdict.why == (
            "Not tracked: the mailbox was reached by Bcc, an alias or a list, and does not take all email messages.",
        )


def test_no_recipient_is_anybody_here() -> None:
    verdict = judged(evidence(["x@elsewhere.test"]), facts())
    assert (verdict.accept, verdict.reason) == (False, Reason.NO_RECIPIENT_MATCH)
    assert verdict.why == ("Not tracked: no recipient is a user or queue whose mail this router tracks.",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"enabled": False}, "user Anna <anna@acme.test> is disabled."),
        (
            {"incoming": AccessMethod.NONE},
            "user Anna <anna@acme.test> does not receive through the router (incoming access method NONE).",
        ),
        (
            {"incoming": AccessMethod.OUTLOOK},
            "user Anna <anna@acme.test> does not receive through the router (incoming access method OUTLOOK).",
        ),
        ({"approval": Approval.PENDING}, "The address of user Anna <anna@acme.test> is not approved (pending)."),
        ({"approval": Approval.REJECTED}, "The address of user Anna <anna@acme.test> is not approved (rejected)."),
        ({"approval": Approval.EMPTY}, "The address of user Anna <anna@acme.test> is not approved (empty)."),
    ],
)
def test_whose_mail_is_not_tracked_at_all(changes: dict[str, object], words: str) -> None:
    anna = user("anna", ALL, **changes)
    verdict = judged(evidence([anna.address]), facts(anna))
    assert verdict.reason is Reason.NO_RECIPIENT_MATCH
    assert verdict.why[1:] == (words,)


@pytest.mark.parametrize("access", [AccessMethod.ROUTER, AccessMethod.FORWARD_MAILBOX])
def test_both_ways_through_the_router_are_tracked(access: AccessMethod) -> None:
    anna = user("anna", ALL, incoming=access)
    assert judged(evidence([anna.address]), facts(anna)).accept


@pytest.mark.parametrize("kind", ["user", "queue"])
@pytest.mark.parametrize("approval", Approval)
@pytest.mark.parametrize("wanted", [True, False])
def test_approval_counts_for_users_and_for_queues_apart(kind: str, approval: Approval, wanted: bool) -> None:
    asked = (user if kind == "user" else queue)("help", ALL, approval=approval)
    settings = {
        "approved_users_only": wanted if kind == "user" else not wanted,
        "approved_queues_only": wanted if kind == "queue" else not wanted,
    }
    assert judged(evidence([asked.address]), facts(asked), **settings).accept is (
        approval is Approval.APPROVED or not wanted
    )


# -- what is refused before anybody is asked


def test_a_message_without_a_sender() -> None:
    help_ = queue("help")
    verdict = judged(evidence([help_.address], sender=""), facts(help_))
    assert (verdict.accept, verdict.reason) == (False, Reason.INVALID_SENDER)
    assert verdict.why == ("Not tracked: the message names no valid sender (From).",)


def test_a_duplicate_names_the_activity_that_stands_and_when_it_was_filed() -> None:
    help_ = queue("help")
    filed = sent("x@customer.test", regarding=record("incident"), created=NOW.astimezone(timezone(timedelta(hours=9))))
    verdict = judged(evidence([help_.address]), facts(help_, duplicate=filed))
    assert (verdict.accept, verdict.reason, verdict.is_duplicate) == (False, Reason.DUPLICATE, True)
    assert (verdict.activity, verdict.regarding) == (filed.id, filed.regarding)
    assert verdict.correlation is Correlation.SKIPPED
    assert verdict.why == (
        "Already tracked: the same message was filed on 2026-11-23 10:00 UTC; this mailbox is added to it.",
    )


@pytest.mark.parametrize(
    ("writer", "to", "as_two", "reason"),
    [
        ("user", "user", True, Reason.ACCEPT_ALL),
        ("user", "user", False, Reason.INTERNAL_EMAIL_REJECT),
        ("user", "queue", False, Reason.ACCEPT_ALL),
        ("queue", "user", False, Reason.ACCEPT_ALL),
        ("customer", "user", False, Reason.ACCEPT_ALL),
    ],
)
def test_mail_between_users_is_tracked_once_where_the_organization_says_so(
    writer: str, to: str, as_two: bool, reason: Reason
) -> None:
    carl = queue("carl") if writer == "queue" else user("carl")
    asked = queue("help") if to == "queue" else user("anna", ALL)
    message = evidence([asked.address], sender=BOB if writer == "customer" else carl.address)
    verdict = judged(message, facts(carl, asked), track_internal_as_two=as_two)
    assert verdict.reason is reason
    if reason is Reason.INTERNAL_EMAIL_REJECT:
        assert not verdict.accept
        assert verdict.why == (
            "Not tracked: sender and receivers are users of this CRM, and mail between users is tracked once, as sent.",
        )


# -- what becomes of it: owner, cases


def test_the_owner_is_who_owns_the_correlated_email_if_he_is_a_candidate() -> None:
    anna, carl = user("anna", ALL), user("carl", ALL)
    parent = sent("asked@acme.test", owner=carl.id)
    message = evidence([anna.address, carl.address], in_reply_to=("asked@acme.test",))
    verdict = judged(message, facts(anna, carl, by_message_id={"asked@acme.test": parent}))
    assert (verdict.owner, verdict.accepting) == (carl.id, anna.id)


def test_else_who_owns_the_senders_record_else_the_first() -> None:
    anna, carl = user("anna", ALL), user("carl", ALL)
    message = evidence([anna.address, carl.address])
    assert judged(message, facts(anna, carl, sender=[record("contact", owner=carl.id)])).owner == carl.id
    assert judged(message, facts(anna, carl, sender=[record("contact", owner=new_id())])).owner == anna.id
    assert judged(message, facts(anna, carl)).owner == anna.id


def test_mail_of_a_queue_belongs_to_the_queues_owner_if_it_has_one() -> None:
    boss = new_id()
    owned, nobodys = queue("help", owner=boss), queue("desk")
    assert judged(evidence([owned.address]), facts(owned)).owner == boss
    assert judged(evidence([nobodys.address]), facts(nobodys)).owner is None


def test_a_queue_makes_a_case_with_its_owner_title_and_priority() -> None:
    boss, bob = new_id(), record("contact", "Bob")
    asked = queue("help", makes_cases=True, owner=boss, case_title="[{sender}] {subject}", case_priority=1)
    verdict = judged(evidence([asked.address], subject="Broken"), facts(asked, sender=[bob]))
    case = verdict.new_case
    assert case is not None
    assert (case.title, case.queue, case.owner, case.priority) == (f"[{BOB}] Broken", asked.id, boss, 1)
    assert case.customer == bob
    assert verdict.regarding is not None
    assert (verdict.regarding.type, verdict.regarding.id, verdict.regarding.name) == ("incident", case.id, case.title)


@pytest.mark.parametrize(
    ("kind", "customer"), [("account", True), ("contact", True), ("lead", False), ("systemuser", False), ("", False)]
)
def test_the_customer_of_a_case_is_a_contact_or_an_account(kind: str, customer: bool) -> None:
    asked = queue("help", makes_cases=True)
    known = [record(kind)] if kind else []
    case = judged(evidence([asked.address]), facts(asked, sender=known)).new_case
    assert case is not None
    assert case.customer == (known[0] if customer else None)


def test_a_case_without_a_subject_has_a_title_and_a_long_one_is_cut() -> None:
    asked = queue("help", makes_cases=True)
    for subject, title in (("", f"Email from {BOB}"), ("   ", f"Email from {BOB}"), ("x" * 300, "x" * 200)):
        case = judged(evidence([asked.address], subject=subject), facts(asked)).new_case
        assert case is not None
        assert case.title == title


def test_no_case_for_mail_that_belongs_to_a_record_or_to_a_queue_without_the_rule() -> None:
    makes, plain = queue("help", makes_cases=True), queue("desk")
    parent = sent("asked@acme.test", regarding=record("opportunity"))
    reply = evidence([makes.address], in_reply_to=("asked@acme.test",))
    verdict = judged(reply, facts(makes, by_message_id={"asked@acme.test": parent}))
    assert (verdict.new_case, verdict.regarding) == (None, parent.regarding)
    assert judged(evidence([plain.address]), facts(plain)).new_case is None


def test_a_reply_into_a_conversation_without_a_record_makes_the_case_that_is_missing() -> None:
    asked = queue("help", makes_cases=True)
    parent = sent("asked@acme.test")
    reply = evidence([asked.address], in_reply_to=("asked@acme.test",))
    verdict = judged(reply, facts(asked, by_message_id={"asked@acme.test": parent}))
    assert verdict.correlated == parent.id
    assert verdict.new_case is not None


def test_a_case_is_made_by_the_first_accepting_queue_that_makes_cases() -> None:
    plain, first, second = queue("plain"), queue("first", makes_cases=True), queue("second", makes_cases=True)
    message = evidence([plain.address, first.address, second.address])
    case = judged(message, facts(plain, first, second)).new_case
    assert case is not None
    assert case.queue == first.id


def test_judging_is_the_same_each_time() -> None:
    asked = queue("help", makes_cases=True)
    message, known = evidence([asked.address]), facts(asked, sender=[record("contact")])
    one, two = (decide(message, known, TrackingSettings(), lambda: asked.id) for _ in range(2))
    assert one == two
