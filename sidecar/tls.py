"""TLS for outgoing connections: which certificates are trusted."""

import ssl


def client_context(ca_file: str = "") -> ssl.SSLContext:
    """A context that verifies certificates and host names with the CAs in ``ca_file`` (PEM); empty: the system's CAs.

    Raises OSError (ssl.SSLError is one) or ValueError for a file that cannot be used.
    """
    context = ssl.create_default_context(cafile=ca_file or None)
    if ca_file:  # Python 3.13 requires key identifiers, which private CAs (such as those of clusters) may lack
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
