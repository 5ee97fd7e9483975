"""The ClientApp: answers of a client and of the key authority, by the role of the node it runs on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from mosaic_secure import __version__
from mosaic_secure.client import answers, masking
from mosaic_secure.client.authority import AuthorityHome
from mosaic_secure.client.own_data import Places
from mosaic_secure.client.session import ClientHome, Session
from mosaic_secure.client.withdrawal import Withdrawn, has_left
from mosaic_secure.protocol import messages
from mosaic_secure.protocol.codec import from_flower, reply_to
from mosaic_secure.protocol.failures import hide_failures, note_failure
from mosaic_secure.protocol.fields import Message as ProtocolMessage
from privacy.errors import PrivacyError

app = ClientApp(mods=[hide_failures])

R = TypeVar("R", bound=ProtocolMessage)


class WrongRole(ValueError):
    """A message came to a node whose role does not answer it."""


def _answer(
    request: Message, context: Context, cls: type[R], give: Callable[[R], ProtocolMessage]
) -> Message:
    """Decode, answer, encode. What policy, ledger or plan refuse becomes a reply with a fixed code."""
    asked = from_flower(cls, request)
    if context.node_config.get("role") not in cls.receivers:
        raise WrongRole(f"{cls.__name__} is not for this role")
    try:
        answer = give(asked)
    except answers.RECOVERABLE as error:
        note_failure(context.node_config.get("home"), cls.action, error)
        answer = _refusal(cls, answers.refusal_code(error))
    return reply_to(request, answer)


def _refusal(cls: type[ProtocolMessage], code: str) -> ProtocolMessage:
    reply = cls.reply
    if reply is messages.EnrolReply:
        return messages.EnrolReply(
            accepted=False, code=code, ledger_sequence=0, ledger_digest="", ledger_signature=b""
        )
    if reply is messages.AuthorityKey:
        return messages.AuthorityKey(code=code, key_id="", public_context=b"", signature=b"")
    return reply(code=code)


def _home(context: Context) -> ClientHome:
    return ClientHome(Path(str(context.node_config["home"])), str(context.node_config["party"]))


def _of_run(
    request: Message,
    context: Context,
    cls: type[R],
    answer: Callable[[Session, R], ProtocolMessage],
) -> Message:
    """What a client answers about a run that it has enrolled in."""

    def give(asked: R) -> ProtocolMessage:
        index, places = int(context.node_config["index"]), Places.of(context.node_config)
        home = _home(context)
        try:
            session = Session(home, asked.run_id, index, places)
            made = answer(session, asked)
            session.check_allowed()  # its owner may have withdrawn, or changed the rules, while it was made
        except Withdrawn:
            if has_left(home.path, asked.run_id):
                with suppress(PrivacyError):  # the reply is the one word, whatever becomes of it
                    home.end(asked.run_id)
            raise
        return made

    return _answer(request, context, cls, give)


def _authority(context: Context) -> AuthorityHome:
    return AuthorityHome(Path(str(context.node_config["home"])))


@app.query("hello")
def hello(request: Message, context: Context) -> Message:
    """Say who answers here."""

    def give(_: messages.HelloRequest) -> messages.HelloReply:
        config: Any = context.node_config
        key = _authority(context).key if config["role"] == "authority" else _home(context).key
        return messages.HelloReply(
            role=str(config["role"]), party=str(config["party"]), version=__version__, identity=key.public
        )

    return _answer(request, context, messages.HelloRequest, give)


@app.query("enrol")
def enrol(request: Message, context: Context) -> Message:
    """Accept or refuse a run."""
    return _answer(
        request,
        context,
        messages.EnrolRequest,
        lambda asked: answers.enrolled(_home(context), asked, Places.of(context.node_config)),
    )


@app.train("prototypes")
def prototypes(request: Message, context: Context) -> Message:
    """One encrypted round."""
    return _of_run(request, context, messages.PrototypeRequest, answers.prototypes)


@app.query("mask_shares")
def mask_shares(request: Message, context: Context) -> Message:
    """Deal shares of mask secrets."""
    return _of_run(request, context, messages.MaskSharesRequest, masking.dealt)


@app.query("mask_view")
def mask_view(request: Message, context: Context) -> Message:
    """Keep the shares of others, and sign who takes part in the masks."""
    return _of_run(request, context, messages.MaskViewRequest, masking.viewed)


@app.query("unmask")
def unmask(request: Message, context: Context) -> Message:
    """Give the shares that take the masks off one sum."""
    return _of_run(request, context, messages.UnmaskRequest, masking.unmasked)


@app.train("local_training")
def local_training(request: Message, context: Context) -> Message:
    """Classifier and generator."""
    return _of_run(request, context, messages.LocalTrainingRequest, answers.trained)


@app.train("fine_tune")
def fine_tune(request: Message, context: Context) -> Message:
    """One private round from the global model."""
    return _of_run(request, context, messages.FineTuneRequest, answers.fine_tuned)


@app.query("seal")
def seal(request: Message, context: Context) -> Message:
    """Keep an anchor, or end the run."""
    return _of_run(request, context, messages.SealRequest, answers.sealed)


@app.query("authority_open")
def authority_open(request: Message, context: Context) -> Message:
    """Open a run at the key authority."""
    return _answer(request, context, messages.AuthorityOpen, lambda asked: _authority(context).open(asked))


@app.query("contribute")
def contribute(request: Message, context: Context) -> Message:
    """Set aside some signed contributions of a round."""
    return _answer(
        request, context, messages.ContributeRequest, lambda asked: _authority(context).contribute(asked)
    )


@app.query("decrypt")
def decrypt(request: Message, context: Context) -> Message:
    """Add the contributions of a round and decrypt their sum."""
    return _answer(
        request, context, messages.DecryptRequest, lambda asked: _authority(context).decrypt(asked)
    )


@app.query("anchor")
def anchor(request: Message, context: Context) -> Message:
    """Counter-sign ledger heads."""
    return _answer(request, context, messages.AnchorRequest, lambda asked: _authority(context).anchor(asked))


@app.query("authority_close")
def authority_close(request: Message, context: Context) -> Message:
    """Destroy the key of a run."""
    return _answer(request, context, messages.AuthorityClose, lambda asked: _authority(context).close(asked))
