"""The pages that people see: sign-in, account, tokens, sessions, administration. Needs the extra ``pages``.

A page has no rights of its own: it calls the services of the API as the person whose session the browser has.
"""
