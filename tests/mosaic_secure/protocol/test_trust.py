from __future__ import annotations

import pytest

from mosaic_secure.protocol.fields import (
    Arrays,
    Message,
    ciphertext,
    control,
    decrypted_sum,
    dp_release,
    field_specs,
    mask_share,
    message,
    sealed,
)
from mosaic_secure.protocol.messages import MESSAGES, REQUESTS, DecryptReply, LocalTrainingReply
from mosaic_secure.protocol.trust import FLOWS, TRUST_MAP, TrustError, check_flow, trust_table


def test_every_declared_message_fits_the_trust_map():
    for cls in MESSAGES.values():
        for sender in cls.senders:
            for receiver in cls.receivers:
                check_flow(sender, receiver, cls)


def test_a_reply_goes_back_the_way_its_request_came():
    for request in REQUESTS:
        assert request.reply is not None
        assert request.reply.senders == request.receivers
        assert request.reply.receivers == request.senders
        assert request.reply.action == request.action


def test_the_authority_sees_no_weights_and_no_client_sees_another_ones_contribution():
    assert TRUST_MAP["authority"] == {"control", "ciphertext", "signature"}
    assert TRUST_MAP["client"] == {"control", "public", "signature", "sealed"}
    assert {pair for pair, classes in FLOWS.items() if "share" in classes} == {("client", "server")}
    assert ("client", "authority") not in FLOWS and ("client", "client") not in FLOWS


@pytest.mark.parametrize(("sender", "receiver"), [("client", "authority"), ("client", "client")])
def test_a_message_to_the_wrong_role_is_refused(sender, receiver):
    with pytest.raises(TrustError, match="LocalTrainingReply"):
        check_flow(sender, receiver, LocalTrainingReply(code="ok"))


def test_only_the_authority_sends_sums():
    with pytest.raises(TrustError, match="DecryptReply"):
        check_flow("client", "server", DecryptReply(code="ok"))


@pytest.mark.parametrize(
    ("make", "sender", "receiver"),
    [
        (dp_release, "server", "authority"),
        (dp_release, "server", "client"),
        (ciphertext, "server", "client"),
        (decrypted_sum, "server", "client"),
        (decrypted_sum, "server", "authority"),
        (dp_release, "authority", "server"),
        (mask_share, "server", "client"),
        (mask_share, "server", "authority"),
        (sealed, "server", "authority"),
    ],
)
def test_a_field_of_a_forbidden_class_is_refused_even_when_the_message_declares_the_route(
    make, sender, receiver
):
    @message("query.leak", sender=sender, receiver=receiver)
    class Leak(Message):
        code: str = control()
        arrays: Arrays = make()

    with pytest.raises(TrustError, match="Leak.arrays"):
        check_flow(sender, receiver, Leak)


def test_the_table_for_reports_tells_of_masks_where_there_are_any():
    told = {
        masked: " ".join(text for row in trust_table(True, masked)["roles"] for text in row["receives"])
        for masked in (False, True)
    }
    assert "mask" in told[True] and "mask" not in told[False]


def test_the_table_for_reports_covers_every_field():
    table = trust_table()
    assert [row["role"] for row in table["roles"]] == ["server", "client", "authority"]
    assert len(table["fields"]) == sum(len(field_specs(cls)) for cls in MESSAGES.values())
