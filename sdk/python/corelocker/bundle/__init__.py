"""The key bundle and what is in it.

Owns the patch (`patch`), the `.clkey` file (`clkey`), the content keys that open it (`content_keys`), the publisher's
keystore (`keystore`) and the few JOSE forms that they and `licensing` share (`jose`). docs/formats.md
describes the formats.
Imports nothing of `artifacts`, `locking` or `runtime`.
"""
