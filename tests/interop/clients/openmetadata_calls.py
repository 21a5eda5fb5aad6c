"""Run by the interpreter that has OpenMetadata's client: connect, list, delete; each outcome as one line of JSON.

Arguments: address of the server, token.
"""

import json
import sys
import warnings

warnings.simplefilter("ignore")

from metadata.generated.schema.entity.services.connections.metadata.openMetadataConnection import (  # noqa: E402 - after the filter
    AuthProvider,
    OpenMetadataConnection,
)
from metadata.generated.schema.entity.services.databaseService import DatabaseService  # noqa: E402
from metadata.generated.schema.security.client.openMetadataJWTClientConfig import (  # noqa: E402
    OpenMetadataJWTClientConfig,
)
from metadata.ingestion.ometa.ometa_api import OpenMetadata  # noqa: E402

ID = "00000000-0000-4000-8000-000000000001"


def outcome(work):
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever the client raises is what the test is about
        return {"error": type(error).__name__, "text": str(error)}
    return {"error": None, "text": ""}


def main(server, token):
    connection = OpenMetadataConnection(
        hostPort=f"{server}/api",
        authProvider=AuthProvider.openmetadata,
        securityConfig=OpenMetadataJWTClientConfig(jwtToken=token),
    )
    client = OpenMetadata(connection)
    told = {
        "connect": outcome(client.health_check),
        "list": outcome(lambda: client.list_entities(entity=DatabaseService, limit=10)),
        "delete": outcome(lambda: client.delete(entity=DatabaseService, entity_id=ID)),
    }
    sys.stdout.write(f"{json.dumps(told)}\n")


main(*sys.argv[1:])
