"""A small ClientApp to test the engines with: every handler does one thing that engines must get right."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from mosaic_secure.protocol.codec import reply_to
from mosaic_secure.protocol.messages import HelloReply

app = ClientApp()


def answer(request: Message, **values: object) -> Message:
    return Message(RecordDict({"answer": ConfigRecord(values)}), reply_to=request)


def asked(request: Message) -> ConfigRecord:
    return request.content["question"]


@app.query("echo")
def echo(request: Message, context: Context) -> Message:
    return answer(
        request,
        text=asked(request)["text"],
        party=context.node_config["party"],
        run=str(context.run_config.get("name", "")),
        pid=os.getpid(),
        node=context.node_id,
    )


@app.train("local_training")
def bounce(request: Message, context: Context) -> Message:
    return Message(request.content, reply_to=request)


@app.query("count")
def count(request: Message, context: Context) -> Message:
    past = context.state["count"]["value"] if "count" in context.state else 0
    context.state["count"] = ConfigRecord({"value": past + 1})
    if asked(request).get("fail"):
        raise RuntimeError("the secret number is 4711")
    return answer(request, value=past + 1)


@app.query("nap")
def nap(request: Message, context: Context) -> Message:
    started = time.monotonic()
    time.sleep(asked(request)["seconds"])
    return answer(request, started=started, ended=time.monotonic(), pid=os.getpid())


@app.query("die")
def die(request: Message, context: Context) -> Message:
    os._exit(9)


@app.query("leave")
def leave(request: Message, context: Context) -> Message:
    raise SystemExit("the secret number is 4711")


@app.query("mark")
def mark(request: Message, context: Context) -> Message:
    """Write a file once started, then sleep far beyond any test."""
    Path(asked(request)["path"]).write_text(str(os.getpid()))
    time.sleep(600)
    return answer(request)


@app.query("draw")
def draw(request: Message, context: Context) -> Message:
    import numpy as np

    time.sleep(0.2)
    return answer(request, number=int(np.random.randint(2**31)), pid=os.getpid())


@app.query("hello")
def hello(request: Message, context: Context) -> Message:
    if context.node_config["party"] == "broken":
        raise RuntimeError("broken")
    role, party = str(context.node_config["role"]), str(context.node_config["party"])
    return reply_to(request, HelloReply(role=role, party=party, version="1", identity=b"k" * 32))
