"""Run by the interpreter that has DataHub's client: connect, emit, read; each outcome as one line of JSON.

Arguments: address of the server, token (or ``-``: the system client's credential from the environment).
"""

import json
import sys

from datahub.emitter.mcp import MetadataChangeProposalWrapper
from datahub.emitter.rest_emitter import DatahubRestEmitter
from datahub.metadata.schema_classes import DatasetPropertiesClass

URN = "urn:li:dataset:(urn:li:dataPlatform:hive,a.b/c d,PROD)"


def outcome(work):
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever the client raises is what the test is about
        return {"error": type(error).__name__, "text": str(error)}
    return {"error": None, "text": ""}


def main(server, token):
    emitter = DatahubRestEmitter(server, token=None if token == "-" else token, retry_max_times=1)
    proposal = MetadataChangeProposalWrapper(entityUrn=URN, aspect=DatasetPropertiesClass(description="d"))
    told = {"connect": outcome(emitter.test_connection), "emit": outcome(lambda: emitter.emit(proposal))}
    sys.stdout.write(f"{json.dumps(told)}\n")


main(*sys.argv[1:])
