"""The key bundle and what is in it. docs/formats.md describes the formats.

`patch` is the access key of one file. `clkey` reads the `.clkey` file, `clkey_write` makes it. `content_keys` derives
the keys that open it. `keystore` holds the publisher's keys. `jose` and `strict_json` are the few JOSE forms and the
JSON rules that this package shares with `licensing`. Nothing here imports `artifacts`, `locking` or `runtime`.
"""
