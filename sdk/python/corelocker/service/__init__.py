"""The unlock service: verifies a device and a purchase, and releases a content key as a license.

`config` is what an operator writes and `checks` what keeps it from starting, `core.UnlockService` decides, `storage`
keeps what must survive, `keys` gives the content keys and signs, `verifiers` are the policies of the configured apps;
`http` has the routes, `edge` and `connections` what every request passes, `run`, `supervisor` and `worker` the processes;
`admin` is for the operator's commands. The core is synchronous and thread-safe and knows nothing of HTTP.
What makes it safe in the face of races and crashes is one database transaction for each decision (`storage`).
"""
