"""TLS towards others: whose certificates are trusted."""

import ssl


def client_context(ca_file: str = "") -> ssl.SSLContext:
    """Verifies certificates and names by the CAs in ``ca_file`` (PEM, instead of the system's); empty: by the system's.

    Raises OSError (ssl.SSLError is one) or ValueError for a file that cannot be used.
    """
    context = ssl.create_default_context(cafile=ca_file or None)
    if ca_file:  # from Python 3.13 on key identifiers are asked for, which private CAs such as clusters' may not have
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
