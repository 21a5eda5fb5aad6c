"""The JSON API on the public listener, below the reserved prefix.

``routes`` maps paths and methods to handlers. Every handler has the signature ``(request, caller, rest)``; ``rest`` is
the last path segment where a path ends in an id.
"""
