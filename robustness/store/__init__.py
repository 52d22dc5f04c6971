"""Files that many processes share: measured numbers, remembered facts, documents of users.

Content-addressed, written atomically and bounded; what the numbers mean is known above.
Torch-free.
"""
