"""Every message of a run. One class a message; each field says which class of information it carries.

Clients and the key authority only ever answer the server: it sends a request, and its reply comes back.
``code`` is one word of a fixed vocabulary, decided from policy and ledger alone, never from records.
Fields whose names end in ``_json`` hold canonical JSON.
"""

from __future__ import annotations

from collections.abc import Mapping

from mosaic_secure.protocol.fields import (
    Arrays,
    Message,
    ciphertext,
    control,
    decrypted_sum,
    dp_release,
    mask_share,
    message,
    public,
    sealed,
    signed,
)

CODES = ("ok", "refused", "policy", "budget", "ledger", "conflict", "withdrawn", "failed")


@message("query.hello", sender=("client", "authority"), receiver="server")
class HelloReply(Message):
    """Who answers at this node: its role, its party id and its public identity key (32 bytes, Ed25519)."""

    role: str = control()
    party: str = control()
    version: str = control()
    identity: bytes = public()


@message("query.hello", sender="server", receiver=("client", "authority"), reply=HelloReply)
class HelloRequest(Message):
    """Asks a node who it is."""

    version: str = control()


@message("query.enrol", sender="client", receiver="server")
class EnrolReply(Message):
    """A client's answer to the plan, with the head of its ledger after enrolment.

    Where contributions are masked it brings the client's public keys of the run, and their signature.
    """

    accepted: bool = control()
    code: str = control()
    ledger_sequence: int = signed()
    ledger_digest: str = signed()
    ledger_signature: bytes = signed()
    mask_keys_json: str = public(default="")
    mask_keys_signature: bytes = signed(default=b"")


@message("query.enrol", sender="server", receiver="client", reply=EnrolReply)
class EnrolRequest(Message):
    """The whole plan of a run: configuration, releases with their budget, and the roster of public keys."""

    run_id: str = control()
    config_json: str = control()
    plan_json: str = control()
    roster_json: str = control()


@message("query.authority_open", sender="authority", receiver="server")
class AuthorityKey(Message):
    """The public CKKS context of a run, signed by the key authority."""

    code: str = control()
    key_id: str = control()
    public_context: bytes = public()
    signature: bytes = signed()


@message("query.authority_open", sender="server", receiver="authority", reply=AuthorityKey)
class AuthorityOpen(Message):
    """Asks the key authority for the key of a run, and fixes its rounds, lengths and roster.

    ``agreement`` is a hash of configuration and budget; the authority signs all of these with the key, and
    clients compare it with their own.
    """

    run_id: str = control()
    agreement: str = control()
    rounds_json: str = control()
    min_contributors: int = control()
    roster_json: str = control()
    parameters_json: str = control()


@message("train.prototypes", sender="client", receiver="server")
class PrototypeReply(Message):
    """Noised class counts (first round; later rounds send none) and one signed, encrypted contribution."""

    code: str = control()
    counts: Arrays = dp_release(default_factory=dict)
    contribution: bytes = ciphertext(default=b"")


@message("train.prototypes", sender="server", receiver="client", reply=PrototypeReply)
class PrototypeRequest(Message):
    """Asks for one prototype round. ``broadcast`` holds what earlier decrypted sums led to.

    Where contributions are masked, ``view_signatures`` are those of clients (``view_signers``) that have
    signed who takes part in the masks.
    """

    run_id: str = control()
    round_id: str = control()
    key_id: str = control()
    public_context: bytes = public()
    context_signature: bytes = signed()
    broadcast: Arrays = public(default_factory=dict)
    view_signers: list[str] = control(default_factory=list)
    view_signatures: list[bytes] = signed(default_factory=list)


@message("query.mask_shares", sender="client", receiver="server")
class MaskSharesReply(Message):
    """Shares of a client's mask secrets of all rounds, one sealed box for each of ``receivers``."""

    code: str = control()
    receivers: list[str] = control(default_factory=list)
    boxes: list[bytes] = sealed(default_factory=list)


@message("query.mask_shares", sender="server", receiver="client", reply=MaskSharesReply)
class MaskSharesRequest(Message):
    """The signed public keys of all clients that offered any; asks each to deal shares to the others."""

    run_id: str = control()
    keys_json: list[str] = public()
    signatures: list[bytes] = signed()


@message("query.mask_view", sender="client", receiver="server")
class MaskViewReply(Message):
    """A client's signature of who takes part in the masks."""

    code: str = control()
    signature: bytes = signed(default=b"")


@message("query.mask_view", sender="server", receiver="client", reply=MaskViewReply)
class MaskViewRequest(Message):
    """Who takes part in the masks: all that dealt shares, and the box that each sealed for this client."""

    run_id: str = control()
    members: list[str] = control()
    boxes: list[bytes] = sealed()


@message("query.unmask", sender="client", receiver="server")
class UnmaskReply(Message):
    """For each member of the masks, in order of their ids, a share of the one secret that this sum needs."""

    code: str = control()
    shares: list[bytes] = mask_share(default_factory=list)


