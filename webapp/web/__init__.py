"""What both faces share: the gate, error handling, headers, health checks, streaming, counts of requests.

`setup.py` starts them.

Nothing here knows the console or the API; each registers itself as a face (`faces.py`). Commands use `serializers.py`,
so this file imports nothing.
"""
