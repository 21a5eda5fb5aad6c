"""Run by the interpreter that has OpenMetadata's client: list services with a token that it reads in Azure Key Vault.

Arguments: address of the server, the reference to the token. The environment has what the client's loader reads.
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
from metadata.generated.schema.security.secrets.secretsManagerClientLoader import (  # noqa: E402
    SecretsManagerClientLoader,
)
from metadata.generated.schema.security.secrets.secretsManagerProvider import SecretsManagerProvider  # noqa: E402
from metadata.ingestion.ometa.ometa_api import OpenMetadata  # noqa: E402


def main(server, reference):
    connection = OpenMetadataConnection(
        hostPort=f"{server}/api",
        authProvider=AuthProvider.openmetadata,
        secretsManagerProvider=SecretsManagerProvider.managed_azure_kv,
        secretsManagerLoader=SecretsManagerClientLoader.env,
        securityConfig=OpenMetadataJWTClientConfig(jwtToken=reference),
    )
    told = {"error": None, "text": ""}
    try:
        OpenMetadata(connection).list_entities(entity=DatabaseService, limit=10)
    except Exception as error:  # noqa: BLE001 - whatever the client raises is what the test is about
        told = {"error": type(error).__name__, "text": str(error)}
    sys.stdout.write(f"{json.dumps(told)}\n")


main(*sys.argv[1:])