@message("query.unmask", sender="server", receiver="client", reply=UnmaskReply)
class UnmaskRequest(Message):
    """Names the settled contributors of a round, and asks for what takes the masks off their sum."""

    run_id: str = control()
    round_id: str = control()
    contributors: list[str] = control()
    view_signers: list[str] = control()
    view_signatures: list[bytes] = signed()


@message("query.decrypt", sender="authority", receiver="server")
class DecryptReply(Message):
    """The decrypted sum of one round, with who is in it and what was wrong with the others."""

    code: str = control()
    values: Arrays = decrypted_sum(default_factory=dict)
    contributors: list[str] = control(default_factory=list)
    rejected_json: str = control(default="{}")
    sum_digest: str = signed(default="")
    signature: bytes = signed(default=b"")


@message("query.decrypt", sender="server", receiver="authority", reply=DecryptReply)
class DecryptRequest(Message):
    """Which contributions are the round: the SHA-256 (hex) of each.

    ``brought`` are those of them that no `ContributeRequest` has brought before: all, unless they are many.
    The authority adds them itself; it never accepts a sum.
    """

    run_id: str = control()
    round_id: str = control()
    magnitude_bound: int = control()
    contributions: list[str] = signed()
    brought: list[bytes] = ciphertext(default_factory=list)


@message("query.contribute", sender="authority", receiver="server")
class ContributeReply(Message):
    """The authority holds these contributions until the round is decided."""

    code: str = control()


@message("query.contribute", sender="server", receiver="authority", reply=ContributeReply)
class ContributeRequest(Message):
    """Some of the signed contributions of a round that are too many for its `DecryptRequest`."""

    run_id: str = control()
    round_id: str = control()
    contributions: list[bytes] = ciphertext()


@message("train.local_training", sender="client", receiver="server")
class LocalTrainingReply(Message):
    """DP-trained classifier and, in the last round, generator weights of one client.

    ``counts`` are its noised class counts, where no prototype round has brought them.
    """

    code: str = control()
    counts: Arrays = dp_release(default_factory=dict)
    classifier: Arrays = dp_release(default_factory=dict)
    generator: Arrays = dp_release(default_factory=dict)


@message("train.local_training", sender="server", receiver="client", reply=LocalTrainingReply)
class LocalTrainingRequest(Message):
    """Asks for one round of the local models. ``broadcast`` holds what decrypted sums led to.

    ``weights`` is where the classifier starts: the average of its group after the round before; none in the
    first. The generator is made in the last round.
    """

    run_id: str = control()
    round: int = control()
    broadcast: Arrays = public(default_factory=dict)
    weights: Arrays = public(default_factory=dict)


@message("train.fine_tune", sender="client", receiver="server")
class FineTuneReply(Message):
    """Weights of the global model after one private round on one client.

    ``counts`` are its noised class counts, in the first round of methods that average by them.
    """

    code: str = control()
    counts: Arrays = dp_release(default_factory=dict)
    weights: Arrays = dp_release(default_factory=dict)


@message("train.fine_tune", sender="server", receiver="client", reply=FineTuneReply)
class FineTuneRequest(Message):
    """One private round from the global model as it is."""

    run_id: str = control()
    round: int = control()
    weights: Arrays = public()


@message("query.anchor", sender="authority", receiver="server")
class AnchorReply(Message):
    """Ledger heads, counter-signed by the key authority."""

    code: str = control()
    anchors_json: str = signed(default="{}")


@message("query.anchor", sender="server", receiver="authority", reply=AnchorReply)
class AnchorRequest(Message):
    """Asks the key authority to counter-sign the ledger heads of the clients."""

    run_id: str = control()
    heads_json: str = signed()


@message("query.seal", sender="client", receiver="server")
class SealReply(Message):
    """The signed excerpt of a client's ledger for this run, and the ledger's head."""

    code: str = control()
    excerpt_json: str = signed(default="{}")
    ledger_sequence: int = signed(default=0)
    ledger_digest: str = signed(default="")
    ledger_signature: bytes = signed(default=b"")


@message("query.seal", sender="server", receiver="client", reply=SealReply)
class SealRequest(Message):
    """Brings a client the counter-signed head of its ledger (or ``{}``); ``final`` ends the run there."""

    run_id: str = control()
    final: bool = control()
    anchor_json: str = signed(default="{}")


@message("query.authority_close", sender="authority", receiver="server")
class AuthorityClosed(Message):
    """The secret key of the run is destroyed."""

    code: str = control()


@message("query.authority_close", sender="server", receiver="authority", reply=AuthorityClosed)
class AuthorityClose(Message):
    """Asks the key authority to destroy the key of a run."""

    run_id: str = control()


REQUESTS: tuple[type[Message], ...] = (
    HelloRequest,
    EnrolRequest,
    AuthorityOpen,
    MaskSharesRequest,
    MaskViewRequest,
    PrototypeRequest,
    UnmaskRequest,
    ContributeRequest,
    DecryptRequest,
    LocalTrainingRequest,
    FineTuneRequest,
    AnchorRequest,
    SealRequest,
    AuthorityClose,
)
MESSAGES: Mapping[str, type[Message]] = {
    cls.__name__: cls for request in REQUESTS for cls in (request, request.reply) if cls is not None
}
