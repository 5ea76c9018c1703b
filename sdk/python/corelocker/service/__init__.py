"""The unlock service verifies a device and a purchase, and releases a content key as a license.

`config` is what an operator writes, and `checks` says what keeps the service from starting. `core.UnlockService`
decides. `storage` keeps what must survive. `keys` gives the content keys and signs. `verifiers` are the policies of
the configured apps. `http` has the routes; every request passes `edge` and `connections`. `run`, `supervisor` and
`worker` are the processes. `admin` is for the operator's commands. The core is synchronous and thread-safe and knows
nothing of HTTP. Each decision is one database transaction (`storage`), which makes it safe against races and crashes.
"""
