"""The border to aiohttp, shared by both planes: view in, answer out, errors caught."""
